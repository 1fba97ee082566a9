"""The progress of a start, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.sizes import gib
from vllm_magic.view import duration

if TYPE_CHECKING:
    from vllm_magic.engine.models.download import Download
    from vllm_magic.engine.startup.estimate import Estimate
    from vllm_magic.engine.startup.stages import Progress
    from vllm_magic.server.status import ServerStatus


def line(now: ServerStatus) -> str:
    """Return "name: stage, seconds" as one line."""
    return f"{now.name}: {stage_text(now.progress, now.estimate)} \N{MIDDLE DOT} {times(now)}"


def times(now: ServerStatus) -> str:
    """Return the seconds since the start was requested, and the seconds left if an earlier start allows an estimate."""
    left = "" if now.estimate.left is None else f", about {max(1.0, now.estimate.left):.0f} s left"
    return f"{now.seconds:.0f} s{left}"


def stage_text(progress: Progress, estimate: Estimate) -> str:
    """Return the stage as text, with its count or download, what it waits for, and a note if it takes far longer than before."""
    counted = f" {progress.counted[0]}/{progress.counted[1]}" if progress.counted else ""
    late = "" if estimate.late is None else f", which took {duration(estimate.late)} before"
    what = progress.stage.value if progress.download is None else download(progress.download)
    waits_for = f", waits for {progress.waits_for}" if progress.waits_for else ""
    return f"{what}{counted}{late}{waits_for}"


def download(now: Download) -> str:
    """Return the progress of a download as text."""
    of = "" if now.total is None else f" of {gib(now.total)}"
    speed = "" if now.speed is None else f", {now.speed / 1e6:.0f} MB/s"
    return f"downloading {gib(now.done)}{of}{speed}"
