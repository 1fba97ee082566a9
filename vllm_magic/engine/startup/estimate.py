"""How far a start is, in shares of its time: from how long the stages of an earlier one took, where there was one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.startup.stages import ORDER, Progress, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Seconds of each stage, for the bar of a first start: the proportions of a small model (see bench/), graphs and
# compilation as vLLM's own lines tell them for a GPU. No time left is told from these.
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
LATE = 3.0  # times as long as before, and
LATE_BY = 10.0  # seconds longer: only then it is worth a word


@dataclass(frozen=True)
class Estimate:
    """How far a start is.

    Attributes:
        share: of the time, 0.0 to 1.0.
        left: seconds until it is ready; None without an earlier start to go by.
        late: seconds that the stage took before, where it takes far longer now; else None.
    """

    share: float
    left: float | None = None
    late: float | None = None


class Pace:
    """Measures the stages of one start against those of an earlier one. For one thread, or under a lock.

    Args:
        earlier: seconds of each stage of an earlier start; empty where there was none.
        clock: gives seconds.
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
        """The start has come to this point."""
        self._downloaded |= progress.download is not None
        if progress.stage is not self._stage:
            now = self._clock()
            self._taken[self._stage] = self._taken.get(self._stage, 0.0) + now - self._since
            self._stage, self._since = progress.stage, now

    def taken(self) -> dict[Stage, float]:
        """Seconds of each stage so far that the next start may go by; {} after a download, which comes but once."""
        return (
            {} if self._downloaded else {stage: self._taken[stage] for stage in USUAL if stage in self._taken}
        )

    def estimate(self, progress: Progress) -> Estimate:
        """How far it is. The share never falls."""
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
        late = here if spent > max(here * LATE, here + LATE_BY) else None
        return Estimate(self._best, max(0.0, whole - done), late)


def _counted(progress: Progress) -> float:
    done, of = progress.counted or (0, 0)
    return min(1.0, done / of) if of else 0.0
