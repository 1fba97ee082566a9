"""Fake VRAM, where FAKE_GPU_DIR names the folder of a fake driver; nothing otherwise."""

from __future__ import annotations

import os

_held: list[int] = []
_sizes: list[int] = []
AWAKE_SHARE = 20  # what sleeps keeps one part in so many: its CUDA context


def hold(nbytes: int, rank: int, teardown_s: float = 0.0, *, kept_by_exec: bool = False) -> None:
    """Hold `nbytes` of the GPU of `rank` for the rest of this process's life.

    Forked children inherit what is held: fork first. CUDA_VISIBLE_DEVICES counts, as indices or fake UUIDs.

    Raises:
        RuntimeError: no such GPU is visible.
    """
    if "FAKE_GPU_DIR" not in os.environ:
        return
    from fake_gpu import fakegpu  # a sibling of this package; only there where there is a fake GPU

    _held.append(fakegpu.hold(nbytes, _gpu(rank), teardown_s=teardown_s))
    _sizes.append(nbytes)
    os.set_inheritable(_held[-1], kept_by_exec)


def sleep() -> None:
    """Give nearly all of it back, as sleep mode does, or take it again."""
    for held, size in zip(_held, _sizes, strict=True):
        asleep = os.fstat(held).st_size < size
        os.ftruncate(held, size if asleep else size // AWAKE_SHARE)


def _gpu(rank: int) -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return rank
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if rank >= len(names):
        raise RuntimeError(
            "Failed to infer device type" if not names else "CUDA error: invalid device ordinal"
        )
    return int(names[rank].rsplit("-", 1)[-1])
