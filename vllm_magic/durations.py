"""Durations as people write them: ``90``, ``90s``, ``30m``, ``2h``, ``1h30m``."""

from __future__ import annotations

import re

MOST = 10**6  # seconds; poll(2) takes 2**31 milliseconds at most
_UNITS = {"h": 3600, "m": 60, "s": 1}
_WRITTEN = re.compile(r"(?=\d)(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", re.ASCII)


def parse(text: str) -> float:
    """Return a duration in seconds; a number without a unit is in seconds.

    Raises:
        ValueError: the text is not a duration, or the duration is negative or longer than `MOST`.
    """
    written = _WRITTEN.fullmatch(text)
    parts = zip(_UNITS.values(), written.groups(default="0"), strict=True) if written else [(1, text)]
    seconds = sum(unit * float(part) for unit, part in parts)
    if not 0 <= seconds <= MOST:
        raise ValueError(f"{text!r} is not a length of time")
    return seconds


def text(seconds: float) -> str:
    """The length for people to read: "1 h 30 min", "90.5 s" as "1 min 30.5 s"."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = ((f"{hours}", "h"), (f"{minutes}", "min"), (f"{rest:.3g}", "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count != "0") or "0 s"
