"""One module starts all programs: otherwise a child that is forked meanwhile would inherit their pipes."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import vllm_magic
from vllm_magic.linux import forks

PACKAGE = Path(vllm_magic.__file__).parent
STARTS = re.compile(
    r"subprocess\.(?:Popen|run|call|check_call|check_output)\(|os\.(?:fork|posix_spawnp?|popen|system)\("
)
# Each runs in a process of its own, of one thread: the two guards, and those between the kernel and what it runs.
ALONE = {
    "guard/disk_calls.py",
    "guard/main.py",
    "guard/leader.py",
    "children/watchdog.py",
    "engine/standby_child.py",
}


def test_one_file_starts_programs():
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if STARTS.search(path.read_text())
    }
    assert found - ALONE == {"linux/forks.py"}


def test_a_connection_with_the_number_of_a_standard_stream_gets_another(monkeypatch):
    ours, theirs = socket.socketpair()
    with theirs:
        assert forks.above_standard_streams(ours) is ours
        monkeypatch.setattr(forks, "STREAMS", 500)
        with forks.above_standard_streams(ours) as moved:
            assert moved.fileno() >= 500
            assert not moved.get_inheritable()
            assert ours.fileno() == -1
            moved.sendall(b"x")
            assert theirs.recv(1) == b"x"
