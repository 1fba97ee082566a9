"""A log that grows without end stays small on disk, and costs nobody anything."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from records import record

from vllm_magic.engine.startup.log import tail
from vllm_magic.guard import log_cap
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.log_cap import CHECK_INTERVAL, LARGEST_LOG
from vllm_magic.guard.protocol import Ended, LaunchRequest, Started
from vllm_magic.linux import processes

MIB = 2**20


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def path(tmp_path) -> Path:
    made = tmp_path / "log"
    made.touch()
    return made


class TestByTheGuard:
    def switches(self, pid: int) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def test_a_flood_through_the_guards(self, tmp_path):
        """200 MB and more, as fast as they go; what is kept is the end."""
        flood = "import sys\nfor _ in range(250): sys.stdout.write(('x' * 99 + '\\n') * 10000); sys.stdout.flush()"
        private = tmp_path / "folder"
        private.mkdir()
        log = private / "log"
        script = f'"{sys.executable}" -c "$FLOOD"; echo end of it; exec sleep 300'
        pair = GuardPair(
            LaunchRequest(
                argv=["/bin/sh", "-c", script],
                env={"FLOOD": flood},
                cwd="/",
                tmp=str(private / "t"),
                folder=str(private),
                log=str(log),
                keep_log=str(tmp_path / "kept.log"),
                locks=[],
                record=record()._asdict(),
            )
        )
        heard = []
        try:
            while not any(isinstance(message, Started) for message in heard):
                heard += pair.receive() or []
            inner = next(message for message in heard if isinstance(message, Started)).inner[0]
            deadline = time.monotonic() + 120
            while tail(log, 1) != ["end of it"] or on_disk(log) > LARGEST_LOG // 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(CHECK_INTERVAL * 4)
            before = self.switches(inner)
            time.sleep(1.0)
            assert (
                self.switches(inner) <= before + 1
            )  # every `CHILD_SCAN_INTERVAL` seconds it looks whom it has adopted
            assert processes.read(inner).state == "S"
        finally:
            pair.stop(0.0, 0.0)
            while (messages := pair.receive()) is not None:
                heard += messages
            pair.close()
        assert any(isinstance(message, Ended) for message in heard)
        kept = tmp_path / "kept.log"
        assert kept.stat().st_size <= LARGEST_LOG // 2 + MIB
        assert tail(kept, 1) == ["end of it"]
        assert tail(kept, 10**6)[0] == "x" * 99


def test_the_guard_can_import_it_without_anything_else():
    code = (
        "import sys; sys.path.append(sys.argv[1]); import vllm_magic.guard.log_cap, vllm_magic.guard.folder"
    )
    root = str(Path(log_cap.__file__).parents[2])
    subprocess.run([sys.executable, "-I", "-S", "-c", code, root], check=True, timeout=60)
