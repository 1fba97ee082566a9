"""The figure of a server from its start to its end: VRAM, tokens and requests, from the samples that were kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.errors import one_line
from vllm_magic.plotting import svg_chart
from vllm_magic.plotting.svg_chart import BLUE, GREEN, ORANGE, RED, Axes, Chart, CurveStyle, Mark, Series
from vllm_magic.sizes import GIB, gib
from vllm_magic.view import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllm_magic.plotting.timeseries import Curve, Sample

_SECONDS_AFTER_END = 2.0  # the least time after the end that the figure shows
_SHARE_AFTER_END = 0.1  # the same as a share of the server's time, if that is longer
_MOST_NAMED_GPUS = 3  # a heading has room for the numbers of so many GPUs
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
        samples = [sample for sample in plot.curve.samples() if sample.at >= self._began]
        last_sample = max((sample.at - self._began for sample in samples), default=0.0)
        last_state = max(self._times.values(), default=0.0)
        over = max((self._times[state] for state in _OVER if state in self._times), default=None)
        self.seconds = max(last_state, last_sample)
        if over is not None:
            shown_until = over + max(_SECONDS_AFTER_END, over * _SHARE_AFTER_END)
            self.seconds = max(last_state, min(last_sample, shown_until))
        self._samples = [sample for sample in samples if sample.at - self._began <= self.seconds]
        used = max((sample.used for sample in self._samples), key=len, default=())
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
        used = self._points(lambda sample: _gib(_sum(sample.used, self._gpus)))
        held = self._points(lambda sample: _gib(_sum(sample.held, self._gpus)))
        if _known(used):
            count, numbers = len(self._gpus), ", ".join(map(str, self._gpus))
            named = f"GPU {numbers}" if count == 1 else f"GPUs {numbers}"
            where = named if count <= _MOST_NAMED_GPUS else f"{count} GPUs"
            series = [self._series("VRAM in use", "in use", BLUE, used, CurveStyle.AREA, "GiB")]
            if _known(held):
                series.append(
                    self._series("VRAM held by it", "held by it", BLUE, held, CurveStyle.STRONG_AREA, "GiB")
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
        running = self._points(lambda sample: sample.running)
        if not _known(running):
            self.notes += ("Tokens and requests: the server has not reported any.",)
            return
        rates = (
            self._series("tokens/s in", "in", ORANGE, self._points(lambda sample: sample.prompt_rate)),
            self._series("tokens/s out", "out", GREEN, self._points(lambda sample: sample.generation_rate)),
        )
        if any(_known(rate.points) for rate in rates):
            yield Axes("tokens/s", rates, 90)
        waiting = self._points(lambda sample: sample.waiting)
        requests = (
            self._series("requests running", "running", BLUE, running),
            self._series("requests waiting", "waiting", ORANGE, waiting),
        )
        yield Axes("requests", requests, 60, whole=True)

    def _series(
        self,
        name: str,
        short: str,
        color: str,
        points: tuple[tuple[float, _Value], ...],
        kind: CurveStyle = CurveStyle.LINE,
        unit: str = "",
    ) -> Series:
        """Return a series, and add the range of its values to `numbers`, under ``name``; ``short`` is its label."""
        known = _known(points)
        if not known:
            return Series(short, color, points, kind)
        digits = 2 if unit else 0 if all(isinstance(value, int) for value in known) else 1
        least, most = f"{min(known):,.{digits}f}", f"{max(known):,.{digits}f}"
        span = most if least == most else f"{least} to {most}"
        self.numbers.append((name, f"{span} {unit}".rstrip()))
        return Series(f"{short} {span}", color, points, kind)

    def _points(self, value: Callable[[Sample], _Value]) -> tuple[tuple[float, _Value], ...]:
        return tuple((sample.at - self._began, value(sample)) for sample in self._samples)

    def _marks(self) -> Iterator[Mark]:
        words = {"starting": "start", "ready": "ready", "stopping": "stop", "released": "released"}
        for state, at in sorted(self._times.items(), key=lambda entry: entry[1]):
            if state == "failed":
                yield Mark(at, "failed", RED)
            else:
                yield Mark(at, words[state])


def _sum(values: tuple[int | None, ...], gpus: tuple[int, ...]) -> int | None:
    """Return the sum over these GPUs; None if the value of a GPU is not known."""
    chosen = [values[gpu] for gpu in gpus if gpu < len(values)]
    known = [value for value in chosen if value is not None]
    return sum(known) if known and len(known) == len(gpus) else None


def _known(points: tuple[tuple[float, _Value], ...]) -> list[float]:
    return [value for _, value in points if value is not None]


def _gib(count: int | None) -> float | None:
    return None if count is None else count / GIB


def _seconds(at: float) -> str:
    return f"{at:.1f} s" if at < 60 else durations.short_text(at)  # noqa: PLR2004 - a minute
