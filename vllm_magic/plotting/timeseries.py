"""The samples of a server over time, from its start to its end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

from vllm_magic.linux.forks import ForkLock

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_SAMPLES = 600  # samples that a curve keeps

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurements of one server at one time.

    Attributes:
        at: the time, in seconds since the epoch.
        used: the bytes in use on each GPU of the machine, in the snapshot's order; () where the driver did not answer.
        held: the bytes that the server's processes hold on each of these GPUs; None where the driver does not say.
        running: the number of running requests; None while the server does not report it (it is not ready, runs with
            --disable-log-stats, or does not answer in time).
        waiting: the number of waiting requests; None as for `running`.
        prompt_rate: the prompt tokens per second since the sample before; None where there is no such sample.
        generation_rate: the generated tokens per second since the sample before; None as for `prompt_rate`.
    """

    at: float
    used: tuple[int | None, ...] = ()
    held: tuple[int | None, ...] = ()
    running: int | None = None
    waiting: int | None = None
    prompt_rate: float | None = None
    generation_rate: float | None = None


class Curve:
    """At most `MOST_SAMPLES` samples, which always span the server's whole time. Thread-safe.

    When the curve is full, each pair of neighbours becomes one sample with the larger of their values, and from then on new
    samples are merged in the same way. The newest sample is always kept as it was measured.
    """

    def __init__(self) -> None:
        self._samples: tuple[Sample, ...] = ()  # what `samples` returns
        # Protects all attributes below. Threads that read samples do not take this lock: a signal handler of the program may
        # interrupt such a thread, and wait for a thread that adds samples.
        self._lock = ForkLock()
        self._merged: list[Sample] = []  # each merged from `_step` samples, except the last
        self._step = 1
        self._count = 0  # the number of samples in the last sample of `_merged`
        self._newest: Sample | None = None
        self._baseline: tuple[int | None, ...] = ()
        self._gpus: frozenset[int] = frozenset()

    def begin(self, baseline: Iterable[int | None], gpus: Iterable[int]) -> None:
        """Note that the server runs now.

        Args:
            baseline: the bytes in use on each GPU of the machine before the start.
            gpus: the GPUs that the server was started for, as positions in `baseline`; none where vLLM chooses.
        """
        with self._lock:
            self._baseline = tuple(baseline)
            self._gpus |= frozenset(gpus)

    @property
    def baseline(self) -> tuple[int | None, ...]:
        """The bytes in use on each GPU of the machine before the start; () where the driver did not answer."""
        return self._baseline

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that the server has held memory on, or was started for, as positions in `Sample.used`."""
        return tuple(sorted(self._gpus))

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        with self._lock:
            if self._newest is not None:
                self._keep(self._newest)
            self._newest = sample
            self._samples = (*self._merged, sample)
            self._gpus |= {gpu for gpu, held in enumerate(sample.held) if held}

    def samples(self) -> tuple[Sample, ...]:
        """Return all samples, oldest first."""
        return self._samples

    def _keep(self, sample: Sample) -> None:
        if self._merged and self._count < self._step:
            self._merged[-1] = _merge(self._merged[-1], sample)
            self._count += 1
            return
        if len(self._merged) == MOST_SAMPLES - 1:  # an odd number, so the last sample stays alone
            pairs = zip_longest(self._merged[::2], self._merged[1::2])
            self._merged = [first if second is None else _merge(first, second) for first, second in pairs]
            self._step *= 2
            self._count = self._step // 2
            self._keep(sample)
            return
        self._merged.append(sample)
        self._count = 1


def _merge(first: Sample, second: Sample) -> Sample:
    """Return two neighbours as one sample, at the time of the first."""
    return Sample(
        at=first.at,
        used=_larger_of_each(first.used, second.used),
        held=_larger_of_each(first.held, second.held),
        running=_larger(first.running, second.running),
        waiting=_larger(first.waiting, second.waiting),
        prompt_rate=_larger(first.prompt_rate, second.prompt_rate),
        generation_rate=_larger(first.generation_rate, second.generation_rate),
    )


def _larger_of_each(first: tuple[int | None, ...], second: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return tuple(_larger(*pair) for pair in zip_longest(first, second))


def _larger(first: _Number | None, second: _Number | None) -> _Number | None:
    if first is None or second is None:
        return first if second is None else second
    return max(first, second)
