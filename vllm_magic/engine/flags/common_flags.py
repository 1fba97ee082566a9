"""The most used flags of ``vllm serve`` (vLLM 0.32), for the time until the table of all flags has been read."""

from __future__ import annotations

from vllm_magic.engine.flags.flag_table import FlagTable, Option


def _switch(name: str, about: str) -> Option:
    return Option((f"--{name}", f"--no-{name}"), "bool", help=about, takes_value=False)


_DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")
_KV_DTYPES = ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")

COMMON = FlagTable(
    "",
    (
        Option(("--api-key",), help="If provided, the server will require this key"),
        Option(("--chat-template",), help="The file of the chat template, or the template in single-line form"),
        Option(("--config",), help="Read options from a YAML file"),
        Option(("--cpu-offload-gb",), "float", default="0", help="The space in GiB to offload to CPU, per GPU"),
        Option(("--data-parallel-size", "-dp"), "int", default="1", help="Number of data parallel groups"),
        Option(("--download-dir",), help="Directory to download and load the weights"),
        Option(("--dtype",), choices=_DTYPES, default="auto", help="Data type for model weights and activations"),
        _switch("enable-auto-tool-choice", "Enable auto tool choice for supported models"),
        _switch("enable-chunked-prefill", "Prefill in chunks, as room in the batch allows"),
        _switch("enable-expert-parallel", "Use expert parallelism instead of tensor parallelism for MoE layers"),
        _switch("enable-lora", "Enable handling of LoRA adapters"),
        _switch("enable-prefix-caching", "Whether to enable prefix caching"),
        _switch("enable-sleep-mode", "Enable sleep mode for the engine"),
        _switch("enforce-eager", "Always use eager-mode PyTorch, no CUDA graphs"),
        Option(
            ("--gpu-memory-utilization",), "float", default="0.92", help="The fraction of GPU memory to be used"
        ),
        Option(("--hf-overrides",), "loads", help="Overrides for the Hugging Face config"),
        Option(("--host",), help="Host name"),
        Option(
            ("--kv-cache-dtype",), choices=_KV_DTYPES, default="auto", help="Data type for kv cache storage"
        ),
        Option(("--load-format",), default="auto", help="The format of the model weights to load"),
        Option(("--lora-modules",), help="LoRA modules, as name=path or JSON"),
        Option(("--max-model-len",), "int", help="Model context length (prompt and output)"),
        Option(("--max-num-batched-tokens",), "int", help="Most tokens to be processed in one iteration"),
        Option(("--max-num-seqs",), "int", help="Most sequences to be processed in one iteration"),
        Option(("--pipeline-parallel-size", "-pp"), "int", default="1", help="Number of pipeline stages"),
        Option(("--quantization", "-q"), help="Method used to quantize the weights"),
        Option(("--reasoning-parser",), help="The reasoning parser of the model"),
        Option(("--revision",), help="The model version: a branch, a tag or a commit"),
        Option(("--runner",), choices=("auto", "draft", "generate", "pooling"), default="auto", help="The type of runner"),
        Option(("--seed",), "int", default="0", help="Random seed for reproducibility"),
        Option(("--served-model-name",), help="The model names used in the API"),
        Option(("--speculative-config",), "loads", help="Speculative decoding configuration"),
        Option(("--tensor-parallel-size", "-tp"), "int", default="1", help="Number of tensor parallel groups"),
        Option(("--tokenizer",), help="Name or path of the tokenizer to use"),
        Option(("--tool-call-parser",), help="The tool call parser of the model"),
        _switch("trust-remote-code", "Trust remote code when downloading the model and tokenizer"),
    ),
)  # fmt: skip
