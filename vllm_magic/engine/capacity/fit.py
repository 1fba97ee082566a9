"""Whether a model will fit on the GPUs as they are now, before anything is started.

`room` refuses what vLLM would certainly refuse for want of free memory; this here estimates all of it, and only tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import command
from vllm_magic.engine.capacity import advice, weights
from vllm_magic.engine.capacity.advice import Case, FitOutcome, GpuRoom
from vllm_magic.engine.capacity.memory_need import need
from vllm_magic.engine.flags import flags
from vllm_magic.engine.models import hub, model_files
from vllm_magic.errors import InvalidOption, NoEstimate
from vllm_magic.gpu import choice
from vllm_magic.gpu.visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.engine.capacity.memory_need import Need
    from vllm_magic.engine.capacity.weights import Weights
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot

GIB = 2**30
CPU_SPACE = "VLLM_CPU_KVCACHE_SPACE"  # GiB of KV cache for vLLM's CPU build (its platforms/cpu.py)
ANY_LENGTH = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"  # config/model.py


@dataclass(frozen=True)
class Fit:
    """Whether a model fits, and what it needs of each GPU. Memory in bytes.

    Attributes:
        model: its name.
        outcome: what came out.
        verdict: the same for a person, one line.
        need: of each GPU.
        gpus: those that it was compared with; () where none tells its memory.
        context: tokens of the longest request.
        kv_room: for the KV cache of each GPU; None where there is nothing to tell it by.
        requests: how many requests of `context` tokens have room at once, vLLM's "Maximum concurrency"; None as
            for `kv_room`, and for a model without a KV cache.
        largest_context: the longest that has room; None as for `kv_room`.
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
        """None where that cannot be told."""
        unknown = self.outcome in (FitOutcome.CLOSE, FitOutcome.UNKNOWN)
        return None if unknown else self.outcome is FitOutcome.FITS

    @property
    def kv_tokens(self) -> int | None:
        """Tokens in the KV cache, which vLLM logs as "KV cache size"; None as for `requests`."""
        return None if self.requests is None else int(self.requests * self.context)


def fit(spec: ServerSpec, environ: Mapping[str, str], now: Snapshot, *, online: bool = True) -> Fit:
    """Judge a server that is not started yet.

    Args:
        spec: what would be served, and how.
        environ: the kernel's environment.
        now: the GPUs.
        online: whether the Hub may be asked for a model that is not on this machine.

    Raises:
        InvalidOption: a flag has a value that vLLM refuses, or --gpus names what is not there.
        NoEstimate: the model is not known, or not of a kind that is known here.
    """
    environ = {**environ, **dict(spec.env)}
    candidates = _candidates(spec, environ, now)
    config, stored = _described(spec, environ, online=online)
    count = command.gpu_count(spec.all_args)
    memory = min((gpu.total for gpu in candidates[:count] if gpu.total), default=None)

    def again(*more: str) -> Need:
        return need(config, stored, (*spec.all_args, *more), memory)

    wanted = again()
    rooms = _rooms(candidates, wanted.fraction)
    gpus = rooms[:count]
    kv_room = _kv_room(wanted, gpus, environ)
    context = wanted.context
    if wanted.automatic and kv_room is not None:
        context = max(1, wanted.kv.longest(kv_room, wanted.model.longest))
    requests = wanted.kv.requests(kv_room, context) if kv_room is not None and wanted.kv.block else None
    largest = None if kv_room is None else wanted.kv.longest(kv_room, wanted.model.longest)
    any_length = environ.get(ANY_LENGTH, "").strip().lower() in ("1", "true")
    case = Case(wanted, rooms, len(now.gpus), kv_room, context, any_length, again)
    outcome = advice.judge(case)
    said = advice.line(case, outcome, requests, largest)
    return Fit(spec.model, outcome, said, wanted, gpus, context, kv_room, requests, largest)


def claim(spec: ServerSpec, environ: Mapping[str, str], now: Snapshot) -> tuple[GpuRoom, ...]:
    """What vLLM will take of each GPU that it will use, whatever the model; () where no GPU tells its memory.

    Raises:
        InvalidOption: --gpus names what is not there.
    """
    candidates = _candidates(spec, {**environ, **dict(spec.env)}, now)
    count = command.gpu_count(spec.all_args)
    return _rooms(candidates, command.memory_fraction(spec.all_args))[:count]


def _rooms(gpus: Sequence[Gpu], fraction: float) -> tuple[GpuRoom, ...]:
    return tuple(
        GpuRoom(gpu.index, gpu.name, gpu.total, gpu.free, choice.needed(gpu, fraction))
        for gpu in gpus
        if gpu.total and gpu.free is not None
    )


def _described(
    spec: ServerSpec, environ: Mapping[str, str], *, online: bool
) -> tuple[dict[str, Any], Weights]:
    """The model's config and weights, from this machine where they are on it."""
    folder = model_files.find(spec, environ)
    if folder is not None:
        try:
            return model_files.read_json(folder / "config.json"), weights.read(folder)
        except NoEstimate:
            if not online or folder.parent.name != "snapshots":
                raise  # else not all of it has been downloaded yet
    elif not online:
        raise NoEstimate(f"{spec.model} is not on this machine.")
    return hub.ask(spec, environ)


def _candidates(spec: ServerSpec, environ: Mapping[str, str], now: Snapshot) -> Sequence[Gpu]:
    """The GPUs that it may use, those first that it takes first; the freest where CUDA's order is not known."""
    if spec.gpus is None:
        seen = visible(now.gpus, environ)
        return seen.gpus if seen.ordered else sorted(seen.gpus, key=lambda gpu: gpu.free or 0, reverse=True)
    try:
        chosen = choice.choose(spec.gpus, now, command.gpu_count(spec.all_args), fraction=0.0)
    except ValueError as error:
        raise InvalidOption(str(error)) from None
    is_auto = spec.gpus.strip().lower() == "auto"
    return (*chosen, *(gpu for gpu in now.gpus if is_auto and gpu not in chosen))


def _kv_room(wanted: Need, gpus: tuple[GpuRoom, ...], environ: Mapping[str, str]) -> int | None:
    """Bytes for the KV cache on one GPU, with an overhead in the middle of what it may be."""
    if gpus:
        left = min(gpu.usable for gpu in gpus) - wanted.weights - sum(wanted.overhead) // 2
        return left if wanted.kv_room is None else wanted.kv_room
    space = environ.get(CPU_SPACE, "")
    return int(space) * GIB if flags.is_whole_number(space) else wanted.kv_room
