"""Run the programs of an installation one after the other, below a watchdog, and follow what they print."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.children.child import ChildProcess
from vllm_magic.errors import InstallFailed, VllmMagicError
from vllm_magic.installation import faults
from vllm_magic.installation.progress import InstallProgress, Step, after_line, with_partial
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

POLL_INTERVAL = 1.0  # seconds between two reports while a program prints nothing
# Each of these variables would make uv, pip or Python use another environment, other versions or other files than those of
# the plan. Google Colab sets several of them.
_OTHER_PACKAGES = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "UV_SYSTEM_PYTHON",
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_PYTHON",
    "UV_PROJECT_ENVIRONMENT",
    "UV_CONSTRAINT",
    "UV_BUILD_CONSTRAINT",
    "UV_OVERRIDE",
    "UV_EXCLUDE",
    "UV_REQUIRE_HASHES",
    "UV_TORCH_BACKEND",
    "UV_VENV_SEED",
    "PIP_USER",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_CONSTRAINT",
    "PIP_REQUIREMENT",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_REQUIRE_HASHES",
    "PIP_NO_DEPS",
    "PIP_PROGRESS_BAR",
    "PIP_QUIET",
)
ENVIRONMENT: dict[str, str | None] = {
    **dict.fromkeys(_OTHER_PACKAGES),
    # A kernel of Jupyter asks for colours, and some users for messages in their language.
    "FORCE_COLOR": None,
    "CLICOLOR_FORCE": None,
    "NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
    "RUST_LOG": None,
    "PYTHONUNBUFFERED": "1",
}


class ProgramResult(NamedTuple):
    """A program that has ended.

    Attributes:
        exit_code: its exit code, or 128 plus the number of the signal that killed it; None if it took too long.
        lines: the last lines that it printed.
    """

    exit_code: int | None
    lines: tuple[str, ...]


class Programs:
    """Runs the programs of one installation. For one thread.

    Args:
        log: the file that gets all that they print.
        report: called with the progress, repeatedly. An interrupt that it raises ends the program.
        expected: the bytes of the whole download, about.

    Attributes:
        progress: how far the installation is.
    """

    def __init__(self, log: Path, report: Callable[[InstallProgress], None], expected: int) -> None:
        self.progress = InstallProgress(expected=expected)
        self._log = log
        self._report = report

    def begin(self, step: Step, detail: str = "") -> None:
        """Report that a step begins."""
        self._show(replace(self.progress, step=step, detail=detail, arriving=(), partial=0))

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        unfinished: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Run a program to its end.

        Args:
            words: the command line.
            cwd: its working directory. That of the kernel may have settings of uv for another project.
            env: variables besides those of `ENVIRONMENT`.
            unfinished: returns the bytes on the disk of the downloads that are under way; None if that is not known.

        Raises:
            InstallFailed: the program cannot be run, or has failed.
        """
        result = self.result(words, cwd=cwd, env={**ENVIRONMENT, **(env or {})}, unfinished=unfinished)
        if result.exit_code != 0:
            raise faults.explain(result.lines, result.exit_code or 0, PurePath(words[0]).name)

    def result(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str | None],
        unfinished: Callable[[], int | None] = lambda: None,
        limit: float | None = None,
        observe: Callable[[str], None] = lambda _: None,
    ) -> ProgramResult:
        """Run a program to its end, and return its exit code and its last lines.

        Args:
            words: the command line.
            cwd: its working directory.
            env: variables added to the environment of this process; None removes a variable.
            unfinished: as for `run`.
            limit: seconds after which the program is killed; None for no limit.
            observe: called with each line.

        Raises:
            InstallFailed: the program cannot be run.
        """
        kept: deque[str] = deque(maxlen=faults.LONGEST_OUTPUT)
        began = time.monotonic()
        try:
            with contextlib.closing(ChildProcess(words, env, cwd=str(cwd))) as child:
                for lines in child.lines(POLL_INTERVAL):
                    kept += lines
                    for line in lines:
                        observe(line)
                    self._follow(lines, unfinished)
                    if limit is not None and time.monotonic() - began > limit:
                        return ProgramResult(None, tuple(kept))
                return ProgramResult(child.exit_code(), tuple(kept))
        except InstallFailed:
            raise
        except VllmMagicError as error:
            raise InstallFailed(str(error).rstrip("."), "Check the path of the program") from None

    def _follow(self, lines: Sequence[str], unfinished: Callable[[], int | None]) -> None:
        progress = self.progress
        if progress.step is not Step.PROVE:  # these lines are vLLM's
            for line in lines:
                progress = after_line(progress, line)
        if progress.step is Step.DOWNLOAD and progress.arriving and (size := unfinished()) is not None:
            progress = with_partial(progress, size)
        if lines:
            with contextlib.suppress(OSError):
                disk.call(self._log, _append, self._log, "".join(f"{line}\n" for line in lines))
        self._show(progress)

    def _show(self, progress: InstallProgress) -> None:
        self.progress = progress
        self._report(progress)


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
