"""All checks of a start, in the order in which they are made. Each raises the error for a start that cannot succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.start_checks import model_limits, unknown_flags
from vllm_magic.engine.start_checks.planned_start import PlannedStart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.spec import ServerSpec

CHECKS: tuple[Callable[[PlannedStart], None], ...] = (unknown_flags.check, model_limits.check)


def check(spec: ServerSpec, environ: Mapping[str, str], executable: str) -> None:
    """Refuse a start on this machine that cannot succeed. With ``--force``, vLLM decides.

    Args:
        spec: the server.
        environ: the kernel's environment.
        executable: the absolute path of vLLM.

    Raises:
        InvalidOption: vLLM would refuse the value of a flag.
        StartFailed: the model or the machine lacks something that the start needs.
    """
    if spec.force:
        return
    start = PlannedStart(spec, environ, executable)
    for one in CHECKS:
        one(start)
