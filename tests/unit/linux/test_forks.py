"""Programs are started in one place: what is started elsewhere would leak into whatever is forked meanwhile."""

from __future__ import annotations

import re
from pathlib import Path

import vllm_magic

PACKAGE = Path(vllm_magic.__file__).parent
STARTS = re.compile(
    r"subprocess\.(?:Popen|run|call|check_call|check_output)\(|os\.(?:fork|posix_spawnp?|popen|system)\("
)
# Each runs in a process of its own, of one thread: the two guards, and those between the kernel and what it runs.
ALONE = {
    "guard/main.py",
    "guard/leader.py",
    "children/watchdog.py",
    "children/flag_watch.py",
    "engine/standby_child.py",
}


def test_one_file_starts_programs():
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if STARTS.search(path.read_text())
    }
    assert found - ALONE == {"linux/forks.py"}
