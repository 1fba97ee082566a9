"""Find out why a server ended by itself: from its log, and from the holders of the port or the memory that it needed."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine import port
from vllm_magic.engine.failures import explanations
from vllm_magic.engine.failures.hints import HintContext
from vllm_magic.engine.failures.machine_facts import MachineFacts
from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.linux import memory
from vllm_magic.provisioning import preflight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.provisioning.base import Prepared


def find(
    prepared: Prepared,
    executable: str,
    log_tail: Sequence[str],
    exit_code: int | None,
    *,
    was_ready: bool,
    oom_kills_before: int,
) -> Failure:
    """Return the cause, once no process of the server runs any more.

    Args:
        prepared: the server.
        executable: the absolute path of vLLM.
        log_tail: the last lines of its log.
        exit_code: the exit code of its leader; negative for a signal, None if unknown.
        was_ready: whether the server was ready before.
        oom_kills_before: the value of `memory.oom_kills` before its start.
    """
    if prepared.verifier.failure:
        return prepared.verifier.failure
    table = flag_table.load(executable)
    context = HintContext(
        tuple(table.by_string) if table else flags.WELL_KNOWN,
        prepared.model,
        str(Path(executable).with_name("python")),
        _machine_facts(oom_kills_before),
    )
    if was_ready:
        return explanations.explain_death(log_tail, exit_code, context)
    failure = explanations.explain(log_tail, exit_code, context)
    if failure.port_taken:
        return _with_holder_of_port(failure, prepared.port)
    return _with_holders_of_memory(failure, prepared) if failure.memory_wanted else failure


def _machine_facts(oom_kills_before: int) -> MachineFacts:
    shared_memory = None
    with contextlib.suppress(OSError):
        found = os.statvfs("/dev/shm")  # noqa: S108 - only its size is read
        shared_memory = found.f_blocks * found.f_frsize
    return MachineFacts(
        shared_memory,
        memory.limit(),
        memory.oom_kills() > oom_kills_before,
        _limit(resource.RLIMIT_NPROC),
        _limit(resource.RLIMIT_NOFILE),
    )


def _limit(of: int) -> int | None:
    soft, _ = resource.getrlimit(of)
    return None if soft == resource.RLIM_INFINITY else soft


def _with_holder_of_port(failure: Failure, number: int) -> Failure:
    holder = port.holder(number)
    return replace(failure, cause=f"Port {number} is taken by {holder}") if holder else failure


def _with_holders_of_memory(failure: Failure, prepared: Prepared) -> Failure:
    usable = [gpu for gpu in prepared.verifier.observe_now().gpus if gpu.uuid in prepared.gpus]
    short = [gpu for gpu in usable if gpu.free is not None and gpu.free < failure.memory_wanted]
    holders = preflight.holders(short)
    return (
        replace(failure, cause=f"{failure.cause}; held by {preflight.holders_text(holders)}")
        if holders
        else failure
    )
