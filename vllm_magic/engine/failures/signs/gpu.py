"""Failures of a GPU that is too old, too new or too small for what is asked of it."""

from __future__ import annotations

from vllm_magic.engine.failures import hints, machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

SIGNS = (
    Sign(
        r"no kernel image is available for execution on the device|device kernel image is invalid",
        "This vLLM was not built for this GPU: it is too old or too new for it",
        "Install a vLLM for its compute capability (%vllm gpu and %vllm doctor show both)",
        kernel=True,
    ),
    Sign(  # csrc/cutlass_extensions/common.hpp, which the kernel itself prints
        r"This kernel only supports (sm\w{2,12})",
        "A kernel of this vLLM was built for {0} alone, and this GPU is another",
        "Install a newer vLLM that was built for this GPU, or choose a model that is quantized otherwise",
    ),
    Sign(  # triton/language/semantic.py
        r"type fp8e4nv not supported in this architecture",
        "This GPU cannot compute with this kind of FP8 (fp8e4nv), which needs compute capability 8.9",
        "Choose a model that is quantized otherwise (AWQ, GPTQ), leave --kv-cache-dtype fp8 out, or use another GPU",
    ),
    Sign(  # triton/runtime/errors.py
        r"out of resource: shared memory, Required: (\d{1,9}), Hardware limit: (\d{1,9})",
        machine_hints.kernel_too_large,
        "Add --dtype half and another attention backend (--attention-backend FLASHINFER), or --enforce-eager",
    ),
    Sign(
        r"FlashAttention (?:only supports|v?\d? ?requires).{0,100}(?:Ampere|Hopper|compute capability)",
        "FlashAttention does not run on this GPU",
        "Choose another attention backend: --attention-backend TRITON_ATTN",
    ),
    Sign(  # vllm/platforms/cuda.py
        r"No valid attention backend found for \S{1,100}(.{0,1500})",
        "No attention backend of vLLM does what this model and these options want on this GPU",
        machine_hints.no_backend,
    ),
    Sign(  # vllm/platforms/cuda.py
        r"Selected backend (?:\w{1,50}\.)?(\w{1,100}) is not valid for this configuration\. Reason: (.{1,300})",
        "The attention backend {0} cannot be used here: {1}",
        "Leave --attention-backend (in older versions VLLM_ATTENTION_BACKEND) out: vLLM chooses one; or try a newer vLLM",
    ),
    Sign(
        r"nsupported (?:GPU|CUDA) (?:arch|architecture|compute capability)|Triton only supports CUDA .{1,100}|"
        r"ptxas fatal +: Value '(sm_\w{1,20})' is not defined",
        "A kernel cannot be compiled for this GPU",
        "Install a newer vLLM with its own Triton and CUDA, or add --enforce-eager",
    ),
    Sign(  # vllm/model_executor/models, v1/worker/gpu_model_runner.py
        r"max_num_seqs \((\d{1,9})\) exceeds available Mamba cache blocks \((\d{1,9})\)",
        "{0} requests at once need {0} blocks of the Mamba cache, and {1} fit",
        "Set --max-num-seqs {1}, or raise --gpu-memory-utilization",
    ),
    Sign(  # vllm/v1/worker/gpu_worker.py
        r"Error in memory profiling\. Initial free memory ([\d.]{1,20})(?: GiB)?, current free memory ([\d.]{1,20})",
        machine_hints.memory_came_back,
        "Start it again; it works once no other process gives memory back meanwhile",
        transient=True,
    ),
    Sign(  # vllm/utils/torch_utils.py, get_accelerator_view_from_cpu_tensor
        r"UVA is not available",
        "The GPU cannot read pinned memory of the machine here, which vLLM leaves off under WSL2",
        "Add --env VLLM_WSL2_ENABLE_PIN_MEMORY=1",
    ),
    Sign(  # vllm/model_executor/models/registry.py, up to vLLM 0.20
        r"invalid literal for int\(\) with base 10: '((?:GPU|MIG)-[\w/-]{1,100})'",
        "This vLLM cannot read the UUID {0} in CUDA_VISIBLE_DEVICES",
        "Give it the GPU's index there, or install vLLM 0.21 or newer",
    ),
    Sign(  # vllm/v1/attention/backends, flash_attn
        r"ead size \d{1,6} is not supported by (\w{1,60})|"
        r"(?:flash attention build does not support headdim|Cannot use FlashAttention-2 backend for head size)",
        "The attention backend does not take heads of this model's size",
        "Choose another one: --attention-backend TRITON_ATTN, or FLEX_ATTENTION",
    ),
    Sign(
        r"CUDA error: out of memory",
        "The GPU is out of memory",
        "Lower --gpu-memory-utilization or --max-num-seqs, or add --enforce-eager, which makes no CUDA graphs",
    ),
    Sign(
        r"operation not permitted when stream is capturing|cudaErrorStreamCapture\w{1,40}",
        "A CUDA graph cannot be captured",
        "Add --enforce-eager, or try another vLLM: this is mostly a fault of one version",
    ),
    Sign(
        r"(\w[\w ]{1,80}) is not implemented for (Blackwell|Hopper|Ampere|this (?:GPU|architecture|device))",
        "{0} is not implemented for this GPU in this vLLM",
        "Install a newer vLLM, or choose a model that is quantized otherwise",
    ),
    Sign(
        r"CUDA error: invalid argument",
        "CUDA was called with a value that it does not take: mostly the driver and this build of vLLM do not fit together",
        "Update the driver and vLLM, or try --enforce-eager and --disable-custom-all-reduce",
    ),
    Sign(  # vllm/config/vllm.py
        r"The quantization method (\w+) is not supported for the current GPU\. Minimum capability: (\d{2,3})\. "
        r"Current capability: (\d{2,3})",
        hints.capability,
        "Choose another --quantization, or another GPU",
    ),
    Sign(  # vllm/platforms/cuda.py
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\.(?: Your (.{0,100}?) GPU (.{0,100}?)\. )?",
        hints.no_bfloat16,
        "Add --dtype half",
    ),
    Sign(  # vllm/model_executor/layers/quantization/compressed_tensors
        r"Quantization scheme is not supported for [', ]{0,9}the current GPU\. Min capability: (\d{2,3})\. [', ]{0,9}Current "
        r"capability: (\d{2,3})",
        machine_hints.scheme_capability,
        "Choose a model that is quantized otherwise, or another GPU",
    ),
    Sign(  # csrc/quantization
        r"No compiled (\w{1,60}) for (?:a compute capability less than )?CUDA device capability: (\d{2,3})",
        machine_hints.kernel_missing,
        "Install a newer vLLM, or choose a model that is quantized otherwise",
    ),
    Sign(  # CUTLASS, cutlassGetStatusString
        r"RuntimeError: Error Internal$",
        "A kernel of CUTLASS does not work on this GPU",
        "Install a newer vLLM that was built for it, or choose a model that is quantized otherwise",
    ),
    Sign(  # vllm/model_executor/layers/fused_moe/oracle
        r"No (\w{1,20}(?: Int8)?) MoE backend supports ",
        "vLLM has no kernel for experts in {0} that works on this GPU with these options",
        "Leave --moe-backend and --enable-expert-parallel out, install a newer vLLM, or choose another quantization",
    ),
    Sign(
        r"(?:CUDA|HIP|Triton)(?: driver)? [Ee]rror(?: \[\w{1,10}\])?: (.{1,200})",
        "A kernel failed on the GPU: {0}",
        "Try --enforce-eager, another --attention-backend, or a newer vLLM; --env CUDA_LAUNCH_BLOCKING=1 shows which kernel it is",
        general=True,
        kernel=True,
    ),
    Sign(  # csrc/custom_all_reduce.cuh
        r"Failed: Cuda error \S{0,200}custom_all_reduce\.cuh:\d{1,6} '(.{1,100}?)'",
        "vLLM's own all-reduce failed between the GPUs: {0}",
        "Add --disable-custom-all-reduce, and remove expandable_segments from PYTORCH_CUDA_ALLOC_CONF",
    ),
    Sign(
        r"Failed: Cuda error (\S{1,200}) '(.{1,100}?)'",
        "A kernel of vLLM failed: {1} ({0})",
        "Try --enforce-eager and --disable-custom-all-reduce, or a newer vLLM",
        general=True,
        kernel=True,
    ),
    Sign(  # torch
        r"expected scalar type (\w{1,20}) but found (\w{1,20})",
        "A kernel got numbers of the type {1} where it takes {0}: mostly a fault of this version with this model and these options",
        "Try another version, --dtype, --attention-backend or --all2all-backend",
        general=True,
        kernel=True,
    ),
    Sign(  # torch, c10/xpu
        r"doesn't support querying the available free memory",
        "This Intel GPU does not tell how much of its memory is free, which vLLM must know",
        "Update its driver and oneAPI; else this GPU may be none that vLLM can use",
    ),
    Sign(  # vllm/v1/attention/backends/flash_attn.py
        r"Sinks are only supported in FlashAttention 3",
        "FlashAttention on this GPU cannot do this model's attention (sinks)",
        "Choose another one: --attention-backend TRITON_ATTN",
    ),
    Sign(  # https://github.com/Project-HAMi/HAMi-core
        r"\[HAMI-core ERROR.{0,100}?\]: (Illegal device id)",
        "HAMi, which divides the GPU among containers, has failed: {0}",
        "Update HAMi, or start vLLM in a container that has whole GPUs",
    ),
)
