"""Sizes of memory and of files as people read them."""

from __future__ import annotations

GIB = 2**30  # bytes


def gib(count: int | None, digits: int = 2) -> str:
    """Return bytes as text in GiB, with this many decimals; "?" where they are not known."""
    return "?" if count is None else f"{count / GIB:.{digits}f} GiB"


def gib_range(least: int, most: int, digits: int = 2) -> str:
    """Return a range of bytes as text in GiB, as `gib` writes them."""
    return f"{least / GIB:.{digits}f} to {gib(most, digits)}"


def gib_if_known(count: int | None) -> str:
    """Return the bytes that a process holds as text in a sentence."""
    return "an unknown amount" if count is None else gib(count, 1)
