"""The figure of a server from its start to its end: VRAM, tokens and requests, from the samples that were kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.errors import one_line
from vllm_magic.plotting import svg_chart
from vllm_magic.plotting.svg_chart import BLUE, GREEN, ORANGE, RED, Axes, Chart, CurveStyle, Mark, Series
from vllm_magic.sizes import GIB, gib
from vllm_magic.view import duration, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllm_magic.plotting.timeseries import Curve, Sample

_AFTER = (2.0, 0.1)  # what is shown after the end: seconds, or a share of the server's time if that is longer
_NAMED = 3  # GPUs whose numbers a heading has room for
_OVER = ("released", "failed")
_Value = float | int | None


@dataclass(frozen=True)
class Plot:
    """A figure in a notebook, and its numbers in a terminal.

    Attributes:
        name: the name of the server.
        model: the model that it serves.
        curve: the samples of the server.
        times: returns the time when the server entered each state so far, in seconds since the epoch, by the state's value.
    """

    name: str
    model: str
    curve: Curve
    times: Callable[[], Mapping[str, float]]

    def __repr__(self) -> str:
        figure = _Figure(self)
        return "\n".join((figure.title, figure.course, *table(("", ""), figure.numbers), *figure.notes))

    def _repr_html_(self) -> str:
        return svg_chart.themed(self.svg)

    @property
    def svg(self) -> str:
        """The figure as SVG, which is complete as a file of its own too."""
        figure = _Figure(self)
        words = "; ".join((figure.course, *(": ".join(row) for row in figure.numbers), *figure.notes))
        return svg_chart.draw(
            Chart(figure.title, words, figure.panels, figure.marks, figure.seconds, figure.notes)
        )


class _Figure:
    """The figure at one moment; the curve may still grow."""

    def __init__(self, plot: Plot) -> None:
        times = plot.times()
        self._began = min(times.values(), default=time.time())
        self._times = {state: at - self._began for state, at in times.items()}
        samples = [one for one in plot.curve.samples() if one.at >= self._began]
        last = max((one.at - self._began for one in samples), default=0.0)
        over = max((self._times[state] for state in _OVER if state in self._times), default=None)
        known = max(self._times.values(), default=0.0)
        self.seconds = max(known, last)
        if over is not None:
            self.seconds = max(known, min(last, over + max(_AFTER[0], over * _AFTER[1])))
        self._samples = [one for one in samples if one.at - self._began <= self.seconds]
        used = max((one.used for one in self._samples), key=len, default=())
        self._gpus = plot.curve.gpus or tuple(range(len(used)))
        self._baseline = _sum(plot.curve.baseline, self._gpus)
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._began))
        self.title = one_line(f"{plot.name} · {plot.model} · started {at}")
        self.numbers: list[tuple[str, str]] = []
        self.notes: tuple[str, ...] = ()
        self.panels = tuple(self._panels())
        self.marks = tuple(self._marks())
        self.course = ", ".join(f"{mark.text} at {_seconds(mark.at)}" for mark in self.marks)

    def _panels(self) -> Iterator[Axes]:
        used = self._series(lambda one: _gib(_sum(one.used, self._gpus)))
        held = self._series(lambda one: _gib(_sum(one.held, self._gpus)))
        if _known(used):
            count, numbers = len(self._gpus), ", ".join(map(str, self._gpus))
            where = (
                f"GPU {numbers}" if count == 1 else f"GPUs {numbers}" if count <= _NAMED else f"{count} GPUs"
            )
            series = [self._one("VRAM in use", "in use", BLUE, used, CurveStyle.AREA, "GiB")]
            if _known(held):
                series.append(
                    self._one("VRAM held by it", "held by it", BLUE, held, CurveStyle.STRONG_AREA, "GiB")
                )
            if self._baseline is not None:
                level = self._baseline / GIB
                self.numbers.append(("VRAM before the start", gib(self._baseline)))
                points = ((0.0, level), (self.seconds, level))
                series.append(
                    Series(f"before the start {level:.2f}", svg_chart.TEXT, points, CurveStyle.LEVEL)
                )
            yield Axes(f"VRAM on {where}, GiB", tuple(series), 130)
        else:
            self.notes += ("VRAM: no GPU was seen, or its driver did not answer.",)
        running = self._series(lambda one: one.running)
        if not _known(running):
            self.notes += ("Tokens and requests: the server has not reported any.",)
            return
        rates = (
            self._one("tokens/s in", "in", ORANGE, self._series(lambda one: one.prompt_rate)),
            self._one("tokens/s out", "out", GREEN, self._series(lambda one: one.generation_rate)),
        )
        if any(map(_known, (one.points for one in rates))):
            yield Axes("tokens/s", rates, 90)
        waiting = self._series(lambda one: one.waiting)
        requests = (
            self._one("requests running", "running", BLUE, running),
            self._one("requests waiting", "waiting", ORANGE, waiting),
        )
        yield Axes("requests", requests, 60, whole=True)

    def _one(
        self,
        name: str,
        short: str,
        color: str,
        points: tuple[tuple[float, _Value], ...],
        kind: CurveStyle = CurveStyle.LINE,
        unit: str = "",
    ) -> Series:
        known = _known(points)
        if not known:
            return Series(short, color, points, kind)
        digits = 2 if unit else 0 if all(isinstance(one, int) for one in known) else 1
        least, most = f"{min(known):,.{digits}f}", f"{max(known):,.{digits}f}"
        span = most if least == most else f"{least} to {most}"
        self.numbers.append((name, f"{span} {unit}".rstrip()))
        return Series(f"{short} {span}", color, points, kind)

    def _series(self, value: Callable[[Sample], _Value]) -> tuple[tuple[float, _Value], ...]:
        return tuple((one.at - self._began, value(one)) for one in self._samples)

    def _marks(self) -> Iterator[Mark]:
        words = {"starting": "start", "ready": "ready", "stopping": "stop", "released": "released"}
        for state, at in sorted(self._times.items(), key=lambda entry: entry[1]):
            if state == "failed":
                yield Mark(at, "failed", RED)
            else:
                yield Mark(at, words[state])


def _sum(values: tuple[int | None, ...], gpus: tuple[int, ...]) -> int | None:
    """Return the sum over these GPUs; None where the value of one is not known."""
    chosen = [values[gpu] for gpu in gpus if gpu < len(values)]
    known = [one for one in chosen if one is not None]
    return sum(known) if known and len(known) == len(gpus) else None


def _known(points: tuple[tuple[float, _Value], ...]) -> list[float]:
    return [value for _, value in points if value is not None]


def _gib(count: int | None) -> float | None:
    return None if count is None else count / GIB


def _seconds(at: float) -> str:
    return f"{at:.1f} s" if at < 60 else duration(at)  # noqa: PLR2004 - a minute
