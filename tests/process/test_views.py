"""How results look: the same in plain text and in HTML, nothing from outside as HTML, and no key anywhere."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from view_checks import GIB, a_server, launched, same, snapshot

from vllm_magic.doctor import gpus
from vllm_magic.gpu.devices import ComputeProcess, Snapshot
from vllm_magic.jupyter.display import views
from vllm_magic.linux import processes
from vllm_magic.view import View

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


@contextlib.contextmanager
def child(script: str, *args: str, **kwargs):
    """Run a script that prints a line when it is there and ends with its input."""
    command = [sys.executable, "-c", script, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kwargs) as process:
        process.stdout.readline()
        yield process
        process.communicate(b"\n")


class TestServers:
    def test_what_it_holds(self, tmp_path, monkeypatch):
        with child("print(flush=True); input()", start_new_session=True) as leader:
            one = launched(a_server(), tmp_path, leader.pid)
            held = views.status(
                [one.status], snapshot(ComputeProcess(leader.pid, 2 * GIB), ComputeProcess(1, GIB))
            )
            assert same(held).endswith("2.00 GiB")
            unknown = views.status([one.status], snapshot(ComputeProcess(leader.pid, None)))
            assert same(unknown).endswith("?")
            assert "GiB" not in same(views.status([one.status], None))
            monkeypatch.setattr(processes, "pids", lambda: pytest.fail("all processes are read"))
            assert "1.00 GiB" in same(views.status([one.status], snapshot(ComputeProcess(leader.pid, GIB))))


def gpu_view(now: Snapshot, servers: dict[int, str] | None = None) -> View:
    return gpus.view(now, gpus.uses(now, processes.table(), servers or {}, {}))


class TestGpus:
    def test_who_holds_what(self):
        with child("print(flush=True); input()", start_new_session=True) as leader:
            listed = (
                ComputeProcess(leader.pid, GIB),
                ComputeProcess(1, None),
                ComputeProcess(2**22, GIB // 2),
            )
            text = same(gpu_view(snapshot(*listed), {leader.pid: "tiny"}))
        assert text.startswith("Driver 580.00\n")
        assert f"server tiny (pid {leader.pid})" in text
        assert "(pid 1, root)" in text
        assert f"a process that is not visible here (pid {2**22})" in text
        assert "unattributed" in text
        assert "1.50 GiB" in text
        assert text.split("\n")[-1].split() == ["free", "21.00", "GiB"]

    @pytest.mark.parametrize("word", [f"{EVIL}\n\x1b[31m", "x" * 1000, "several\nlines\nof it"])
    def test_the_title_of_another_process_is_text_on_one_line(self, word):
        with child("print(flush=True); input()", word) as other:
            view = gpu_view(snapshot(ComputeProcess(other.pid, 3 * GIB)))
            text = same(view)
        assert "\x1b" not in text + view._repr_html_()
        assert "<script" not in view._repr_html_()
        assert len(text.split("\n")) == 5
        assert text.split("\n")[3].startswith(
            f"{'':16}{Path(sys.executable).name} -c print(flush=True); input()"
        )
        assert text.split("\n")[3].endswith("  3.00 GiB")

    def test_a_process_without_a_title_has_a_name(self):
        with subprocess.Popen(["true"]) as ended:
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
            assert f"true (pid {ended.pid}, " in same(gpu_view(snapshot(ComputeProcess(ended.pid, GIB))))
