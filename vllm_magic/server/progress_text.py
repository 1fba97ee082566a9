"""The progress of a start, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from vllm_magic.engine.models.download import Download
    from vllm_magic.engine.startup.estimate import Estimate
    from vllm_magic.engine.startup.stages import Progress
    from vllm_magic.server.status import ServerStatus


def line(now: ServerStatus) -> str:
    """Return "name: stage, seconds" as one line."""
    return f"{now.name}: {stage_text(now.progress, now.estimate)} \N{MIDDLE DOT} {times(now)}"


def times(now: ServerStatus) -> str:
    """Return the seconds since the start was requested, and what an earlier start says of the time left."""
    left = left_text(now.estimate)
    return f"{now.seconds:.0f} s, {left}" if left else f"{now.seconds:.0f} s"


def left_text(estimate: Estimate) -> str:
    """Return the time left as text, or how long the earlier start took if this one takes longer; "" without an earlier start."""
    if estimate.left is None:
        return ""
    if estimate.longer_than is not None:
        return f"longer than the last start ({durations.short_text(estimate.longer_than)})"
    return (
        f"{'at least' if estimate.is_least else 'about'} {durations.short_text(max(1.0, estimate.left))} left"
    )


def stage_text(progress: Progress, estimate: Estimate) -> str:
    """Return the stage as text, with its count or download, what it waits for, and a note if it takes far longer than before."""
    counted = f" {progress.counted[0]}/{progress.counted[1]}" if progress.counted else ""
    late = "" if estimate.late is None else f", which took {durations.short_text(estimate.late)} before"
    stage = progress.stage.value if progress.download is None else download(progress.download)
    waits_for = f", waits for {progress.waits_for}" if progress.waits_for else ""
    return f"{stage}{counted}{late}{waits_for}"


def download(now: Download) -> str:
    """Return the progress of a download as text."""
    of = "" if now.total is None else f" of {gib(now.total)}"
    speed = "" if now.speed is None else f", {now.speed / 1e6:.0f} MB/s"
    return f"downloading {gib(now.done)}{of}{speed}"
