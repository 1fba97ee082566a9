"""Durations: read from what people write (``90``, ``90s``, ``30m``, ``2h``, ``1h30m``), and written for people to read."""

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


def exact_text(seconds: float) -> str:
    """Return a duration that somebody chose as text for a person: "1 h 30 min", "1 min 30.5 s"."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = ((f"{hours}", "h"), (f"{minutes}", "min"), (f"{rest:.3g}", "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count != "0") or "0 s"


def short_text(seconds: float) -> str:
    """Return a measured or estimated duration as text for a person, in whole units, two at most: "2 h 0 min", "2 min 3 s"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
