"""A machine with many other processes: they do nothing, and end with their `with`."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCE = Path(__file__).with_suffix(".c")
LIFE = 600  # seconds after which they end by themselves
END_LIMIT = 30.0  # seconds for them to be gone


@contextmanager
def crowd(count: int, folder: Path) -> Iterator[None]:
    """So many processes more on this machine.

    Args:
        count: how many.
        folder: for the program.

    Raises:
        RuntimeError: the machine does not allow as many.
    """
    program = folder / "crowd"
    if not program.exists():
        subprocess.run(["gcc", "-O1", "-Wall", "-o", program, _SOURCE], check=True)
    with subprocess.Popen(
        [program, str(count), str(LIFE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout and first.stdin  # noqa: PT018 - both are pipes
        try:
            if (said := first.stdout.readline().strip()) != "ready":
                raise RuntimeError(f"{count} processes are not to be had: {said}")
            yield
        finally:
            first.stdin.close()  # the others end with it
            first.wait(END_LIMIT)
