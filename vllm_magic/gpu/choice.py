"""Choose GPUs as the user asks: by index, by UUID, or by free memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllm_magic.gpu.devices import Gpu, Snapshot


class ShortageError(ValueError):
    """Too few GPUs have enough free memory now."""


def choose(wanted: str, snapshot: Snapshot, count: int = 1, fraction: float = 0.92) -> tuple[Gpu, ...]:
    """Return the GPUs that `wanted` names.

    Args:
        wanted: indices ("0,1"; "0:1" for a part of a GPU), or UUIDs or their beginnings ("GPU-5ab3,..."; "MIG-..." for a
            part), in the order in which they are wanted; or "auto" for the `count` GPUs with the most free memory, in the
            order of the snapshot.
        snapshot: all GPUs.
        count: the number of GPUs that are needed.
        fraction: the share of a GPU's memory that must be free for "auto"; vLLM asks for this share at its start
            (--gpu-memory-utilization). A GPU that does not report its memory comes last, and is not refused.

    Raises:
        ValueError: the GPUs cannot be chosen; one line says what is wrong, and what to do.
        ShortageError: too few GPUs have enough free memory for "auto".
    """
    uuids = [gpu.uuid for gpu in snapshot.gpus]
    if shared := [uuid for uuid in uuids if uuids.count(uuid) > 1]:
        raise ValueError(
            f"several GPUs have the UUID {shared[0]}, by which CUDA chooses: leave the choice out"
        )
    if not snapshot.gpus:
        raise ValueError(f"no GPU can be chosen: {snapshot.problem or 'no GPU found'}; leave the choice out")
    if wanted.strip().lower() == "auto":
        whole = [gpu for gpu in snapshot.gpus if not gpu.is_part]
        return _freest(snapshot.gpus if count == 1 else whole, count, fraction)
    chosen = [_named(entry.strip(), snapshot.gpus) for entry in wanted.split(",")]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{wanted!r} names a GPU twice: name each one once")
    if len(chosen) > 1 and any(gpu.is_part for gpu in chosen):
        raise ValueError(
            f"{wanted!r} names a part of a GPU (MIG) beside others, and CUDA shows a program only one part: name it alone"
        )
    if len(chosen) < count:
        raise ValueError(
            f"{count} GPUs are needed and {wanted!r} names {len(chosen)}: name more, or need fewer"
        )
    return tuple(chosen)


def cuda_visible_devices(gpus: Iterable[Gpu], *, by_uuid: bool = True) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES for these GPUs.

    Args:
        gpus: the GPUs.
        by_uuid: whether to name them by UUID, because CUDA's indices can differ. The indices of the result are CUDA's only
            with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    return ",".join(gpu.uuid if by_uuid else str(gpu.index) for gpu in gpus)


def _freest(gpus: Sequence[Gpu], count: int, fraction: float) -> tuple[Gpu, ...]:
    if count > len(gpus):
        raise ValueError(f"{count} GPUs are needed and there are only {len(gpus)}: need fewer")
    enough = [gpu for gpu in gpus if has_free(gpu, fraction)]
    if len(enough) < count:
        state = ", ".join(_shortage(gpu, fraction) for gpu in gpus if gpu not in enough)
        which = "no GPU has" if count == 1 else f"only {len(enough)} of the {count} GPUs that are needed have"
        raise ShortageError(f"{which} enough free memory ({state}): free some, or need less")
    freest = sorted(enough, key=lambda gpu: -1 if gpu.free is None else gpu.free, reverse=True)[:count]
    return tuple(gpu for gpu in gpus if gpu in freest)


def has_free(gpu: Gpu, fraction: float) -> bool:
    """Whether this share of the GPU's memory is free; True for a GPU that does not report its memory."""
    return gpu.free is None or gpu.free >= needed(gpu, fraction)


def needed(gpu: Gpu, fraction: float) -> int:
    """Return the bytes that vLLM needs free (request_memory in vllm/v1/worker/utils.py)."""
    return math.ceil((gpu.total or 0) * fraction)


def _shortage(gpu: Gpu, fraction: float) -> str:
    return f"GPU {gpu.index}: {gib(gpu.free or 0, 1)} free, {gib(needed(gpu, fraction), 1)} needed"


def _named(word: str, gpus: Sequence[Gpu]) -> Gpu:
    """Return the GPU that an index, a UUID or the beginning of a UUID names."""
    if word.lower().startswith(("gpu-", "mig-")):
        found = [gpu for gpu in gpus if gpu.uuid.lower().startswith(word.lower())]
    else:
        found = [gpu for gpu in gpus if str(gpu.index) == word]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{word!r} fits {len(found)} GPUs: write more of the UUID")
    if parts := [gpu for gpu in gpus if gpu.is_part and str(gpu.index).startswith(f"{word}:")]:
        raise ValueError(f"GPU {word} is divided (MIG): name one of its parts, {_listed(parts)}")
    raise ValueError(f"there is no GPU {word!r}: there are {_listed(gpus)}")


def _listed(gpus: Iterable[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
