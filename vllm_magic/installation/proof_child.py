"""Entry point of the process that proves an environment: ``python proof_child.py cpu`` or ``python proof_child.py cuda``.

This process runs in the Python of the environment, so it imports no module of vllm_magic. It prints a line before each check. The
first check that fails ends it with a traceback.
"""

import importlib
import sys
from typing import Any

PREFIX = "vllm_magic checks: "


def main(device: str) -> None:
    """Import vLLM, and run one of its own small kernels on each device."""
    check("import vllm")
    importlib.import_module("vllm")
    torch: Any = importlib.import_module("torch")
    current_platform: Any = importlib.import_module("vllm.platforms").current_platform

    check("load the compiled part of vLLM")
    # There is a library for each kind of processor, and vLLM knows which suits this one (vllm/platforms/cpu.py).
    if hasattr(current_platform, "import_kernels"):
        current_platform.import_kernels()
    else:
        importlib.import_module("vllm._custom_ops")
    kernel = torch.ops._C.silu_and_mul  # noqa: SLF001 - vLLM's own name
    if device == "cpu":
        check("run a kernel on the CPU")
        run(kernel, torch, "cpu", torch.float32)
        return
    check("look for GPUs")
    torch.cuda.init()  # its error says why there is none
    for index in range(torch.cuda.device_count()):
        check(f"run a kernel on GPU {index} ({torch.cuda.get_device_name(index)})")
        with torch.cuda.device(index):
            run(kernel, torch, f"cuda:{index}", torch.float16)
            torch.cuda.synchronize()


def run(kernel: Any, torch: Any, device: str, dtype: Any) -> None:
    """Compute with torch and with the kernel of vLLM, and compare the results."""
    given = torch.linspace(-1.0, 1.0, 8 * 64, device=device).reshape(8, 64).to(dtype)
    found = torch.empty(8, 32, device=device, dtype=dtype)
    kernel(found, given)
    first, second = given.float()[:, :32], given.float()[:, 32:]
    expected = torch.nn.functional.silu(first) * second
    if not torch.allclose(found.float(), expected, atol=1e-2):
        raise RuntimeError(f"the kernel silu_and_mul of vLLM computes wrong values on {device}")
    if not torch.isfinite(given @ given.T).all():
        raise RuntimeError(f"torch computes wrong values on {device}")


def check(name: str) -> None:
    """Print what is checked next, as one line for the kernel."""
    print(f"{PREFIX}{name}", flush=True)  # noqa: T201 - into a pipe


if __name__ == "__main__":
    main(sys.argv[1])
