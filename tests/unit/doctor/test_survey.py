"""The doctor on machines of every kind: what it finds, the command it gives, and that it changes nothing."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import by_hand
import pytest
from records import IDENTIFIER, record

from vllm_magic import ledger
from vllm_magic.children import installed
from vllm_magic.doctor import checks, findings, survey, text
from vllm_magic.doctor.findings import Finding, Report, Topic
from vllm_magic.engine import environments, executable
from vllm_magic.engine.environments import BrokenEnvironment, InstalledEnvironment
from vllm_magic.gpu import locks, nvml_child
from vllm_magic.gpu.devices import Gpu, Snapshot
from vllm_magic.guard import record as records
from vllm_magic.guard.record import Phase
from vllm_magic.jupyter.display import views
from vllm_magic.linux import details, limits, sockets

pytestmark = pytest.mark.usefixtures("home")

DEAD = [2**22 - 1, 1]  # a kernel that is gone


@pytest.fixture(autouse=True)
def lock_folder(tmp_path, monkeypatch) -> Path:
    """Keep the locks of real kernels, and vLLM's default port, out of it."""
    monkeypatch.setattr(locks, "_PARENT", tmp_path)
    monkeypatch.setattr(survey, "DEFAULT_PORT", by_hand.free_port())
    return locks.folder_path()


@pytest.fixture
def stored(home):
    """Puts records into the state folder."""

    def put(identifier: str = IDENTIFIER, **fields) -> Path:
        for folder in (home, home / identifier):
            folder.mkdir(mode=0o700, exist_ok=True)
        records.write(str(home / identifier), record(identifier, **fields))
        return home / identifier

    return put


def of(report: Report, topic: Topic) -> list[Finding]:
    return [finding for finding in report.findings if finding.topic is topic]


class TestVllm:
    def test_one_whose_python_is_gone(self, tmp_path):
        script = self.script(tmp_path, "#!/nowhere/python3.11\n")
        found = installed.find(str(script))
        assert "/nowhere/python3.11" in found.problem
        assert [finding.command for finding in checks.vllm(found)] == ["vllm-magic install"]

    def test_the_one_beside_this_python_comes_before_an_environment(self, tmp_path, monkeypatch):
        found = installed.find(str(self.script(tmp_path, "#!/nowhere/python3.11\n")))
        monkeypatch.setattr(sys, "executable", str(Path(found.executable).with_name("python")))
        assert [finding.command for finding in checks.vllm(found)] == ["pip install --force-reinstall vllm"]

    @pytest.mark.parametrize(
        ("name", "problem", "works", "chosen", "command"),
        [
            ("0.17.0-cpu-py312", "its Python is gone", [], "", "vllm-magic install 0.17.0"),
            (
                "0.17.0-cpu-py312",
                "its Python is gone",
                ["0.33.0"],
                "0.17.0-cpu-py312",
                "vllm-magic install 0.17.0",
            ),
            (
                "0.17.0-cpu-py312",
                "its Python is gone",
                ["0.33.0"],
                "",
                "vllm-magic install --remove 0.17.0-cpu-py312",
            ),
            ("other", "it was moved", [], "", "vllm-magic install --remove other"),
            ("0.17.0-cpu-py312", environments.UNFINISHED, [], "", None),
            (None, "", ["0.33.0"], "0.17.0-cpu-py312", "vllm-magic use newest"),
            (None, "", ["0.33.0"], "0.33.0-cpu-py312", None),
        ],
    )
    def test_environments_that_do_not_work(self, name, problem, works, chosen, command):
        working = [
            InstalledEnvironment(f"/e/{one}-cpu-py312", one, "vllm", "3.12", "cpu", "/x", 0.0, 0, "0.1")
            for one in works
        ]
        broken = [BrokenEnvironment(f"/e/{name}", problem)] if name else []
        found = [finding.command for finding in checks.installations(working, broken, chosen)]
        assert found == ([command] if command else [])

    def test_a_folder_of_environments_that_cannot_be_read(self, environments_folder):
        environments_folder.write_text("")
        (finding,) = checks.installations([], environments.broken(), "")
        assert finding.what.endswith("environments is not used: it cannot be read: Not a directory.")
        assert finding.command.startswith("export VLLM_MAGIC_ENVIRONMENTS=")

    @pytest.mark.parametrize(
        ("head", "python"),
        [
            ("#!/a/python", "/a/python"),
            ("#! /a/b/python3.12 -I", "/a/b/python3.12 -I"),
            ("#!/usr/bin/env python3\n", "/usr/bin/env python3"),
            ("#!/bin/sh\n'''exec' /a/long/python3 \"$0\" \"$@\"\n' '''", "/a/long/python3"),
            ("#!/bin/sh\n'''exec' \"/a/long/python3\" \"$0\" \"$@\"\n' '''", "/a/long/python3"),
            ("#!/bin/bash\nexec something", None),
            ("", None),
            ("\x7fELF\0\0", None),
        ],
    )
    def test_the_python_of_a_script(self, tmp_path, head, python):
        found = executable.shebang(str(self.script(tmp_path, head)))
        assert found == (python and tuple(python.split()))

    def test_a_version_is_asked_of_the_python_that_env_finds(self, tmp_path, monkeypatch):
        asked = []
        answer = SimpleNamespace(output=lambda *_: b"vllm 1.2", close=lambda: None)
        monkeypatch.setattr(installed, "ChildProcess", lambda words, *_, **__: asked.append(words) or answer)
        assert installed.find(str(self.script(tmp_path, "#!/usr/bin/env python3\n"))).version == "1.2"
        assert asked[0][:3] == ["/usr/bin/env", "python3", "-c"]

    def test_the_python_beside_a_wrapper(self, tmp_path):
        wrapper = self.script(tmp_path, "#!/bin/bash\nexec something\n")
        assert installed._beside(str(wrapper)) is None
        python = self.script(tmp_path, "", "python")
        assert installed._beside(str(wrapper)) == (str(python),)

    def script(self, folder: Path, content: str, name: str = "vllm") -> Path:
        path = folder / name
        path.write_text(content)
        path.chmod(0o755)
        return path


class TestUnowned:
    def test_of_another_user(self):
        seen = findings.ReportedTree(
            7, "VLLM::EngineCore", "nobody", "nobody", "", 60.0, 5, (7, 8), None, False
        )
        (found,) = checks.unowned([seen])
        assert found.command == "sudo -u nobody vllm-magic reap --pid 7"
        assert "of nobody" in found.what
        assert found.what.startswith(
            "2 processes of a vLLM server still run, and nobody owns them: VLLM::EngineCore"
        )


class TestLedger:
    def test_a_server_that_is_kept(self, stored):
        stored(kernel=DEAD, phase=Phase.KEPT, kept_until=time.monotonic() + 100.5)
        held = records.hold_lock(str(ledger.state_path() / IDENTIFIER))
        try:
            (seen,) = survey.servers()
            assert seen.condition == "kept"
            assert re.fullmatch(r"kept 1 min \d+ s more for a new kernel", text.state(seen))
        finally:
            os.close(held)


class TestPorts:
    def test_whose_process_cannot_be_seen(self):
        with socket.create_server(("127.0.0.1", 0)) as mine:
            port = mine.getsockname()[1]
            assert sockets.listeners([port], []) == [sockets.Listener(port, None, os.getuid())]
            assert sockets.listeners([port], [os.getpid(), os.getppid()]) == [
                sockets.Listener(port, os.getpid(), os.getuid())
            ]
            assert sockets.listeners([by_hand.free_port()], [os.getpid()]) == []


def test_what_is_not_right_with_vllm(monkeypatch):
    monkeypatch.setattr(survey.flag_table, "failure", lambda path: f"ImportError: no grpc for {path}")
    old, flags = survey._vllm_notes(installed.Installed("/venv/bin/vllm", "0.9.2", None))
    assert old.startswith("vLLM 0.9.2 is old")
    assert flags.endswith("checked before a start: ImportError: no grpc for /venv/bin/vllm")
    assert list(survey._vllm_notes(installed.Installed(None, None, "not found"))) == []


class TestDriver:
    @pytest.mark.parametrize(
        ("problem", "command"),
        [
            (nvml_child._PLAIN_WORDS["NVMLError_LibRmVersionMismatch"], "sudo reboot"),
            ("nvidia-ml-py is not installed (pip install nvidia-ml-py)", "pip install nvidia-ml-py"),
            ("the NVIDIA driver says: Unknown Error", "nvidia-smi"),
        ],
    )
    def test_what_helps(self, problem, command):
        (found,) = checks.driver(Snapshot(0.0, (), None, problem))
        assert found.command == command


class TestText:
    def report(self, **changes) -> Report:
        fields = {
            "version": "1",
            "findings": (),
            "vllm": installed.Installed("/venv/bin/vllm", "0.32.0", None),
            "vllm_notes": (),
            "driver": None,
            "gpus": (),
            "servers": (),
            "elsewhere": (),
            "releases": (),
            "default_port": (),
            "unseen": (),
            "state_folder": "/home/me/state",
        }
        return Report(**{**fields, **changes})

    def test_the_state_folder(self):
        assert "state       /home/me/state" in text.facts(self.report())
        assert not [line for line in text.facts(self.report(state_folder="")) if line.startswith("state")]

    def test_findings_come_first_with_their_commands(self):
        found = Finding(Topic.ORPHAN, "word " * 60, "vllm-magic reap")
        lines = text.lines(self.report(findings=(found, found)))
        assert lines[0] == "2 things to do:"
        assert lines[2].startswith("  1. word word")
        assert max(map(len, lines)) <= text.WIDTH
        assert lines.count("       vllm-magic reap") == 2

    def test_what_is_not_right_with_vllm_stands_below_it(self):
        lines = text.facts(self.report(vllm_notes=("word " * 30, "again")))
        assert lines[0].startswith("vLLM        0.32.0")
        assert lines[1].startswith("            word word")
        assert lines[3] == "            again"
        assert max(map(len, lines)) <= text.WIDTH

    @pytest.mark.parametrize(
        ("terminal", "cell"),
        [
            ("vllm-magic reap --pid 7", "%vllm reap --pid 7"),
            ("vllm-magic doctor", "%vllm doctor"),
            ("vllm-magic stop tiny", "!vllm-magic stop tiny"),
            ("pip install nvidia-ml-py", "%pip install nvidia-ml-py"),
            ("vllm-magic install 0.17.0", "%vllm install 0.17.0"),
            ("vllm-magic use newest", "%vllm use newest"),
            ("export VLLM_MAGIC_HOME=x", "%env VLLM_MAGIC_HOME=x"),
            ("unset VLLM_MAGIC_EXECUTABLE", "%env VLLM_MAGIC_EXECUTABLE="),
            ("rm -r /x", "!rm -r /x"),
        ],
    )
    def test_commands_in_a_notebook(self, terminal, cell):
        report = self.report(findings=(Finding(Topic.ORPHAN, "x", terminal),))
        assert f"       {cell}" in views.doctor(report).lines

    def test_what_comes_from_outside_is_one_line_of_text(self):
        evil = "<script>\x1b[31m\nx"
        seen = findings.ReportedTree(7, evil, "me", "starter", evil, 60.0, 5, (7,), None, False)
        port = findings.ReportedListener(8000, 7, evil, "me")
        report = self.report(
            findings=(Finding(Topic.PORT, evil, "true"),),
            elsewhere=(seen,),
            default_port=(port,),
            unseen=(evil,),
        )
        view = views.doctor(report)
        assert "\x1b" not in repr(view)
        assert not any("\n" in line for line in view.lines)
        assert "<script" not in view._repr_html_()

    def test_secrets_are_masked(self):
        key = "sk-do-not-show-this"
        seen = findings.ReportedTree(
            7, f"x --api-key {key}", "me", "starter", key, 60.0, 5, (7,), None, False
        )
        port = findings.ReportedListener(8000, 7, f"server {key}", "me")
        lines = text.lines(
            self.report(findings=(Finding(Topic.PORT, key, "true"),), elsewhere=(seen,), default_port=(port,))
        )
        assert key not in "".join(lines)
        assert "".join(lines).count("***") == 4


class TestDetails:
    def test_users(self):
        assert details.user(0) == "root"
        assert details.user(4_000_000) == "4000000"
        assert details.user(None) == "?"
        assert details.uid(os.getpid()) == os.getuid()


class TestLimits:
    """The doctor says of the machine what a start would be refused for."""

    @pytest.fixture(autouse=True)
    def small_shared_memory(self, monkeypatch) -> None:
        monkeypatch.setattr(limits, "free_shared_memory", lambda: 2**26)

    def found(self, gpus: int, version: str | None = "0.32.0") -> list[Finding]:
        there = tuple(Gpu(index, f"GPU-{index}", "NVIDIA", 1, 0, 1, ()) for index in range(gpus))
        return list(checks.limits(Snapshot(0.0, there, "580.00", None), version))

    def test_shared_memory_for_several_gpus(self):
        (finding,) = self.found(2)
        assert finding.topic is Topic.LIMIT
        assert finding.what == (
            "/dev/shm has 0.06 GiB free, and vLLM needs 0.23 GiB for several GPUs. "
            "Make it larger: docker run --shm-size=8g, or --ipc=host."
        )
        assert finding.command == "sudo mount -o remount,size=8G /dev/shm"

    def test_nothing_to_say(self):
        assert self.found(1) == self.found(0) == self.found(2, None) == self.found(2, "0.20.0") == []

    def test_processes(self, monkeypatch):
        monkeypatch.setattr(limits, "processes_left", lambda: 3)
        (finding,) = self.found(0)
        assert finding.what.startswith("Only 3 more processes and threads are allowed here")
