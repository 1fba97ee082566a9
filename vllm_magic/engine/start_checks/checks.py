"""All checks of a start, in the order in which they are made. Each raises the error for a start that cannot succeed.

The checks of the flags are all made, and their problems are raised together.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.engine import executable
from vllm_magic.engine.start_checks import (
    flag_ranges,
    flag_values,
    gpu_limits,
    machine,
    model_folder,
    model_limits,
    model_name,
    named_files,
    parsers,
    silent_disk,
    stray_words,
    unknown_flags,
)
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import ExecutableNotFound, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot

FLAG_CHECKS: tuple[Callable[[PlannedStart], None], ...] = (
    stray_words.check,
    unknown_flags.check,
    flag_values.check,
    flag_ranges.check,
    named_files.check,
    parsers.check,
)


def _check_flags(start: PlannedStart) -> None:
    """Make all checks of the flags, so that one error tells all mistakes.

    Raises:
        InvalidOption: vLLM would refuse some flags or their values.
    """
    problems: list[str] = []
    for check_flags in FLAG_CHECKS:
        try:
            check_flags(start)
        except InvalidOption as error:
            problems += error.problems
    if problems:
        raise InvalidOption(*dict.fromkeys(problems))


# The checks that need no GPU.
MODEL_CHECKS: tuple[Callable[[PlannedStart], None], ...] = (
    silent_disk.check,
    _check_flags,
    model_name.check,
    model_folder.check,
)
CHECKS: tuple[Callable[[PlannedStart], None], ...] = (
    *MODEL_CHECKS,
    model_limits.check,
    gpu_limits.check,
    machine.check,
)


def check(
    spec: ServerSpec,
    environ: Mapping[str, str],
    path: str,
    now: Snapshot | None = None,
    freed_ports: Collection[int] = (),
) -> None:
    """Refuse a start on this machine that cannot succeed. With ``--force``, vLLM decides.

    Args:
        spec: the server.
        environ: the kernel's environment.
        path: the absolute path of vLLM.
        now: the GPUs as they are now; None if they have not been read. The GPUs are not checked then.
        freed_ports: ports that are in use now, and will be free when the server starts.

    Raises:
        InvalidOption: vLLM would refuse the value of a flag.
        StartFailed: the model or the machine lacks something that the start needs.
    """
    if spec.force:
        return
    start = PlannedStart(spec, environ, path, now, freed_ports)
    for check_start in CHECKS:
        check_start(start)


def check_gpus(spec: ServerSpec, environ: Mapping[str, str], path: str, now: Snapshot) -> None:
    """Refuse a start that cannot succeed on these GPUs, after `check` was called without them.

    Args:
        spec: the server.
        environ: the kernel's environment.
        path: the absolute path of vLLM.
        now: the GPUs as they are now.

    Raises:
        InvalidOption: there are too few GPUs for the flags, or the GPUs are too old for them.
    """
    if not spec.force:
        gpu_limits.check(PlannedStart(spec, environ, path, now))


def check_model(spec: ServerSpec, environ: Mapping[str, str]) -> None:
    """Make the checks of the flags and the model alone, for an estimate before a start. An estimate needs no vLLM.

    Raises:
        InvalidOption: vLLM would refuse some flags or their values.
        StartFailed: vLLM cannot load the model.
    """
    if spec.force or spec.cluster:  # a cluster has other files than this machine
        return
    path = None
    with suppress(ExecutableNotFound):
        path = executable.find(spec.executable)
    start = PlannedStart(spec, environ, path)
    for check_start in MODEL_CHECKS:
        check_start(start)
