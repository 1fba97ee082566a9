"""Failures of the NVIDIA driver and of CUDA."""

from __future__ import annotations

from vllm_magic.engine.failures import machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

_OTHER_BUILD = (
    "Update the driver, or install a vLLM that was built for a CUDA that the driver runs (%vllm install)"
)
_REBOOT = "Look into dmesg for lines with Xid; reset the GPU (nvidia-smi --gpu-reset) or reboot the machine"

SIGNS = (
    Sign(  # torch/csrc/cuda/Module.cpp; a warning of torch/cuda/__init__.py where vLLM then finds no device
        r"NVIDIA driver on your system is too old \(found version (\d{4,6})\)",
        machine_hints.driver_too_old,
        "Update the driver (580 or newer runs CUDA 13), or install a vLLM that was built for CUDA 12 (%vllm install)",
    ),
    Sign(
        r"CUDA driver version is insufficient for CUDA runtime version",
        "The NVIDIA driver is too old for the CUDA that this vLLM was built for",
        _OTHER_BUILD,
    ),
    Sign(
        r"provided PTX was compiled with an unsupported toolchain|unsupported PTX version",
        "The NVIDIA driver is older than the CUDA compiler that made a kernel",
        _OTHER_BUILD,
    ),
    Sign(  # CUDA error 804
        r"forward compatibility was attempted on non supported HW",
        "A CUDA compatibility library stands before the driver's own, and this GPU does not support that",
        "Remove /usr/local/cuda/compat from LD_LIBRARY_PATH, or update the driver",
    ),
    Sign(  # CUDA error 802
        r"system not yet initialized|CUDA_ERROR_SYSTEM_NOT_READY",
        "The GPUs are not connected yet: the fabric manager of this NVSwitch machine does not run",
        "Start it (systemctl start nvidia-fabricmanager); its version must be that of the driver",
    ),
    Sign(  # NVML error 18
        r"Driver/library version mismatch",
        "The NVIDIA driver was updated, and the old one is still loaded",
        "Reboot the machine, or load the new kernel module",
    ),
    Sign(
        r"GPU access blocked by the operating system",
        "The operating system does not let this container or WSL2 use the GPU",
        "Start the container with --gpus all, and update the Windows driver under WSL2",
    ),
    Sign(
        r"Failed to initialize NVML: Unknown Error",
        "The container has lost its access to the GPUs",
        "Restart the container; systemctl daemon-reload on the host takes them away where cgroups are managed by systemd",
    ),
    Sign(
        r"CUDA-capable device\(s\) is/are busy or unavailable|all CUDA-capable devices are busy or unavailable",
        "Another process has a GPU for itself, or the GPU is in a compute mode that allows one process only",
        "See who holds it (%vllm gpu); nvidia-smi -c DEFAULT allows several processes",
    ),
    Sign(
        r"uncorrectable (?:NVLink|ECC) error|CUDA error: .{0,40}hardware stack error|GPU is lost|has fallen off the bus",
        "A GPU has a hardware error",
        _REBOOT,
    ),
    Sign(
        r"Cannot re-initialize CUDA in forked subprocess",
        "CUDA was used before vLLM forked its processes",
        "Add --env VLLM_WORKER_MULTIPROC_METHOD=spawn; a plugin or sitecustomize may use CUDA at import",
    ),
    Sign(
        r"CUDA error: an illegal memory access was encountered",
        "A kernel has read or written memory that is not its own",
        "Try --enforce-eager or another attention backend (--attention-backend TRITON_ATTN), and a newer vLLM",
        kernel=True,
    ),
    Sign(
        r"CUBLAS_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)",
        "cuBLAS got no memory on the GPU",
        "Lower --gpu-memory-utilization: some memory must stay free for CUDA's libraries",
    ),
    Sign(
        r"No CUDA GPUs are available|no CUDA-capable device is detected",
        "CUDA finds no GPU",
        "Check CUDA_VISIBLE_DEVICES and the driver (nvidia-smi); a container needs --gpus all",
    ),
    Sign(
        r"CUDA (?:driver initialization failed|unknown error|error: unknown error)",
        "CUDA cannot be initialised on this machine",
        "Check nvidia-smi; after a suspend or an update of the driver, load nvidia_uvm again or reboot; under WSL2, wsl --shutdown",
    ),
    Sign(  # triton/backends/nvidia/driver.py
        r"libcuda\.so cannot (?:be )?found",
        "Triton does not find libcuda.so, which is the driver's",
        "Put its folder into LD_LIBRARY_PATH (ldconfig -p shows it; under WSL2 it is /usr/lib/wsl/lib)",
    ),
    Sign(
        r"CUDA error: operation not supported",
        "The driver refuses an operation: mostly a virtual GPU (vGPU) that does not allow it",
        "Try --enforce-eager and --disable-custom-all-reduce; a vGPU needs unified memory enabled by its administrator",
    ),
    Sign(  # vllm/config/device.py
        r"Failed to infer device type",
        "vLLM finds no GPU that it can use",
        "Check CUDA_VISIBLE_DEVICES and the driver: %vllm doctor tells what is wrong",
        general=True,
    ),
    Sign(
        r"Found no NVIDIA driver on your system",
        "There is no NVIDIA driver on this machine, or the container does not see it",
        "Install it, or start the container with --gpus all; nvidia-smi must work there",
    ),
    Sign(
        r"cuDNN error: (\w{1,60})|CUBLAS_STATUS_(?!SUCCESS)(\w{1,60})|cublaslt? failed: (.{1,100})",
        "A library of CUDA failed: {0}{1}{2}",
        "Often another one comes first (LD_LIBRARY_PATH), the driver is too old for this vLLM, or the GPU has no memory left; else another version of vLLM may do it",
        general=True,
        kernel=True,
    ),
    Sign(
        r"CUDA error: invalid device ordinal|device < num_gpus INTERNAL ASSERT FAILED",
        "vLLM asks for a GPU that is not there: it sees fewer than it takes",
        "Lower --tensor-parallel-size or --data-parallel-size, and check CUDA_VISIBLE_DEVICES; of MIG, one part serves one process",
    ),
    Sign(
        r"CUDA error: initialization error",
        "CUDA cannot be used in a process that was forked after its first use",
        "Add --env VLLM_WORKER_MULTIPROC_METHOD=spawn",
    ),
    Sign(
        r"device-side assert triggered|indexSelectLargeIndex.{0,200}Assertion|Assertion `.{0,100}index out of bounds",
        "A kernel found an index out of range: a token beyond the vocabulary, or a position beyond the model's length",
        "Check that tokenizer and model belong together, and lower --max-model-len to the model's own; "
        "--env CUDA_LAUNCH_BLOCKING=1 shows which kernel it is",
    ),
    Sign(  # CUDA error 803
        r"system has unsupported display driver / cuda driver combination",
        "The libcuda that is found first is of another version than the NVIDIA driver",
        "Take /usr/local/cuda/compat and other copies of libcuda out of LD_LIBRARY_PATH, or update the driver",
    ),
    Sign(
        r"peer access is not supported|peer mapping resources exhausted|cudaErrorPeerAccess\w{1,40}|"
        r"cudaDeviceCanAccessPeer|cudaDeviceEnablePeerAccess",
        "The GPUs cannot read each other's memory here",
        "Add --disable-custom-all-reduce and --env NCCL_P2P_DISABLE=1",
    ),
    Sign(
        r"HIP error: invalid device function|hipErrorNoBinaryForGpu|HSA_STATUS_ERROR_INVALID_ISA|"
        r"no kernel image .{0,40}gfx|nsupported gpu arch\w{0,10}:? gfx",
        "This vLLM was not built for this AMD GPU",
        "Install a vLLM and a ROCm for its architecture; --env HSA_OVERRIDE_GFX_VERSION=11.0.0 takes kernels of a relative",
    ),
    Sign(  # ROCm's runtime
        r"Memory access fault by GPU node|HW Exception by GPU node|HSA_STATUS_ERROR_(?!INVALID_ISA)(?:\w{1,60})",
        "A kernel has failed on the AMD GPU",
        "Add --env VLLM_ROCM_USE_AITER=0, which leaves AMD's own kernels out, or --enforce-eager, or lower --max-num-batched-tokens",
    ),
    Sign(
        r"(?:Unexpected error from cudaGetDeviceCount|cudaGetDeviceCount\(\) returned).{0,200}Error (\d{1,4}): (.{1,200})",
        "CUDA cannot be initialised: {1} (error {0})",
        "Check nvidia-smi, the driver and LD_LIBRARY_PATH: %vllm doctor tells what is wrong",
        general=True,
    ),
    Sign(
        r"NVMLError\w{0,60}: (.{1,200})|Failed to initialize NVML: (.{1,100})",
        "The driver's library NVML fails: {0}{1}",
        "nvidia-smi must work here; a container needs --gpus all, and a reboot helps after an update of the driver",
        general=True,
    ),
    Sign(  # vllm/config/device.py and platforms, where no platform was found
        r"Device string must not be empty|UnspecifiedPlatform|No platform detected, vLLM is running on",
        "vLLM finds no GPU that it can use",
        "Check CUDA_VISIBLE_DEVICES and the driver: %vllm doctor tells what is wrong; this build may be for another kind of device",
        general=True,
    ),
    Sign(  # NVIDIA's GPUDirect Storage, which loads weights without the machine's memory
        r"\bcuFile\w{1,60} (?:returned an error|failed)",
        "GPUDirect Storage (cuFile) cannot be used on this machine",
        "Leave --load-format out: then the weights are read without it",
    ),
)
