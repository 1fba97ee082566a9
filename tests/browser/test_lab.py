"""What `make lab` opens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_also_starts_for_root():
    """As in most containers. JupyterLab refuses to start for root without a flag."""
    shown = subprocess.run(
        [sys.executable, "-m", "notebooks.demo", "--lab", "--show-config"],
        cwd=ROOT,
        env={**os.environ, "MODEL": "any"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert ("allow_root = True" in shown) is (os.geteuid() == 0)
