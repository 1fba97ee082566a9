"""The flags of other versions of vLLM: the removed flags of vLLM 0.8 to 0.32, and the newer flags with their first version.

The lists come from engine/arg_utils.py and cli_args.py of vLLM 0.15.1, 0.17.1, 0.20.2, 0.24.0, 0.28.0, 0.32.0 and 0.33.0.
Flags that were removed before 0.15 come from no such comparison. The documentation of 0.8.5 has most of them
(https://docs.vllm.ai/en/v0.8.5/serving/engine_args.html).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllm_magic.engine import versions
from vllm_magic.engine.flags.flag_table import plain

if TYPE_CHECKING:
    from collections.abc import Collection

OURS = ("--gpus",)  # the options of vllm_magic that remedies name
_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]+")
_NEEDLESS = "Leave it out: it has had no effect since vLLM's engine V1."
_DRAFT = (
    """Write --speculative-config '{"method": METHOD, "model": DRAFT_MODEL, "num_speculative_tokens": N}'."""
)
_NGRAM = """Write --speculative-config '{"method": "ngram", "num_speculative_tokens": N, "prompt_lookup_max": N}'."""
_NO_PROMPT_ADAPTERS = (
    "Leave it out: vLLM no longer has prompt adapters. Adapters are loaded with --lora-modules."
)
_OF_A_REQUEST = "Set it in each request. For a default, write --override-generation-config '{%s: VALUE}'."
_POOLING = "Write --runner pooling for embeddings, and --convert embed or classify for a generating model."

# The remedy for each flag that vLLM no longer has. A remedy is only given if this vLLM has all flags that the remedy names.
REMOVED = {
    "--calculate-kv-scales": "Leave it out: the scales are those of the checkpoint.",
    "--cuda-graph-sizes": "It is --cudagraph-capture-sizes now.",
    "--device": "Leave it out: vLLM uses the kind of device for which it was built. Use --gpus 0 to choose a GPU.",
    "--disable-async-output-proc": _NEEDLESS,
    "--disable-frontend-multiprocessing": "Leave it out: the engine always has its own process.",
    "--disable-log-requests": "Leave it out: requests are only logged with --enable-log-requests.",
    "--disable-logprobs-during-spec-decoding": _NEEDLESS,
    "--disable-mm-preprocessor-cache": "Write --mm-processor-cache-gb 0.",
    "--enable-bf16x3-router-gemm": "Leave it out: vLLM 0.28 had it as an experiment.",
    "--enable-lora-bias": "Leave it out: vLLM no longer supports biases in LoRA adapters.",
    "--enable-multimodal-encoder-data-parallel": "Write --mm-encoder-tp-mode data.",
    "--enable-prompt-adapter": _NO_PROMPT_ADAPTERS,
    "--enable-reasoning": "Leave it out: --reasoning-parser is enough.",
    "--engine-use-ray": "Write --distributed-executor-backend ray.",
    "--eplb-log-balancedness": "Write --eplb-config.log_balancedness true.",
    "--eplb-step-interval": "It is --eplb-config.step_interval now.",
    "--eplb-window-size": "It is --eplb-config.window_size now.",
    "--guided-decoding-backend": "It is --structured-outputs-config.backend now.",
    "--guided-decoding-disable-additional-properties": "Write --structured-outputs-config.disable_additional_properties true.",
    "--guided-decoding-disable-any-whitespace": "Write --structured-outputs-config.disable_any_whitespace true.",
    "--guided-decoding-disable-fallback": "Leave it out: vLLM falls back to no other backend if --structured-outputs-config.backend names one.",
    "--logits-processor-pattern": "Name the processors themselves: --logits-processors.",
    "--long-lora-scaling-factors": "Leave it out: vLLM no longer supports them.",
    "--lora-extra-vocab-size": "Leave it out: vLLM no longer supports LoRA adapters with additional tokens.",
    "--max-long-partial-prefills": "Leave it out: vLLM still has --long-prefill-token-threshold.",
    "--max-num-partial-prefills": "Leave it out: vLLM still has --long-prefill-token-threshold.",
    "--max-prompt-adapter-token": _NO_PROMPT_ADAPTERS,
    "--max-prompt-adapters": _NO_PROMPT_ADAPTERS,
    "--max-seq-len-to-capture": "Leave it out, or limit the captured batches: --max-cudagraph-capture-size.",
    "--multi-step-stream-outputs": "Leave it out: the engine V1 schedules each step. Use --stream-interval to send several tokens at once.",
    "--ngram-prompt-lookup-max": _NGRAM,
    "--ngram-prompt-lookup-min": _NGRAM,
    "--num-lookahead-slots": _NEEDLESS,
    "--num-redundant-experts": "It is --eplb-config.num_redundant_experts now.",
    "--num-scheduler-steps": "Leave it out: the engine V1 schedules ahead by itself (--async-scheduling).",
    "--num-speculative-tokens": _DRAFT,
    "--override-attention-dtype": "Leave it out: it had an effect on ROCm only.",
    "--override-neuron-config": "It is --additional-config now.",
    "--override-pooler-config": "It is --pooler-config now.",
    "--preemption-mode": "Leave it out: preempted requests are always computed again.",
    "--prompt-adapters": _NO_PROMPT_ADAPTERS,
    "--qlora-adapter-name-or-path": "Write --lora-modules NAME=PATH.",
    "--quantization-param-path": "Leave it out: the scales are those of the checkpoint.",
    "--rope-scaling": """Write --hf-overrides '{"rope_parameters": {"rope_type": TYPE, "factor": FACTOR, ...}}'.""",
    "--rope-theta": """Write --hf-overrides '{"rope_parameters": {"rope_theta": THETA, ...}}'.""",
    "--scheduler-delay-factor": _NEEDLESS,
    "--spec-decoding-acceptance-method": _NEEDLESS,
    "--speculative-disable-by-batch-size": _DRAFT,
    "--speculative-draft-tensor-parallel-size": _DRAFT,
    "--speculative-model": _DRAFT,
    "--speculative-model-quantization": _DRAFT,
    "--swap-space": "Leave it out: the engine V1 swaps nothing. For a KV cache in the machine's memory, write --kv-offloading-size GIB.",
    "--task": _POOLING,
    "--tokenizer-pool-extra-config": _NEEDLESS,
    "--tokenizer-pool-size": _NEEDLESS,
    "--tokenizer-pool-type": _NEEDLESS,
    "--typical-acceptance-sampler-posterior-alpha": _NEEDLESS,
    "--typical-acceptance-sampler-posterior-threshold": _NEEDLESS,
    "--use-gpu-for-pooling-score": "Leave it out: --enable-flash-late-interaction is the default.",
    "--use-v2-block-manager": _NEEDLESS,
    "--worker-use-ray": "Write --distributed-executor-backend ray.",
}
# The remedy for flags of other servers, and for parameters of requests, that users take for flags of vLLM.
FOREIGN = {
    "--context-length": "In vLLM it is --max-model-len.",
    "--ctx-size": "In vLLM it is --max-model-len.",
    "--dp": "Write -dp, with one dash.",
    "--embedding": _POOLING,
    "--max-length": "In vLLM it is --max-model-len.",
    "--max-seq-len": "In vLLM it is --max-model-len.",
    "--max-batch-size": "In vLLM it is --max-num-seqs.",
    "--max-running-requests": "In vLLM it is --max-num-seqs.",
    "--max-tokens": _OF_A_REQUEST % '"max_new_tokens"',
    "--mem-fraction-static": "In vLLM it is --gpu-memory-utilization.",
    "--model-path": "Write the model first: %vllm start MODEL [flags].",
    "--pp": "Write -pp, with one dash.",
    "--repetition-penalty": _OF_A_REQUEST % '"repetition_penalty"',
    "--temperature": _OF_A_REQUEST % '"temperature"',
    "--top-k": _OF_A_REQUEST % '"top_k"',
    "--top-p": _OF_A_REQUEST % '"top_p"',
    "--tp": "Write -tp, with one dash.",
}
# For each compared version, the flags that the compared version before does not have.
_NEWER = {
    "0.17": """
--cpu-offload-params --disable-access-log-for-endpoints --enable-elastic-ep --enable-flashinfer-autotune
--fail-on-environ-validation --kernel-config --language-model-only --moe-backend --offload-backend
--offload-group-size --offload-num-in-group --offload-params --offload-prefetch-step --performance-mode
--specialize-active-lora --weight-transfer-config
    """,
    "0.20": """
--dcp-comm-backend --distributed-timeout-seconds --enable-ep-weight-filter --enable-flash-late-interaction
--enable-mamba-cache-stochastic-rounding --gdn-prefill-backend --grpc --ir-op-priority
--kv-cache-dtype-skip-layers --lora-target-modules --mamba-backend --mamba-cache-philox-rounds --mm-tensor-ipc
--numa-bind --numa-bind-cpus --numa-bind-nodes --reasoning-config --renderer-num-workers
--scheduler-reserve-full-isl --shutdown-timeout
    """,
    "0.24": """
--cpu-distributed-timeout-seconds --data-parallel-multi-port-external-lb --data-parallel-supervisor-port
--device-ids --diffusion-config --dp-supervisor-probe-failure-threshold --dp-supervisor-probe-interval-s
--dp-supervisor-probe-timeout-s --enable-cumem-allocator --enable-mixed-moe-lora-format --fingerprint-mode
--fingerprint-value --jit-monitor-verbose --linear-backend --mm-encoder-attn-dtype --mm-encoder-fp8-scale-path
--mm-encoder-fp8-scale-save-margin --mm-encoder-fp8-scale-save-path --prefill-schedule-interval
--quantization-config --safetensors-prefetch-block-size --safetensors-prefetch-num-threads --spec-method
--spec-model --spec-tokens --use-fp64-gumbel --watermark
    """,
    "0.28": """
--cohere-format --cohere-is-reasoning-model --ec-manager-config --enable-fault-tolerance
--enable-moe-shared-loras --enable-per-request-metrics --fault-tolerance-config --jit-monitor-mode
--kda-prefill-backend --mamba-ssu-algorithm --max-num-scheduled-tokens --mm-device-do-normalize
--mm-hasher-algorithm --mm-ipc-gpu-memory-gb --mm-processor-device --model-class-overrides --prefix-match-unit
--replayssm-buffer-len --return-sampling-mask --use-replayssm --video-pruning-method
    """,
    "0.32": """
--anthropic-disabled-thinking-effort --aux-output-config --custom-histogram-buckets --dcp-q-replicate
--device-memory-utilization --dp-sync-interval --elastic-ep-max-dp-size --enable-batch-sharded-sampling
--enable-hc-sp --enable-mamba-shared-prefix-checkpoint --enable-nccl-comm-suspend --enable-scale-out
--enable-shm-tensor-arena --enable-trace-replay --engram-config --grpc-port --kda-decode-backend --log-level
--logging-config --long-prefill-token-threshold-adaptive --max-lora-cls-labels --max-num-active-seqs
--max-num-queued-reqs --max-num-queued-tokens --per-request-spec-decode-metrics
--prefix-cache-retention-interval --sleep-mode-offload-cudagraph --sleep-preserve-parameter-names
--sparse-indexer-topk-backend --sse-keep-alive-interval --swa-bounded-replay --tool-strict-level
--trust-request-mm-kwargs --watermark-config
    """,
    "0.33": """
--monokernel --reasoning-effort-map --sleep-mode-backend --watchdog-config
    """,
}
NEWER = {flag: version for version, added in _NEWER.items() for flag in added.split()}


def advice(flag: str, known: Collection[str], version: str) -> str:
    """Return the rest of the message for a flag that a vLLM does not have: why, and what to do; "" if that is not known.

    Args:
        flag: the flag, without a value.
        known: the flags that this vLLM has; empty if they are not known.
        version: the version of this vLLM; "" if that is not known.
    """
    name = plain(flag)
    names = (name, name.replace("--no-", "--", 1))
    for remedies, since in ((REMOVED, " any more"), (FOREIGN, "")):
        for spelling in names:
            needed = _FLAG.findall(remedies.get(spelling, ""))
            if spelling in remedies and (not known or all(each in known or each in OURS for each in needed)):
                return f"{since}. {remedies[spelling]}"
    newer = next((NEWER[spelling] for spelling in names if spelling in NEWER), "")
    release, this = versions.parse(newer), versions.parse(version)
    is_older = release is not None and this is not None and this < release
    return f": vLLM {newer} has it. Update vLLM, or leave it out." if is_older else ""
