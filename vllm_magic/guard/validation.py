"""What a field of a message or a record may hold: JSON comes from elsewhere, and may hold anything."""

from __future__ import annotations

import sys
from typing import Any


def text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def texts(value: Any) -> bool:
    """A list of strings."""
    return isinstance(value, list) and all(map(text, value))


def fields(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def environment(value: Any) -> bool:
    """An object of strings."""
    return isinstance(value, dict) and all(map(text, value.values()))


def whole(value: Any) -> bool:
    """A whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def identifier(value: Any) -> bool:
    """A pid, an inode, a port: what the kernel counts."""
    return whole(value) and 0 <= value < 2**63


def seconds(value: Any) -> bool:
    """A time; JSON as Python reads it has NaN and Infinity, and whole numbers that no float can hold."""
    return (whole(value) or isinstance(value, float)) and 0 <= value <= sys.float_info.max


def pair(value: Any) -> bool:
    """Two identifiers: [pid, start], [device, inode]."""
    return isinstance(value, list) and len(value) == 2 and all(map(identifier, value))  # noqa: PLR2004


def pairs(value: Any) -> bool:
    """A list of `pair`."""
    return isinstance(value, list) and all(map(pair, value))


def ends(value: Any) -> bool:
    """A list of [pid, start, name, how]."""
    return isinstance(value, list) and all(
        isinstance(row, list) and pair(row[:2]) and texts(row[2:]) and len(row) == 4  # noqa: PLR2004
        for row in value
    )
