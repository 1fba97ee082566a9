"""Failures because a GPU has too little memory."""

from __future__ import annotations

from vllm_magic.engine.failures import hints
from vllm_magic.engine.failures.signs.sign import Sign

_GIB = r"\d{1,9}(?:\.\d{1,9})?"
_MORE_ROOM = "Raise --gpu-memory-utilization, or use more GPUs (--tensor-parallel-size)"
_RELEASE = "release what else holds it (%vllm gpu shows it)"

SIGNS = (
    Sign(  # vllm/v1/worker/utils.py, request_memory; up to vLLM 0.13 without the device
        rf"Free memory on device( \S+)? \((?P<free>{_GIB})/(?P<total>{_GIB}) GiB\) on startup is less than .{{0,100}}?"
        rf"\([\d.]{{1,20}}, (?P<needed>{_GIB}) GiB\)",
        "GPU{0} has {1} GiB free, and vLLM wants {3} GiB of its {2} GiB",
        hints.utilization,
    ),
    Sign(  # vllm/v1/core/kv_cache_utils.py
        r"No available memory for the cache blocks",
        "The weights leave no room for the KV cache",
        _MORE_ROOM,
    ),
    Sign(  # vllm/v1/core/kv_cache_utils.py
        r"max seq len \((\d{1,20})\), \(?([\d.]{1,20}) GiB KV cache is needed.{0,300}?memory \(([\d.]{1,20}) GiB\)"
        r"(?:.{0,300}?estimated maximum model length is (\d+))?",
        "One request of {0} tokens needs {1} GiB of KV cache, and there are {2} GiB",
        hints.length_that_fits,
    ),
    Sign(  # vllm/v1/worker/gpu_model_runner.py
        r"Failed to load model - not enough GPU memory",
        "The weights do not fit into the GPU's memory",
        f"Use more GPUs (--tensor-parallel-size) or --quantization, or {_RELEASE}",
    ),
    Sign(  # torch
        r"OutOfMemoryError: CUDA out of memory\. Tried to allocate ([\d.]+ \w+)\. GPU (\d+) has a total capacity of "
        r"([\d.]+ \w+) of which ([\d.]+ \w+) is free",
        "GPU {1} is out of memory: vLLM wanted {0} more, and {3} of its {2} were free",
        f"Lower --gpu-memory-utilization or --max-num-seqs, with images or video also --limit-mm-per-prompt, or {_RELEASE}",
    ),
    Sign(  # vllm/v1/worker/gpu_model_runner.py
        r"CUDA out of memory occurred when warming up (?:sampler|pooler) with (\d+) dummy requests",
        "The GPU's memory does not suffice for {0} requests at once",
        "Set --max-num-seqs below {0}, or lower --gpu-memory-utilization",
    ),
    Sign(
        r"OutOfMemoryError: (.*)",
        "Out of GPU memory: {0}",
        "Lower --gpu-memory-utilization or --max-num-seqs",
        general=True,
    ),
    Sign(  # vllm/worker/worker.py, up to vLLM 0.9
        r"max seq len \((\d{1,12})\) is larger than the maximum number of tokens that can be stored in KV cache \((\d{1,12})\)",
        "One request may have {0} tokens, and the KV cache takes {1}",
        "Lower --max-model-len to {1}, or raise --gpu-memory-utilization",
    ),
    Sign(  # torch, CUDACachingAllocator.cpp, where it reports that memory ran out and NVML does not answer (Jetson, MIG, vGPU)
        r"NVML_SUCCESS == r INTERNAL ASSERT FAILED",
        "The GPU is probably out of memory, and NVML does not answer",
        "Lower --gpu-memory-utilization, --max-model-len and --max-num-seqs; on a part of a GPU (MIG) add --env "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False",
    ),
    Sign(
        r"Out of Memory: (.{1,200})",
        "The device is out of memory: {0}",
        "Lower --max-model-len and --max-num-seqs, or choose a smaller model",
        general=True,
    ),
    Sign(  # vllm/config/cache.py
        r"Too large swap space\. ([\d.]{1,12}) GiB out of the ([\d.]{1,12}) GiB",
        "--swap-space asks for {0} GiB of the machine's {1} GiB memory",
        "Lower it: --swap-space 0",
    ),
    Sign(
        r"(?:CUDA|HIP|XPU|NPU) out of memory\. ?(.{0,200})",
        "A GPU is out of memory: {0}",
        "Lower --gpu-memory-utilization, --max-model-len or --max-num-seqs, or release what else holds it (%vllm gpu shows it)",
        general=True,
    ),
    Sign(
        r"(?:CUDA driver|HIP) [Ee]rror: out of memory",
        "A GPU is out of memory",
        "Lower --gpu-memory-utilization or --max-num-seqs, or release what else holds it (%vllm gpu shows it)",
    ),
)
