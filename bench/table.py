"""The rows of the result, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

HEADER = ("what", "ours", "raw", "ratio", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One number to reach.

    Attributes:
        what: was measured.
        unit: of `ours`, `raw` and, without a ratio, `goal`.
        ours: one or more measurements.
        goal: the most that is right: of the ratio where there is one, else of `ours`.
        raw: the same for the bare command, pair by pair; or in words what it did instead.
        below: whether `goal` itself is too much already.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    goal: float
    raw: tuple[float, ...] | str = "-"
    below: bool = True

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of the pairs; None where there are none."""
        if isinstance(self.raw, str):
            return None
        return median(ours / raw for ours, raw in zip(self.ours, self.raw, strict=True))

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        value = median(self.ours) if self.ratio is None else self.ratio
        return value < self.goal if self.below else value <= self.goal

    def cells(self) -> tuple[str, ...]:
        """Return the words to print under each of `HEADER`."""
        raw = self.raw if isinstance(self.raw, str) else _spread(self.raw, self.unit)
        ratio, unit = ("-", self.unit) if self.ratio is None else (f"{self.ratio:.3f}", "x")
        goal = f"{'<' if self.below else '<='} {self.goal:g} {unit}"
        return self.what, _spread(self.ours, self.unit), raw, ratio, goal, "yes" if self.met else "NO"


def render(rows: list[Row]) -> str:
    """Return the table as text."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _spread(values: tuple[float, ...], unit: str) -> str:
    text = f"{_number(median(values))} {unit}"
    if len(values) > 1:
        text += f" ({_number(min(values))}-{_number(max(values))})"
    return text


def _number(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"
