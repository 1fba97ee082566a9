"""All checks of a start. Each raises the error for a start that cannot succeed, and one error tells the problems of all checks.

A check says nothing about what it cannot know, such as the files of a model that is not there. So the checks can be made in any
order, except that a disk must answer before a model is looked for on it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.engine import command, executable
from vllm_magic.engine.start_checks import (
    all_problems,
    download_space,
    endpoint,
    flag_ranges,
    flag_values,
    gpu_limits,
    machine,
    model_folder,
    model_limits,
    model_name,
    named_files,
    parsers,
    shadowed_modules,
    silent_disk,
    stray_words,
    unknown_flags,
)
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import ExecutableNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.errors import VllmMagicError
    from vllm_magic.gpu.devices import Snapshot

PROMISE = 1.0  # seconds in which a problem is told, however long another check waits

FLAG_CHECKS: tuple[Callable[[PlannedStart], None], ...] = (
    unknown_flags.check,
    flag_values.check,
    flag_ranges.check,
    named_files.check,
    parsers.check,
)
MODEL_CHECKS: tuple[Callable[[PlannedStart], None], ...] = (
    model_name.check,
    model_folder.check,
    model_limits.check,
    download_space.check,
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
    command.check_folder(spec)
    began = time.monotonic()
    start = PlannedStart(spec, environ, path, now, freed_ports)
    stray = all_problems.find((stray_words.check,), start)
    of_flags = all_problems.find(FLAG_CHECKS, start)
    of_machine = all_problems.find((machine.check, shadowed_modules.check), start)
    if stray or of_flags or of_machine:
        start.deadline = began + PROMISE
    of_model = _of_model(start, is_certain=not stray)
    others = all_problems.find((gpu_limits.check, endpoint.check), start)
    all_problems.tell([*stray, *of_flags, *of_model, *others, *of_machine])


def _of_model(start: PlannedStart, *, is_certain: bool) -> list[VllmMagicError]:
    """Return the errors of the checks of the model.

    Args:
        start: the start. If its model cannot be looked at, it has no folder from then on.
        is_certain: whether the name of the model is certain.
    """
    if not is_certain:  # such as a path with blanks, of which this may be only the beginning
        start.folder = None
        return []
    if silent := all_problems.find((silent_disk.check,), start):
        start.folder = None
        return silent
    return all_problems.find(MODEL_CHECKS, start)


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
    stray = all_problems.find((stray_words.check,), start)
    of_flags = all_problems.find(FLAG_CHECKS, start)
    all_problems.tell([*stray, *of_flags, *_of_model(start, is_certain=not stray)])
