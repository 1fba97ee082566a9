"""Prove that an environment works, before any start uses it.

vLLM is imported, one of its kernels runs on each GPU (or on the CPU), ``vllm serve --help`` works, and the flags are read, so
that the first start knows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.children import flag_reading
from vllm_magic.engine import environments
from vllm_magic.engine.failures import explanations
from vllm_magic.errors import InstallFailed, VllmMagicError
from vllm_magic.installation import faults, proof_child
from vllm_magic.installation.plan import Backend
from vllm_magic.installation.progress import Step
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_magic.installation.plan import InstallPlan
    from vllm_magic.installation.programs import ProgramResult, Programs

CHECK_LIMIT = (
    1800.0  # seconds for the checks in one process; a first import from a cold network disk takes minutes
)
_CHILD = Path(proof_child.__file__)
# No check needs the network, and none is to be counted as a use of vLLM.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}


def is_proved(folder: Path) -> bool:
    """Whether the environment was proved, and still has its Python.

    Raises:
        OSError: the disk does not answer.
    """
    # The python of an environment is a link. It dangles if the Python that made the environment was removed.
    return disk.call(folder, _has_all, folder)


def _has_all(folder: Path) -> bool:
    return all((folder / name).exists() for name in (environments.PROOF, "bin/python", "bin/vllm"))


def prove(plan: InstallPlan, folder: Path, programs: Programs) -> None:
    """Check that the vLLM of an environment works.

    Raises:
        InstallFailed: it does not; the message says which check failed, why, and what to do.
    """
    python, executable = str(folder / "bin/python"), str(folder / "bin/vllm")
    device = "cpu" if plan.backend is Backend.CPU else "cuda"
    _check(programs, [python, str(_CHILD), device], folder, "import vllm")
    _check(programs, [executable, "serve", "--help"], folder, "vllm serve --help")
    programs.begin(Step.PROVE, "read the flags of vLLM")
    flag_reading.read(executable)


def _check(programs: Programs, words: Sequence[str], folder: Path, name: str) -> None:
    programs.begin(Step.PROVE, name)
    result = programs.result(
        words, cwd=folder, env=_ENVIRONMENT, limit=CHECK_LIMIT, observe=_detail(programs)
    )
    if result.exit_code != 0:
        raise _failure(programs.progress.detail, result)


def _detail(programs: Programs) -> Callable[[str], None]:
    def observe(line: str) -> None:
        if line.startswith(proof_child.PREFIX):
            programs.begin(Step.PROVE, line.removeprefix(proof_child.PREFIX))

    return observe


def _failure(name: str, result: ProgramResult) -> InstallFailed:
    lines = [line for line in result.lines if not line.startswith(proof_child.PREFIX)]
    said = lines[-faults.SHOWN_LINES :]
    if result.exit_code is None:
        return InstallFailed(
            f"vLLM was installed, and the check of it ({name}) did not end within {CHECK_LIMIT / 60:.0f} minutes",
            "A slow disk may be the reason: install into a folder on a disk of this machine, --into DIR",
            said,
        )
    code = 128 - result.exit_code if result.exit_code > 128 else result.exit_code  # noqa: PLR2004 - a signal
    found = explanations.explain(lines, code)
    return InstallFailed(
        f"vLLM was installed, and does not work here ({name}): {found.cause}",
        found.hint or "The last lines say why",
        found.lines or said,
    )


def write(plan: InstallPlan, folder: Path) -> None:
    """Write that the environment is proved. From now on starts may use it.

    Raises:
        InstallFailed: the proof cannot be written.
    """
    try:
        environments.write_proof(
            folder,
            version=plan.version,
            package=plan.package,
            python=plan.python,
            backend=plan.backend.value,
        )
    except VllmMagicError as error:
        raise InstallFailed(str(error).rstrip("."), "Install into another folder: --into DIR") from None
