"""Checks for the fields of messages and records, which are JSON from other processes and may hold any value."""

from __future__ import annotations

import sys
from typing import Any


def text(value: Any) -> bool:
    """Whether the value is a string."""
    return isinstance(value, str)


def texts(value: Any) -> bool:
    """Whether the value is a list of strings."""
    return isinstance(value, list) and all(map(text, value))


def fields(value: Any) -> bool:
    """Whether the value is an object."""
    return isinstance(value, dict)


def environment(value: Any) -> bool:
    """Whether the value is an object of strings."""
    return isinstance(value, dict) and all(map(text, value.values()))


def whole(value: Any) -> bool:
    """Whether the value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def identifier(value: Any) -> bool:
    """Whether the value can be a number that the system assigns: a pid, an inode, a port."""
    return whole(value) and 0 <= value < 2**63


def seconds(value: Any) -> bool:
    """Whether the value is a time in seconds. Python reads NaN, Infinity and too large whole numbers from JSON too."""
    return (whole(value) or isinstance(value, float)) and 0 <= value <= sys.float_info.max


def pair(value: Any) -> bool:
    """Whether the value is a list of two identifiers, such as [pid, start] or [device, inode]."""
    return isinstance(value, list) and len(value) == 2 and all(map(identifier, value))  # noqa: PLR2004


def pairs(value: Any) -> bool:
    """Whether the value is a list of pairs, see `pair`."""
    return isinstance(value, list) and all(map(pair, value))


def ended_processes(value: Any) -> bool:
    """Whether the value is a list of [pid, start, name, how]."""
    return isinstance(value, list) and all(
        isinstance(row, list) and pair(row[:2]) and texts(row[2:]) and len(row) == 4  # noqa: PLR2004
        for row in value
    )
