"""Small panels side by side as one SVG: how each cost grows. Its grey can be read on white and on black."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.plotting.svg_chart import BLUE, ORANGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GREY = "#7f7f7f"
COLOURS = (BLUE, ORANGE)
COLUMNS = 3
WIDTH, HEIGHT = 250, 150  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 34, 34  # around what is plotted in it


class Curve(NamedTuple):
    """Points (how many, the cost), and what they are."""

    legend: str
    points: tuple[tuple[float, float], ...]


class Panel(NamedTuple):
    """One cost; the first curve is ours."""

    title: str
    across: str
    curves: tuple[Curve, ...]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The panels as an SVG file."""
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="system-ui,sans-serif" font-size="11" fill="{GREY}">'
        ),
        f"<title>{escape(title)}</title>",
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join((*parts, "</svg>\n"))


def _panel(panel: Panel) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    most = max(x for curve in panel.curves for x, _ in curve.points)
    top = _round_up(max(y for curve in panel.curves for _, y in curve.points))

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (right - LEFT) * x / most, bottom - (bottom - TOP) * y / top

    yield _text(0, 12, panel.title, "start", ' font-weight="600"')
    for value in (0.0, top / 2, top):
        _, y = place(0, value)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GREY}" stroke-opacity="{0.3 if value else 0.9}"/>'
        yield _text(LEFT - 6, y + 4, f"{value:g}", "end")
    for x in dict.fromkeys(x for curve in panel.curves for x, _ in curve.points):
        anchor = "end" if x == most else "middle"
        yield _text(place(x, 0)[0], bottom + 14, f"{x:,.0f}", anchor)
    yield _text((LEFT + right) / 2, bottom + 28, panel.across, "middle")
    for number, (curve, colour) in enumerate(zip(panel.curves, COLOURS, strict=False)):
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve.points))
        yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for point in curve.points:
            x, y = place(*point)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
        if curve.legend:
            at = LEFT + 122 * number
            yield f'<path d="M{at} 22h14" stroke="{colour}" stroke-width="2"/>'
            yield _text(at + 18, 26, curve.legend, "start")


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 and 10, times a power of ten."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * times for times in (1, 2, 4, 5, 10) if unit * times >= value)
