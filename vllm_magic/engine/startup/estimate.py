"""Estimate the progress of a start, as a share of its time, from how long the stages of an earlier start took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.startup.stages import ORDER, Progress, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Seconds of each stage, for the bar of a first start. The proportions are those of a small model (see bench/); graphs and
# compilation are as long as vLLM's own log lines say for a GPU. The time left is never estimated from these.
USUAL: Mapping[Stage, float] = {
    Stage.IMPORTING: 8.0,
    Stage.CONFIGURING: 4.0,
    Stage.ENGINE: 10.0,
    Stage.LOADING: 10.0,
    Stage.COMPILING: 10.0,
    Stage.MEMORY: 2.0,
    Stage.WARMING: 2.0,
    Stage.GRAPHS: 8.0,
    Stage.SERVING: 1.0,
}
# A stage is reported as late if it takes both times as long as before, and these seconds longer.
LATE_FACTOR = 3.0
LATE_BY = 10.0
# Seconds left, at which the end of a start that already takes longer than the earlier one is not estimated any more.
SOON = 1.0


@dataclass(frozen=True)
class Estimate:
    """The progress of a start.

    Attributes:
        share: the share of the start's time that has passed, 0.0 to 1.0.
        left: the seconds until the server is ready; None if there was no earlier start.
        late: the seconds that the stage took in the earlier start, if it takes much longer now; else None.
        is_least: whether ``left`` is only the time of the stages that follow: this stage has taken as long as before.
        longer_than: the seconds that the earlier start took, if this start takes longer and its last stage should be over; else
            None.
    """

    share: float
    left: float | None = None
    late: float | None = None
    is_least: bool = False
    longer_than: float | None = None


class Pace:
    """Compares the stages of one start with those of an earlier start. For one thread, or under a lock.

    Args:
        earlier: the seconds of each stage of an earlier start; empty if there was none.
        clock: returns the time in seconds.
    """

    def __init__(self, earlier: Mapping[Stage, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._earlier = dict(earlier)
        self._clock = clock
        self._stage = Stage.QUEUED
        self._since = clock()
        self._taken: dict[Stage, float] = {}
        self._best = 0.0
        self._downloaded = False

    def move(self, progress: Progress) -> None:
        """Note that the start has come to this point."""
        self._downloaded |= progress.download is not None
        if progress.stage is not self._stage:
            now = self._clock()
            self._taken[self._stage] = self._taken.get(self._stage, 0.0) + now - self._since
            self._stage, self._since = progress.stage, now

    def taken(self) -> dict[Stage, float]:
        """Return the seconds of each stage so far, for the next start; {} after a download, which is not repeated."""
        return (
            {} if self._downloaded else {stage: self._taken[stage] for stage in USUAL if stage in self._taken}
        )

    def estimate(self, progress: Progress) -> Estimate:
        """Return the progress of the start. The share never falls."""
        plan = self._earlier or USUAL
        whole = sum(plan.values())
        here = plan.get(progress.stage, 0.0)
        spent = self._clock() - self._since if progress.stage is self._stage else 0.0
        done = sum(
            seconds for stage, seconds in plan.items() if ORDER.index(stage) < ORDER.index(progress.stage)
        )
        done += min(here, _counted(progress) * here if progress.counted else spent)
        self._best = max(self._best, min(1.0, done / whole) if whole else 0.0)
        if not self._earlier or progress.download is not None or progress.stage is Stage.QUEUED:
            return Estimate(self._best)
        late = here if spent > max(here * LATE_FACTOR, here + LATE_BY) else None
        left = max(0.0, whole - done)
        taken = spent + sum(seconds for stage, seconds in self._taken.items() if stage is not Stage.QUEUED)
        longer_than = whole if left < SOON and taken > whole else None
        return Estimate(self._best, left, late, spent > here and not progress.counted, longer_than)


def _counted(progress: Progress) -> float:
    """Return the share of the stage that is done, by the counts in the log."""
    done, of = progress.counted or (0, 0)
    return min(1.0, done / of) if of else 0.0
