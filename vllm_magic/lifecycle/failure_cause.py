"""Why a server ended by itself: what its log says, and who holds what it could not have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic.engine import port
from vllm_magic.engine.failures import explanations
from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.provisioning import preflight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.provisioning.base import Prepared


def find(
    prepared: Prepared, executable: str, log_tail: Sequence[str], exit_code: int | None, *, was_ready: bool
) -> Failure:
    """The cause, once nothing of the server runs any more.

    Args:
        prepared: the server.
        executable: the absolute path of vLLM.
        log_tail: the end of its log.
        exit_code: of its leader; negative for a signal, None if unknown.
        was_ready: whether it had answered.
    """
    if prepared.verifier.failure:
        return prepared.verifier.failure
    if was_ready:
        return explanations.explain_death(log_tail, exit_code, model=prepared.model)
    table = flag_table.load(executable)
    known = tuple(table.by_string) if table else flags.COMMON
    failure = explanations.explain(log_tail, exit_code, model=prepared.model, flags=known)
    if failure.port_taken:
        return _with_holder_of_port(failure, prepared.port)
    return _with_holders_of_memory(failure, prepared) if failure.memory_wanted else failure


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
