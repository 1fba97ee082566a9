"""The folders of servers on a real file system: private, short, and no more of them than there must be."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

CREATE = "from vllm_magic import ledger\nfor _ in range(20): print(ledger.create('x').path)"


@pytest.fixture(autouse=True)
def short_folders(home):
    """Folders under /tmp that stand in for a TMPDIR with too long a path: no guard is here to remove them."""
    yield
    for folder in home.glob("????????"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"/tmp/vllm-{folder.name}").rmdir()


def test_two_processes_at_once(home):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=60) for run in runs]
    assert [error for _, error in said] == ["", ""]
    paths = {path for out, _ in said for path in out.split()}
    assert len(paths) == 40
    assert {path.name for path in home.iterdir()} == {"logs", *(Path(path).name for path in paths)}
