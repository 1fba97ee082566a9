"""Estimate whether a model fits on the GPUs as they are now, before a start.

The estimate refuses nothing. `provisioning.preflight` refuses a start for which vLLM would certainly find too little free
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import command
from vllm_magic.engine.capacity import advice, architecture, fit_view, weights
from vllm_magic.engine.capacity.advice import FitInput, FitOutcome, GpuRoom
from vllm_magic.engine.capacity.memory_need import need
from vllm_magic.engine.flags import flags
from vllm_magic.engine.models import hub, model_files
from vllm_magic.engine.start_checks import checks
from vllm_magic.errors import InvalidOption, NoEstimate, StartFailed
from vllm_magic.gpu import choice
from vllm_magic.gpu.visible import visible
from vllm_magic.sizes import GIB
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.engine.capacity.memory_need import Need
    from vllm_magic.engine.capacity.weights import Weights
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot

CPU_SPACE = "VLLM_CPU_KVCACHE_SPACE"  # GiB of KV cache for vLLM's CPU build (its platforms/cpu.py)


@dataclass(frozen=True)
class Fit(Viewable):
    """Whether a model fits, and what it needs of each GPU. Memory in bytes.

    Attributes:
        model: the name of the model.
        outcome: the outcome.
        verdict: the outcome as one line for a person.
        need: the need of each GPU.
        gpus: the GPUs with which the need was compared; () if no GPU reports its memory.
        context: the tokens of the longest request.
        kv_room: the bytes for the KV cache on each GPU; None if that cannot be known.
        requests: how many requests of `context` tokens have room at once, vLLM's "Maximum concurrency"; None if `kv_room`
            is None, and for a model without a KV cache.
        largest_context: the longest context that has room, in tokens; None if `kv_room` is None.
    """

    model: str
    outcome: FitOutcome
    verdict: str
    need: Need
    gpus: tuple[GpuRoom, ...]
    context: int
    kv_room: int | None
    requests: float | None
    largest_context: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the model fits; None if the estimate cannot tell."""
        unknown = self.outcome in (FitOutcome.CLOSE, FitOutcome.UNKNOWN)
        return None if unknown else self.outcome is FitOutcome.FITS

    @property
    def kv_tokens(self) -> int | None:
        """The tokens that the KV cache holds, which vLLM logs as "KV cache size"; None if `requests` is None."""
        return None if self.requests is None else int(self.requests * self.context)

    def view(self) -> View:
        """Return the verdict, what each GPU has to hold, and how sure that is."""
        return fit_view.view(self)


def fit(spec: ServerSpec, environ: Mapping[str, str], snapshot: Snapshot, *, online: bool = True) -> Fit:
    """Estimate whether a server that is not started yet would fit.

    Args:
        spec: the server.
        environ: the kernel's environment.
        snapshot: the GPUs as they are now.
        online: whether the Hub may be asked for a model that is not on this machine.

    Raises:
        InvalidOption: a flag has a value that vLLM refuses, or --gpus names a GPU that does not exist.
        NoEstimate: the model is not found, or is of a kind that is not known here.
    """
    environ = {**environ, **dict(spec.env)}
    candidates = _candidates(spec, environ, snapshot)
    config, stored = _described(spec, environ, online=online)
    count = command.gpu_count(spec.all_args)
    memory = min((gpu.total for gpu in candidates[:count] if gpu.total), default=None)

    def need_with(*more: str) -> Need:
        return need(config, stored, (*spec.all_args, *more), memory)

    wanted = need_with()
    rooms = _rooms(candidates, wanted.fraction)
    gpus = rooms[:count]
    kv_room = _kv_room(wanted, gpus, environ)
    context = wanted.context
    if wanted.automatic and kv_room is not None:
        context = max(1, wanted.kv.longest(kv_room, wanted.model.longest))
    requests = wanted.kv.requests(kv_room, context) if kv_room is not None and wanted.kv.block else None
    largest = None if kv_room is None else wanted.kv.longest(kv_room, wanted.model.longest)
    any_length = environ.get(architecture.ANY_LENGTH, "").strip().lower() in ("1", "true")
    case = FitInput(wanted, rooms, len(snapshot.gpus), kv_room, context, any_length, need_with)
    outcome = advice.assess(case)
    verdict = advice.line(case, outcome, requests, largest)
    return Fit(spec.model, outcome, verdict, wanted, gpus, context, kv_room, requests, largest)


def claim(spec: ServerSpec, environ: Mapping[str, str], snapshot: Snapshot) -> tuple[GpuRoom, ...]:
    """Return the GPUs that vLLM will use, with the memory that it claims on each, whatever the model.

    GPUs that do not report their memory are left out.

    Raises:
        InvalidOption: --gpus names a GPU that does not exist.
    """
    candidates = _candidates(spec, {**environ, **dict(spec.env)}, snapshot)
    count = command.gpu_count(spec.all_args)
    return _rooms(candidates, command.memory_fraction(spec.all_args))[:count]


def _rooms(gpus: Sequence[Gpu], fraction: float) -> tuple[GpuRoom, ...]:
    """Return the GPUs that report their memory; vLLM may use this fraction of each."""
    return tuple(
        GpuRoom(gpu.index, gpu.name, gpu.total, gpu.free, choice.needed(gpu, fraction))
        for gpu in gpus
        if gpu.total and gpu.free is not None
    )


def _described(
    spec: ServerSpec, environ: Mapping[str, str], *, online: bool
) -> tuple[dict[str, Any], Weights]:
    """Return the model's config and weights: from this machine if it has them, else from the Hub."""
    try:
        checks.check_model(spec, environ)
    except StartFailed as error:
        first, *others = error.problems
        raise NoEstimate(first).joined(others) from None
    folder = model_files.find(spec, environ)
    if folder is not None:
        try:
            return model_files.read_json(folder / "config.json"), weights.read(folder)
        except NoEstimate:
            if not online or folder.parent.name != "snapshots":
                raise
            # A snapshot in the cache may be incomplete: a part of it was not downloaded yet.
    elif not online:
        raise NoEstimate(f"{spec.model} is not on this machine.")
    return hub.ask(spec, environ)


def _candidates(spec: ServerSpec, environ: Mapping[str, str], snapshot: Snapshot) -> Sequence[Gpu]:
    """Return the GPUs that the server may use, in the order in which it takes them.

    If CUDA's order is not known, the GPUs with the most free memory come first.
    """
    if spec.gpus is None:
        seen = visible(snapshot.gpus, environ)
        return seen.gpus if seen.ordered else sorted(seen.gpus, key=lambda gpu: gpu.free or 0, reverse=True)
    try:
        chosen = choice.choose(spec.gpus, snapshot, command.gpu_count(spec.all_args), fraction=0.0)
    except ValueError as error:
        raise InvalidOption(str(error)) from None
    is_auto = spec.gpus.strip().lower() == "auto"
    return (*chosen, *(gpu for gpu in snapshot.gpus if is_auto and gpu not in chosen))


def _kv_room(wanted: Need, gpus: tuple[GpuRoom, ...], environ: Mapping[str, str]) -> int | None:
    """Return the bytes for the KV cache on one GPU, for an overhead in the middle of its range; None if not known."""
    if gpus:
        left = min(gpu.usable for gpu in gpus) - wanted.weights - sum(wanted.overhead) // 2
        return left if wanted.kv_room is None else wanted.kv_room
    space = environ.get(CPU_SPACE, "")
    return int(space) * GIB if flags.is_whole_number(space) else wanted.kv_room
