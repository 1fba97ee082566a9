"""Failures of what is compiled on this machine: programs and headers that are missing, caches that are damaged."""

from __future__ import annotations

from vllm_magic.engine.failures import machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

_PREBUILT = "Install the package flashinfer-jit-cache beside vLLM, or add --env VLLM_USE_FLASHINFER_SAMPLER=0"

SIGNS = (
    Sign(  # flashinfer/jit/cpp_ext.py
        r"Could not find nvcc and default cuda_home='(.{1,300}?)' doesn't exist|"
        r"No such file or directory: '(?:[^'\n]{0,300}/)?nvcc'|: \S{0,200}\bnvcc: (?:command )?not found",
        "FlashInfer wants to compile a kernel, and there is no CUDA compiler (nvcc)",
        f"{_PREBUILT}; if there is one, CUDA_HOME must be its folder, without a colon",
    ),
    Sign(  # flashinfer/compilation_context.py and jit/core.py; a toolkit that does not know the GPU leaves no architecture to compile for
        r"No supported CUDA architectures found for major versions|SM \d{1,2}\.\w{1,2} requires CUDA|FlashInfer requires GPUs with sm\d{2}",
        "FlashInfer cannot compile for this GPU: the CUDA toolkit that it finds is too old for it, or the GPU is",
        "Set CUDA_HOME to a toolkit that knows the GPU (12.9 or newer for Blackwell; nvcc --version shows which one is found first), or add "
        "--env VLLM_USE_FLASHINFER_SAMPLER=0 and another --attention-backend (TRITON_ATTN)",
    ),
    Sign(  # torch/utils/cpp_extension.py
        r"CUDA_HOME environment variable is not set",
        "Something wants to compile a kernel, and there is no CUDA toolkit",
        "Install the CUDA toolkit and set CUDA_HOME, or use a vLLM with what it needs built in (%vllm doctor)",
    ),
    Sign(  # flashinfer/jit/cpp_ext.py, torch/utils/cpp_extension.py
        r"No such file or directory: 'ninja'|Ninja is required to load C\+\+ extensions|ninja: (?:command )?not found",
        "A kernel is to be compiled, and the program ninja is not found",
        machine_hints.install("ninja"),
    ),
    Sign(  # Python's subprocess
        r"No such file or directory: '((?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|ptxas|cmake|git|ldconfig|numactl|cuobjdump|nvidia-smi)(?:-\d{1,3})?)'",
        "The program {0} is not found",
        "Install it (apt install build-essential brings gcc and g++), or put its folder on PATH",
    ),
    Sign(  # triton/runtime/build.py, torch/_inductor/cpp_builder.py
        r"Failed to find C compiler|No working C\+\+ compiler found|Compiler: \S{1,50} is not found|"
        r"InvalidCxxCompiler",
        "A kernel is to be compiled, and there is no C compiler",
        "Install one (apt install gcc g++), or name it in the environment: CC and CXX",
    ),
    Sign(
        r"fatal error: Python\.h: No such file or directory",
        "The header files of Python are missing, with which Triton compiles",
        "Install them (apt install python3-dev), or run vLLM with a Python that has them, such as one of uv",
    ),
    Sign(
        r"fatal error: (\S{1,200}\.(?:h|hpp|cuh)): No such file or directory",
        "The header file {0} is missing, with which a kernel is compiled",
        "Install the package that has it; for CUDA's headers that is the CUDA toolkit",
    ),
    Sign(
        r"cannot find -l(\w{1,50})",
        "The library lib{0} is missing, with which a kernel is linked",
        "Install it, or put its folder into LIBRARY_PATH; libcuda is in the driver's folder or in cuda/lib64/stubs",
    ),
    Sign(  # vllm/compilation/compiler_interface.py
        r"vLLM failed to compile the model\. The most likely reason for this is that a previous compilation failed.{0,200}?"
        r"(?:removing|remove) (\S{1,300})",
        "vLLM's cache of compiled models is damaged",
        "Remove {0}, or add --env VLLM_DISABLE_COMPILE_CACHE=1",
    ),
    Sign(
        r"(?:nvcc|ninja|cc1plus|cicc).{0,100}(?:Killed|terminated by signal 9)|Killed signal terminated program",
        "A compiler was killed: usually the machine's memory has run out",
        "Compile with fewer processes at once: --env MAX_JOBS=2",
    ),
    Sign(
        r"nvcc fatal +: (?:Unsupported gpu architecture '(\w{1,30})'|Unknown option '?(-[\w-]{1,60}))",
        machine_hints.old_nvcc,
        "Install a newer CUDA toolkit and set CUDA_HOME to it, or the package flashinfer-jit-cache beside vLLM",
    ),
    Sign(  # flashinfer/jit/cpp_ext.py, torch/utils/cpp_extension.py
        r"Ninja build failed|Error building extension '|ninja: build stopped",
        machine_hints.failed_build,
        f"{_PREBUILT}; a newer or older CUDA toolkit may compile it",
        general=True,
    ),
    Sign(
        r"torch\._(?:dynamo|inductor)\.exc\.\w{1,60}: (.{1,300})",
        "The model cannot be compiled: {0}",
        "Add --enforce-eager, which compiles nothing; or remove ~/.cache/vllm/torch_compile_cache and try again",
        general=True,
    ),
    Sign(
        r"triton\.(?:compiler|runtime)\.errors\.\w{1,60}(?:: (.{1,300}))?|nvrtc: error: (.{1,300})",
        "A kernel cannot be compiled for this GPU",
        "Try another --attention-backend, --enforce-eager, or a newer vLLM",
        general=True,
        kernel=True,
    ),
    Sign(  # DeepGEMM, which vLLM uses for FP8
        r"(?:[Ee]rror|[Ff]ailed|Assertion)\b.{0,300}(?:deepgemm-src|(?<!')deep_gemm|DeepGEMM)",
        "DeepGEMM, which computes with FP8, fails here",
        "Add --env VLLM_USE_DEEP_GEMM=0",
        general=True,
    ),
    Sign(
        r"CalledProcessError: Command '\[?'?(?:[^'\n ]{0,200}/)?((?:[\w-]{0,40}-)?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|hipcc|nvcc|ptxas|ninja|cmake)"
        r"(?:-\d{1,3})?)\b",
        machine_hints.failed_build,
        "The compiler's own lines name the reason: mostly header files (apt install build-essential python3-dev) or a toolkit that is "
        "too old; --enforce-eager compiles less",
        general=True,
    ),
    Sign(
        r"PassManager::run failed|LLVM ERROR: .{1,200}|PTXASError|`?ptxas`? failed|ptxas .{0,200}(?:error|fatal)",
        "Triton cannot compile a kernel for this GPU",
        "Install a newer vLLM with its own Triton, name a newer ptxas (--env TRITON_PTXAS_PATH), or try another --attention-backend",
        general=True,
        kernel=True,
    ),
    Sign(
        r"\btvm\.error\.\w{1,60}|\bDSLRuntimeError\b",
        "A kernel of FlashInfer or CUTLASS fails on this GPU",
        "Choose another --attention-backend (FLASH_ATTN or TRITON_ATTN) and add --env VLLM_USE_FLASHINFER_SAMPLER=0; "
        "flashinfer must be of the version that vLLM wants",
        general=True,
        kernel=True,
    ),
)
