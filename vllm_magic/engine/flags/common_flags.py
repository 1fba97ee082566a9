"""The most used flags of ``vllm serve`` (vLLM 0.32), for the time until the table of all flags has been read."""

from __future__ import annotations

from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable


def _switch(name: str, about: str) -> FlagOption:
    return FlagOption((f"--{name}", f"--no-{name}"), "bool", help=about, nargs="0")


_DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")
_KV_DTYPES = ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")

COMMON = FlagTable(
    "",
    (
        FlagOption(("--api-key",), help="If provided, the server will require this key"),
        FlagOption(("--chat-template",), help="The file of the chat template, or the template in single-line form"),
        FlagOption(("--config",), help="Read options from a YAML file"),
        FlagOption(("--cpu-offload-gb",), "float", default="0", help="The space in GiB to offload to CPU, per GPU"),
        FlagOption(("--data-parallel-size", "-dp"), "int", default="1", help="Number of data parallel groups"),
        FlagOption(("--download-dir",), help="Directory to download and load the weights"),
        FlagOption(("--dtype",), choices=_DTYPES, default="auto", help="Data type for model weights and activations"),
        _switch("enable-auto-tool-choice", "Enable auto tool choice for supported models"),
        _switch("enable-chunked-prefill", "Prefill in chunks, as room in the batch allows"),
        _switch("enable-expert-parallel", "Use expert parallelism instead of tensor parallelism for MoE layers"),
        _switch("enable-lora", "Enable handling of LoRA adapters"),
        _switch("enable-prefix-caching", "Whether to enable prefix caching"),
        _switch("enable-sleep-mode", "Enable sleep mode for the engine"),
        _switch("enforce-eager", "Always use eager-mode PyTorch, no CUDA graphs"),
        FlagOption(
            ("--gpu-memory-utilization",), "float", default="0.92", help="The fraction of GPU memory to be used"
        ),
        FlagOption(("--hf-overrides",), "loads", help="Overrides for the Hugging Face config"),
        FlagOption(("--host",), help="Host name"),
        FlagOption(
            ("--kv-cache-dtype",), choices=_KV_DTYPES, default="auto", help="Data type for kv cache storage"
        ),
        FlagOption(("--load-format",), default="auto", help="The format of the model weights to load"),
        FlagOption(("--lora-modules",), help="LoRA modules, as name=path or JSON"),
        FlagOption(("--max-model-len",), "int", help="Model context length (prompt and output)"),
        FlagOption(("--max-num-batched-tokens",), "int", help="Most tokens to be processed in one iteration"),
        FlagOption(("--max-num-seqs",), "int", help="Most sequences to be processed in one iteration"),
        FlagOption(("--pipeline-parallel-size", "-pp"), "int", default="1", help="Number of pipeline stages"),
        FlagOption(("--quantization", "-q"), help="Method used to quantize the weights"),
        FlagOption(("--reasoning-parser",), help="The reasoning parser of the model"),
        FlagOption(("--revision",), help="The model version: a branch, a tag or a commit"),
        FlagOption(("--runner",), choices=("auto", "draft", "generate", "pooling"), default="auto", help="The type of runner"),
        FlagOption(("--seed",), "int", default="0", help="Random seed for reproducibility"),
        FlagOption(("--served-model-name",), help="The model names used in the API"),
        FlagOption(("--speculative-config",), "loads", help="Speculative decoding configuration"),
        FlagOption(("--tensor-parallel-size", "-tp"), "int", default="1", help="Number of tensor parallel groups"),
        FlagOption(("--tokenizer",), help="Name or path of the tokenizer to use"),
        FlagOption(("--tool-call-parser",), help="The tool call parser of the model"),
        _switch("trust-remote-code", "Trust remote code when downloading the model and tokenizer"),
    ),
)  # fmt: skip
