"""``vllm-magic`` as a program: its words, its exit status, and what it does to other kernels' servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import by_hand
import pytest
import stand_in
from by_hand import ByHand, until
from records import IDENTIFIER, record
from traces import Traces

import vllm_magic
from vllm_magic import cli, ledger
from vllm_magic.doctor import unowned
from vllm_magic.guard import record as records
from vllm_magic.linux import processes, shared_memory
from vllm_magic.recovery import remote_stop

pytestmark = pytest.mark.usefixtures("home")

PROGRAM = [sys.executable, "-m", "vllm_magic"]
DEAD = [2**22 - 1, 1]  # a kernel that is gone


def run(*words: str, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; a traceback is never an answer."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    ended = subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, timeout=by_hand.LIMIT * 2, **kwargs
    )
    assert "Traceback" not in ended.stderr
    return ended


def said(*words: str, status: int = 0, **kwargs) -> str:
    """What it prints, having ended with this status."""
    ended = run(*words, **kwargs)
    assert ended.returncode == status, ended
    assert not (ended.stdout and ended.stderr), ended
    return ended.stdout + ended.stderr


@pytest.fixture
def kernel(executable, monkeypatch):
    """Starts kernels with a server each."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    return by_hand.kernel


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stop", "tiny", "--grace", "abc"], "'abc' is not a time: 90, 90s, 30m or 1h30m"),
        (["logs", "tiny", "-n", "-5"], "'-5' is not a whole number of 1 or more"),
        (["logs", "tiny", "-n", "x"], "'x' is not a whole number of 1 or more"),
        (["stop", ""], "the name of a server is empty"),
        (["logs", " "], "the name of a server is empty"),
    ],
)
def test_an_error_says_what_is_wrong_and_names_the_help(words, says):
    assert said(*words, status=cli.WRONG_LINE).endswith(f"{says}. See vllm-magic help {words[0]}.\n")


def put(home: Path, identifier: str = IDENTIFIER, **fields) -> Path:
    for folder in (home, home / identifier):
        folder.mkdir(mode=0o700, exist_ok=True)
    records.write(str(home / identifier), record(identifier, **fields))
    return home / identifier


def used() -> list[int | None]:
    """What is in use of each GPU, asked with more patience than the program has on a busy machine."""
    probe = by_hand.PatientProbe()
    try:
        return [gpu.used for gpu in probe.snapshot().gpus]
    finally:
        probe.close()


def gone(traces: Traces) -> None:
    """No process and no file is left; in /dev/shm others on this machine may leave some meanwhile."""
    assert traces.processes() == []
    assert traces.files() == []


class TestWords:
    def test_it_is_installed_as_a_command(self):
        project = (Path(vllm_magic.__file__).parent.parent / "pyproject.toml").read_text()
        assert re.search(r'\[project\.scripts\]\nvllm-magic = "vllm_magic\.cli:main"', project)

    def test_the_version(self):
        assert said("--version") == f"vllm-magic {vllm_magic.__version__}\n"

    @pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
    def test_the_list_of_the_commands(self, words):
        text = said(*words)
        assert text.startswith("vllm-magic  ")
        assert text == said()

    @pytest.mark.parametrize("name", cli.declarations())
    def test_the_page_of_a_command(self, name):
        text = said("help", name)
        assert text.startswith(f"vllm-magic {name}")
        assert text == said(name, "--help") == said(name, "-h")

    @pytest.mark.parametrize(
        "words",
        [
            ["bogus"],
            ["help", "bogus"],
            ["stop"],
            ["stop", "a", "b"],
            ["stop", "a", "--grace", "-1"],
            ["stop", "a", "--grace", "nan"],
            ["stop", "a", "--grace", "soon"],
            ["logs"],
            ["logs", "a", "-n", "0"],
            ["logs", "a", "-n", "x"],
            ["reap", "--pid"],
            ["reap", "--pid", "x"],
            ["reap", "1"],
            ["doctor", "--js"],
            ["ps", "x"],
        ],
    )
    def test_words_that_do_not_fit(self, words):
        ended = run(*words)
        assert ended.returncode == cli.WRONG_LINE
        assert ended.stderr.startswith("vllm-magic: ")
        assert "See vllm-magic help" in ended.stderr
        assert ended.stdout == ""

    @pytest.mark.parametrize("pid", ["0", "-5", "1", str(2**31), str(2**70)])
    def test_pids_that_cannot_be(self, pid):
        assert said("reap", f"--pid={pid}", "--yes", status=cli.WRONG_LINE).startswith("vllm-magic: ")

    def test_nothing_heavy_is_imported_for_ps(self):
        script = "from vllm_magic.cli import main; main(['ps']); import sys; print(sorted(sys.modules))"
        loaded = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        for heavy in (
            "psutil",
            "httpx",
            "IPython",
            "traitlets",
            "pynvml",
            "asyncio",
            "vllm_magic.manager.manager",
        ):
            assert f"'{heavy}'" not in loaded


class TestOutput:
    def test_a_reader_who_has_seen_enough(self, executable):
        for words in (["doctor"], ["ps"], ["doctor", "--json"]):
            reading, writing = os.pipe()
            os.close(reading)
            ended = subprocess.run(
                [*PROGRAM, *words],
                stdout=writing,
                stderr=subprocess.PIPE,
                env={**os.environ, "VLLM_MAGIC_EXECUTABLE": executable},
                check=False,
            )
            os.close(writing)
            assert ended.stderr == b""
            assert ended.returncode == cli.BROKEN_PIPE

    def test_a_terminal_that_knows_ascii_only(self, executable):
        server = ByHand(executable, "--tensor-parallel-size", "2")
        try:
            server.kill_server()
            env = {**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "TERM": "dumb"}
            text = said("reap", "--pid", str(server.pid("::EngineCore")), status=cli.TO_DO, env=env)
            assert "? VLLM::Worker_TP0" in text
            assert "\x1b" not in text
        finally:
            server.end()

    def test_without_standard_output(self):
        ended = subprocess.run(
            [*PROGRAM, "ps"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1)
        )
        assert b"Traceback" not in ended.stderr


class TestDoctor:
    def test_nothing_to_do(self, executable, monkeypatch, capsys):
        monkeypatch.setattr(unowned, "trees", lambda *_: [])  # of other tests on this machine
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
        assert cli.main(["doctor"]) == cli.DONE
        assert capsys.readouterr().out.startswith("All is well")
        assert cli.main(["doctor", "--json"]) == cli.DONE
        assert json.loads(capsys.readouterr().out)["healthy"] is True

    def test_something_to_do(self, home):
        put(home, kernel=DEAD)
        text = said("doctor", status=cli.TO_DO)
        assert "The server tiny has ended" in text
        assert "vllm-magic reap" in text
        data = json.loads(said("doctor", "--json", status=cli.TO_DO))
        assert "left" in [found["topic"] for found in data["findings"]]

    def test_a_state_folder_that_cannot_be_used(self, home):
        home.mkdir(mode=0o755)
        assert "chmod 700" in said("doctor", status=cli.TO_DO)
        for words in (["ps"], ["stop", "a"], ["logs", "a"], ["reap"], ["reap", "--pid", str(os.getpid())]):
            text = said(*words, status=cli.TO_DO)
            assert text.startswith("vllm-magic: ")
            assert text.count("\n") == 1


class TestServers:
    def test_ps(self, kernel, home):
        assert said("ps") == f"No server of yours runs.\nThe state folder is {home}.\n"
        assert json.loads(said("ps", "--json")) == []
        with kernel("mine") as process:
            head, row = said("ps").splitlines()
            assert head.split() == ["name", "model", "state", "URL", "age", "kernel", "id"]
            assert row.startswith("mine  tiny   ready")
            assert f"pid {process.pid}" in row
            (data,) = json.loads(said("ps", "--json"))
            assert (data["name"], data["kernel"], data["condition"]) == ("mine", process.pid, "owned")

    @pytest.mark.usefixtures("fake_gpus")
    def test_stop(self, kernel, traces):
        with kernel("mine") as process:
            mapped = shared_memory.mapped_by(one.identity.pid for one in ledger.entries()[0].processes)
            assert mapped
            text = said("stop", "mine")
            assert text.startswith("mine released in")
            assert shared_memory.present(mapped) == set()
            assert "proved by" in text
            assert used() == [0, 0]
            gone(traces)
            assert process.poll() is None
            assert said("stop", "mine", status=cli.TO_DO).startswith("vllm-magic: No server mine runs.")

    def test_stop_one_that_does_not_want_to(self, kernel, traces, monkeypatch):
        monkeypatch.setenv(
            "STAND_IN", json.dumps({"ignore_sigterm": True, "setsid_child": True, "daemonise": True})
        )
        with kernel("mine"):
            assert "released" in said("stop", "mine", "--grace", "0.2s")
            gone(traces)

    def test_the_same_name_in_two_kernels(self, kernel, traces):
        with kernel("mine") as first, kernel("mine") as second:
            text = said("stop", "mine", status=cli.TO_DO)
            ids = {entry.record.kernel[0]: entry.id for entry in ledger.entries()}
            assert ids.keys() == {first.pid, second.pid}
            assert all(identifier in text for identifier in ids.values())
            said("stop", ids[first.pid])
            (left,) = ledger.entries()
            assert left.record.kernel[0] == second.pid
            assert "released" in said("stop", "mine")
        gone(traces)

    def test_stop_of_none(self, kernel):
        assert "No other server runs either" in said("stop", "mine", status=cli.TO_DO)
        with kernel("other"):
            assert "Running servers: other." in said("stop", "mine", status=cli.TO_DO)

    def test_stop_of_an_orphan(self, kernel):
        with kernel("mine") as process:
            entry = by_hand.kill_with_guards(process)
            try:
                assert "vllm-magic reap releases it" in said("stop", "mine", status=cli.TO_DO)
            finally:
                by_hand.end(entry)

    def test_stop_of_one_whose_guards_do_not_answer(self, home, monkeypatch, capsys):
        monkeypatch.setattr(remote_stop, "EXIT_LIMIT", 0.2)
        put(home, outer=list(by_hand.identity(os.getpid())))
        assert cli.main(["stop", "tiny"]) == cli.TO_DO
        assert "guards of tiny cannot be reached" in capsys.readouterr().err


@pytest.fixture
def stuck(kernel, fake_gpus, monkeypatch):
    """Starts kernels whose servers' memory the driver keeps; returns what has the driver give it back."""
    for name, value in stand_in.options(vram_teardown_s=600.0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("vllm_magic.gpu.probe.Probe", by_hand.PatientProbe)
    monkeypatch.setattr("vllm_magic.release.local_verifier.MEMORY_LIMIT", 1.0)
    monkeypatch.setattr("vllm_magic.release.local_verifier.REPEATED_LIMIT", 1.0)

    def give_back() -> None:
        for held in (fake_gpus / "alloc").iterdir():
            held.unlink()

    return give_back


class TestWhatIsNotProved:
    """A release that failed is looked at again by whoever asks again, although nothing of the server is left."""

    def test_a_stop(self, kernel, stuck, capsys):
        with kernel("mine") as process:
            assert cli.main(["stop", "mine"]) == cli.TO_DO
            assert "GPU 0: the driver still lists pid" in capsys.readouterr().err
            process.kill()
            process.wait()
            assert cli.main(["stop", "mine"]) == cli.TO_DO
            assert "GPU 0: the driver still lists pid" in capsys.readouterr().err
            stuck()
            assert cli.main(["stop", "mine"]) == cli.DONE
            text = capsys.readouterr().out
            assert re.match(r"mine released in .* processes ended, proved by NVML memory\.", text)
            assert "GPU 0: 2.00 GiB came back." in text
            assert cli.main(["stop", "mine"]) == cli.TO_DO
            assert "No server mine runs" in capsys.readouterr().err

    def test_a_reap(self, kernel, stuck, capsys, traces):
        with kernel("mine") as process:
            by_hand.kill_with_guards(process)
            for begins in (
                "mine was left by a kernel that died, and is NOT released",
                "mine is not released",
            ):
                assert cli.main(["reap"]) == cli.TO_DO
                text = capsys.readouterr().out
                assert text.startswith(begins)
                assert "GPU 0: the driver still lists pid" in text
            stuck()
            assert cli.main(["reap"]) == cli.DONE
            assert "proved by NVML memory" in capsys.readouterr().out
            assert cli.main(["reap"]) == cli.DONE
            assert capsys.readouterr().out == "Nothing to reap.\n"
        gone(traces)


class TestLogs:
    def test_of_a_living_one(self, kernel):
        with kernel("mine"):
            lines = said("logs", "mine").splitlines()
            assert any("Application startup complete" in line for line in lines)
            assert said("logs", "mine", "-n", "2").splitlines() == lines[-2:]

    def test_of_one_that_has_ended(self, kernel):
        with kernel("mine") as process:
            entry = ledger.entries()[0]
            said("stop", "mine")
            assert process.poll() is None
        for name in ("mine", entry.id, f"mine-{entry.id}"):
            assert "shutdown triggered" in said("logs", name)
            assert said("logs", name, "-f") == said("logs", name)

    def test_of_none(self):
        assert "no log of an earlier server" in said("logs", "../../etc/passwd", status=cli.TO_DO)

    def test_follow_ends_with_the_server(self, kernel):
        with kernel("mine"):
            with subprocess.Popen(
                [*PROGRAM, "logs", "mine", "-f"], stdout=subprocess.PIPE, text=True
            ) as following:
                first = following.stdout.readline()
                assert first
                said("stop", "mine")
                text = first + following.stdout.read()
                assert following.wait(by_hand.LIMIT) == cli.DONE
            assert "startup complete" in text
            assert text.count("shutdown triggered") == 1

    def test_follow_ends_with_an_interrupt(self, kernel):
        with kernel("mine"):
            with subprocess.Popen(
                [*PROGRAM, "logs", "mine", "-f", "-n", "1"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as following:
                assert following.stdout.readline()
                following.send_signal(signal.SIGINT)
                _, errors = following.communicate()
            assert following.returncode == cli.INTERRUPTED
            assert errors == ""


class TestReap:
    def test_nothing(self):
        assert said("reap") == "Nothing to reap.\n"

    @pytest.mark.usefixtures("fake_gpus")
    def test_what_a_kernel_left(self, kernel, traces):
        with kernel("mine") as process:
            entry = by_hand.kill_with_guards(process)
            try:
                assert len(entry.processes) >= 2
                mapped = shared_memory.mapped_by(one.identity.pid for one in entry.processes)
                assert mapped
                text = said("reap")
                assert text.startswith("mine was left by a kernel that died: ")
                assert "proved by" in text
                assert used() == [0, 0]
                # Of this server: others on this machine may leave some meanwhile.
                assert shared_memory.present(mapped) == set()
            finally:
                by_hand.end(entry)
        gone(traces)
        assert said("reap") == "Nothing to reap.\n"

    def test_files_that_were_left(self, home):
        folder = put(home, kernel=DEAD)
        assert said("reap") == "tiny: its files were left, and are cleared.\n"
        assert not folder.exists()

    def test_a_torn_record_is_left_alone(self, home):
        folder = put(home)
        (folder / records.NAME).write_bytes(b"{")
        assert said("reap") == "Nothing to reap.\n"
        assert folder.exists()

    @pytest.mark.usefixtures("fake_gpus")
    def test_a_process_that_nobody_owns(self, executable):
        server = ByHand(executable, "--tensor-parallel-size", "2")
        try:
            server.kill_server()
            engine = str(server.pid("::EngineCore"))
            shown = said("reap", "--pid", engine, status=cli.TO_DO)
            assert "└ VLLM::Worker_TP1" in shown
            assert shown.endswith(f"To end these processes: vllm-magic reap --pid {engine} --yes\n")
            assert len(server.living()) >= 3
            text = said("reap", "--pid", engine, "--yes")
            assert "the driver lists none of them" in text
            assert f"VLLM::EngineCore (pid {engine})" in text
            until(lambda: not server.living(), "something is left")
        finally:
            server.end()

    def test_all_or_nothing(self, executable):
        """One pid that may not be ended: none is."""
        server = ByHand(executable)
        try:
            server.kill_server()
            engine = server.pid("::EngineCore")
            text = said("reap", "--pid", str(engine), "--pid", "1", "--yes", status=cli.WRONG_LINE)
            assert "left alone" in text
            assert processes.is_alive(by_hand.identity(engine))
        finally:
            server.end()


class TestGpu:
    def test_none(self):
        assert said("gpu", status=cli.TO_DO) == "No GPU can be seen: no NVIDIA driver found.\n"

    @pytest.mark.usefixtures("fake_gpus")
    def test_who_holds_what(self, kernel):
        with kernel("mine"):
            text = said("gpu")
        assert text.startswith("Driver 580")
        assert "server mine (pid" in text
