"""Panels below each other with one time axis, as SVG. The caller decides the content, and this module the look.

Text and lines take the colours of JupyterLab's theme, or of VS Code's, or the colour that `themed` gives them; without any of
these they are grey, which can be read on white and on black. The colours of the curves are from Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BLUE, ORANGE, GREEN, RED = "#56B4E9", "#E69F00", "#009E73", "#D55E00"
_PAGE = "--vllm-magic-text"  # the colour of the page's text
TEXT = f"var(--jp-ui-font-color1,var(--vscode-foreground,var({_PAGE},#7f7f7f)))"
_FAINT = f"var(--jp-ui-font-color3,var(--vscode-descriptionForeground,var({_PAGE},#7f7f7f)))"
_FONT = "var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif))"

# Pixels, before the figure is scaled to the width that there is.
WIDTH, LEFT, RIGHT = 760, 52, 16
_TITLE, _ROW, _HEADER, _GAP, _AXIS = 22, 14, 20, 12, 22
_CHARACTER = 6.1  # of the small font, on average
_SWATCH = 14
_MOST_TICKS = 8
_STEPS = (
    *(0.5, 1, 2, 5, 10, 20),  # seconds
    *(60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 14400, 28800, 43200),
    *(86400 * 2**power for power in range(12)),
)


class CurveStyle(Enum):
    """How a curve is drawn."""

    LINE = "line"
    AREA = "area"
    STRONG_AREA = "strong area"
    LEVEL = "level"  # dashed, over the whole width


@dataclass(frozen=True)
class Series:
    """One curve: its points are pairs of seconds and a value; a value that is not known is None."""

    legend: str
    color: str
    points: tuple[tuple[float, float | None], ...]
    kind: CurveStyle = CurveStyle.LINE


@dataclass(frozen=True)
class Axes:
    """A panel: curves with one scale; ``whole`` says whether their values are whole numbers."""

    title: str
    series: tuple[Series, ...]
    height: int
    whole: bool = False


@dataclass(frozen=True)
class Mark:
    """An event at ``at`` seconds."""

    at: float
    text: str
    color: str = TEXT


@dataclass(frozen=True)
class Chart:
    """The whole figure.

    Attributes:
        title: the line above the panels.
        words: the description for readers who cannot see the figure.
        panels: the panels, from the top.
        marks: the events, in the order of time; each is a vertical line through all panels.
        seconds: the length of the time axis, in seconds.
        notes: the lines below the panels.
    """

    title: str
    words: str
    panels: tuple[Axes, ...]
    marks: tuple[Mark, ...]
    seconds: float
    notes: tuple[str, ...] = ()


def draw(chart: Chart) -> str:
    """Return the chart as an ``<svg>`` element without a script or a style sheet."""
    return _Drawing(chart).svg()


def themed(svg: str) -> str:
    """Return HTML in which a chart has the colour of the page's text, also in pages without variables (Colab, marimo)."""
    return f'<div style="{_PAGE}:currentColor">{svg}</div>'


class _Drawing:
    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._parts: list[str] = []
        self._seconds = max(chart.seconds, 1e-3)

    def svg(self) -> str:
        chart = self._chart
        self._text(0, 12, chart.title, "font-weight:600;font-size:13px")
        labels = list(_rows(chart.marks, self._x))
        y = float(_TITLE)
        for number, panel in enumerate(chart.panels):
            y += _HEADER
            self._header(panel, y - 6)
            if number == 0:
                self._labels(labels, y)
                y += _ROW * (1 + max((row for *_, row in labels), default=-1))
            self._panel(panel, y)
            for mark, x, *_ in labels:
                self._mark(mark, x, y, y + panel.height)
            y += panel.height + _GAP
        if chart.panels:
            self._time_axis(y - _GAP)
            y += _AXIS - _GAP
        for note in chart.notes:
            y += _ROW
            self._text(0, y - 4, note)
        title, words = escape(chart.title), escape(chart.words)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {y:.0f}" '
            f'width="{WIDTH}" height="{y:.0f}" '
            f'style="width:100%;max-width:{WIDTH}px;height:auto;font-family:{_FONT};font-size:11px">'
            f"<title>{title}</title><desc>{words}</desc>{''.join(self._parts)}</svg>"
        )

    def _x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at / self._seconds, 0.0), 1.0)

    def _panel(self, panel: Axes, top: float) -> None:
        bottom = top + panel.height
        values = (value for series in panel.series for _, value in series.points if value is not None)
        peak = max(values, default=0.0)
        scale, ticks = _scale(peak, whole=panel.whole)

        def height(value: float) -> float:
            return bottom - panel.height * min(max(value / scale, 0.0), 1.0)

        for tick in ticks:
            y = height(tick)
            self._line(LEFT, y, WIDTH - RIGHT, y, f"stroke:{_FAINT};stroke-opacity:{0.35 if tick else 0.9}")
            self._text(LEFT - 6, y + 4, _number(tick), f"fill:{_FAINT}", "end")
        for series in panel.series:
            points = [(self._x(at), None if value is None else height(value)) for at, value in series.points]
            for known, run in groupby(points, key=lambda point: point[1] is not None):
                if known:
                    self._curve([(x, y) for x, y in run if y is not None], series, bottom)

    def _curve(self, points: list[tuple[float, float]], series: Series, bottom: float) -> None:
        if len(points) == 1:  # between two gaps
            x, y = points[0]
            self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" style="fill:{series.color}"/>')
            return
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        if series.kind in (CurveStyle.AREA, CurveStyle.STRONG_AREA):
            opacity = 0.2 if series.kind is CurveStyle.AREA else 0.65
            around = f"{points[0][0]:.1f},{bottom:.1f} {way} {points[-1][0]:.1f},{bottom:.1f}"
            self._parts.append(
                f'<polygon points="{around}" style="fill:{series.color};fill-opacity:{opacity}"/>'
            )
        dashes = ";stroke-dasharray:5 4" if series.kind is CurveStyle.LEVEL else ""
        self._parts.append(
            f'<polyline points="{way}" style="fill:none;stroke:{series.color};stroke-width:1.5;stroke-linejoin:round{dashes}"/>'
        )

    def _header(self, panel: Axes, y: float) -> None:
        """Draw the title, and the legend from the right, the last series first."""
        self._text(LEFT, y, panel.title, "font-weight:600")
        x = float(WIDTH - RIGHT)
        for series in reversed(panel.series):
            x -= _width(series.legend)
            self._text(x, y, series.legend)
            x -= _SWATCH + 4
            if series.kind in (CurveStyle.AREA, CurveStyle.STRONG_AREA):
                opacity = 0.2 if series.kind is CurveStyle.AREA else 0.75
                style = f"fill:{series.color};fill-opacity:{opacity};stroke:{series.color}"
                self._parts.append(
                    f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="{_SWATCH - 2}" height="8" style="{style}"/>'
                )
            else:
                dashes = ";stroke-dasharray:4 3" if series.kind is CurveStyle.LEVEL else ""
                self._line(x, y - 4, x + _SWATCH - 1, y - 4, f"stroke:{series.color};stroke-width:2{dashes}")
            x -= 14

    def _time_axis(self, bottom: float) -> None:
        step = next((step for step in _STEPS if self._seconds / step < _MOST_TICKS), _STEPS[-1])
        count = int(self._seconds / step)
        for number in range(count + 1):
            x = self._x(number * step)
            self._line(x, bottom, x, bottom + 4, f"stroke:{_FAINT}")
            anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
            self._text(x, bottom + 16, _time(number * step, step), f"fill:{_FAINT}", anchor)

    def _labels(self, labels: Sequence[tuple[Mark, float, str, int]], top: float) -> None:
        bottom = top + _ROW * (1 + max((row for *_, row in labels), default=-1))
        for mark, x, anchor, row in labels:
            y = top + _ROW * row
            self._mark(mark, x, y, bottom)
            self._text(x + (4 if anchor == "start" else -4), y + 9, mark.text, f"fill:{mark.color}", anchor)

    def _mark(self, mark: Mark, x: float, top: float, bottom: float) -> None:
        self._line(x, top, x, bottom, f"stroke:{mark.color};stroke-opacity:0.7;stroke-dasharray:2 2")

    def _line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>')

    def _text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        style = style if "fill:" in style else f"fill:{TEXT};{style}"
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style.rstrip(";")}">{escape(text)}</text>'
        )


def _rows(marks: Sequence[Mark], place: Callable[[float], float]) -> Iterator[tuple[Mark, float, str, int]]:
    """Yield each mark with the x of its line, the anchor and the row of its text.

    A text is right of its line, or left of its line if there is no room. Each text is placed below the earlier texts that it
    would overlap. No line of an earlier mark crosses it, because of the order: first come the texts left of their lines,
    from the right, then the texts right of their lines, from the left.
    """
    right: list[tuple[Mark, float]] = []
    left: list[tuple[Mark, float]] = []
    limit = float(WIDTH)  # the edge, or the line of the last mark whose text is left of its line
    for mark in sorted(marks, key=lambda mark: -mark.at):
        x = place(mark.at)
        if x + _wide(mark) > limit:
            left.append((mark, x))
            limit = x
        else:
            right.insert(0, (mark, x))
    placed: list[tuple[float, float, float, int]] = []  # x of the line, beginning and end of the text, row
    for mark, x in (*left, *right):
        anchor = "end" if (mark, x) in left else "start"
        begin = x if anchor == "start" else x - _wide(mark)
        rows = range(len(placed) + 1)
        span = (x, begin, begin + _wide(mark))
        row = next(row for row in rows if not any(_cross((*span, row), other) for other in placed))
        placed.append((*span, row))
        yield mark, x, anchor, row


def _cross(first: tuple[float, float, float, int], second: tuple[float, float, float, int]) -> bool:
    """Whether two texts overlap, or the line of one mark, which goes down from its row, crosses the text of the other mark."""
    (x1, begin1, end1, row1), (x2, begin2, end2, row2) = first, second
    if row1 == row2:
        return begin1 < end2 and begin2 < end1
    return begin1 < x2 < end1 if row2 < row1 else begin2 < x1 < end2


def _scale(peak: float, *, whole: bool) -> tuple[float, tuple[float, ...]]:
    """Return the value at the top of the scale, and the values at its lines."""
    if peak <= 0:
        return 1.0, (0.0, 1.0)
    unit = 10.0 ** math.floor(math.log10(peak))
    top = next(unit * times for times in (1, 2, 4, 5, 10) if unit * times >= peak * 0.9999)
    if whole and top % 2:
        top = max(top, 1.0)
        return top, (0.0, top)
    return top, (0.0, top / 2, top)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"  # noqa: PLR2004 - where commas begin


def _time(at: float, step: float) -> str:
    if not at:
        return "0"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if step >= unit:
            return f"{at / unit:g} {name}"
    return f"{at:g} s"


def _wide(mark: Mark) -> float:
    return _width(mark.text) + 8


def _width(text: str) -> float:
    return len(text) * _CHARACTER
