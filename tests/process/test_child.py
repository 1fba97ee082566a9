"""A program that a cell waits for: its lines come at once, and nothing of it outlives the cell or the kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from by_hand import identity, until

from vllm_magic.children import benchmark
from vllm_magic.children.child import ChildProcess
from vllm_magic.errors import VllmMagicError
from vllm_magic.linux import pidfd, processes

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(300)
"""
KERNEL = """
import sys
from vllm_magic.children.child import ChildProcess
child = ChildProcess([sys.executable, "-c", sys.argv[1]], {})
for lines in child.lines(1.0):
    for line in lines:
        print(line, flush=True)
"""

# Its descendants leave its session and its process group, one of them its parent too, and heed no signal.
FLEEING = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def fork(what):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        what()
        os._exit(0)
    return pid
read, write = os.pipe()
def say_and_stay():
    os.write(write, f" {os.getpid()}".encode())
    time.sleep(300)
fork(say_and_stay)
os.waitpid(fork(lambda: fork(say_and_stay)), 0)
said = b""
while said.count(b" ") < 2:
    said += os.read(read, 100)
print(os.getpid(), *said.decode().split(), flush=True)
if sys.argv[1:] == ["ends"]:
    sys.exit(7)
time.sleep(300)
"""


def program(text: str, **env: str | None) -> contextlib.closing[ChildProcess]:
    return contextlib.closing(ChildProcess([sys.executable, "-c", text], env))


def gone(every: list[processes.Identity]) -> None:
    try:
        until(lambda: not any(map(processes.is_alive, every)), "it lives on")
    finally:
        for one in every:
            pidfd.send(one, signal.SIGKILL)


def all_lines(child: ChildProcess) -> list[str]:
    return [line for lines in child.lines(5.0) for line in lines]


class TestLines:
    def test_to_the_end(self):
        with program(
            "import sys; print('a\\rb'); print('\\x1b[31mc', file=sys.stderr); print('rest', end='')"
        ) as child:
            assert sorted(all_lines(child)) == ["a", "b", "c", "rest"]
            assert child.exit_code() == 0

    def test_as_they_come(self):
        with program(
            "import sys\nfor line in sys.stdin: pass\nprint('x', flush=True)\nimport time; time.sleep(300)"
        ) as child:
            assert next(lines for lines in child.lines(0.05) if lines) == ["x"]

    def test_while_nothing_is_said(self):
        with program("import time; time.sleep(300)") as child:
            looks = child.lines(0.01)
            assert [next(looks), next(looks)] == [[], []]

    def test_the_environment(self, monkeypatch):
        monkeypatch.setenv("KEPT", "1")
        monkeypatch.setenv("TAKEN", "1")
        text = (
            "import os; print(*(os.environ.get(name) for name in ('KEPT', 'TAKEN', 'NEW', 'JPY_PARENT_PID')))"
        )
        monkeypatch.setenv("JPY_PARENT_PID", "1")
        with program(text, TAKEN=None, NEW="2") as child:
            assert all_lines(child) == ["1 None 2 None"]

    @pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
    def test_the_exit_code(self, ending, code):
        with program(f"import os, sys; {ending}") as child:
            assert all_lines(child) == []
            assert child.exit_code() == code


class TestOutput:
    @pytest.mark.parametrize(
        ("text", "output"),
        [
            ("print('x')", b"x\n"),
            ("import sys; print('x', file=sys.stderr)", b""),
            ("print('x'); raise SystemExit(1)", None),
            ("print(1000 * 'x')", None),
            ("while True: print('x')", None),
            ("print('x', flush=True); import time; time.sleep(300)", None),
        ],
    )
    def test_of_one_that_ends_well(self, text, output):
        words = [sys.executable, "-c", text]
        with contextlib.closing(ChildProcess(words, {}, stderr=subprocess.DEVNULL)) as child:
            assert child.output(2.0 if "sleep" in text else 60.0, 500) == output

    def test_its_folder(self):
        text = "import os; print(os.getcwd())"
        with contextlib.closing(ChildProcess([sys.executable, "-c", text], {}, cwd="/")) as child:
            assert child.output(60.0, 500) == b"/\n"


class TestEnd:
    def test_close_ends_all_of_it(self):
        with program(STUBBORN) as child:
            pids = next(lines for lines in child.lines(1.0) if lines)[0].split()
            both = [identity(int(pid)) for pid in pids]
        until(lambda: not any(map(processes.is_alive, both)), "it lives on")

    @pytest.mark.parametrize(("text", "count"), [(STUBBORN, 2), (FLEEING, 3)])
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_it_ends_with_the_kernel(self, number, text, count):
        words = [sys.executable, "-c", KERNEL, text]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as kernel:
            every = [identity(int(pid)) for pid in kernel.stdout.readline().split()]
            assert len(every) == count
            kernel.send_signal(number)
        gone(every)

    def test_it_ends_with_the_process_that_it_needs(self):
        """This process does not look meanwhile."""
        with subprocess.Popen(["sleep", "300"]) as needed:
            words = [sys.executable, "-c", FLEEING]
            with contextlib.closing(ChildProcess(words, {}, needs=identity(needed.pid))) as child:
                lines = child.lines(1.0)
                every = [identity(int(pid)) for pid in next(filter(None, lines))[0].split()]
                assert next(lines) == []
                needed.kill()
                gone(every)
                assert all_lines(child) == []
                assert child.exit_code() == 137

    def test_the_process_that_it_needs_has_ended(self):
        with subprocess.Popen(["true"]) as needed:
            before = identity(needed.pid)
        with pytest.raises(VllmMagicError, match="which it needs, has ended"):
            ChildProcess(["true"], {}, needs=before)

    def test_close_ends_those_that_fled(self):
        with program(FLEEING) as child:
            every = [identity(int(pid)) for pid in next(filter(None, child.lines(1.0)))[0].split()]
        assert len(every) == 3
        gone(every)

    def test_nobody_stays_when_it_ends_by_itself(self):
        child = ChildProcess([sys.executable, "-c", FLEEING, "ends"], {})
        with contextlib.closing(child):
            (line,) = all_lines(child)
            assert child.exit_code() == 7
            pids = [int(pid) for pid in line.split()]
            assert [pid for pid in pids if (one := processes.read(pid)) and one.alive] == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
    def test_each_signal_that_asks_for_the_end(self, number):
        """Those that the keys of a terminal send reach the kernel's process group, and this process with it."""
        with program(FLEEING) as child:
            every = [identity(int(pid)) for pid in next(filter(None, child.lines(1.0)))[0].split()]
            child._process.send_signal(number)
            assert all_lines(child) == []
            assert child.exit_code() == 128 + signal.SIGKILL
        gone(every)

    def test_what_a_killed_watchdog_has_left_is_ended(self):
        with program(FLEEING) as child:
            every = [identity(int(pid)) for pid in next(filter(None, child.lines(1.0)))[0].split()]
            child._process.kill()
            assert all_lines(child) == []
            assert child.exit_code() == 128 + signal.SIGKILL
        gone(every)

    def test_one_that_does_not_end_is_an_error(self, monkeypatch):
        monkeypatch.setattr("vllm_magic.children.child.EXIT_LIMIT", 0.1)
        with (
            program("import time; time.sleep(300)") as child,
            pytest.raises(VllmMagicError, match="does not end"),
        ):
            child.exit_code()

    def test_no_descriptor_is_left(self):
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with program("print('x')") as child:
                all_lines(child)
        assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_a_program_that_is_not_there(self):
        with contextlib.closing(ChildProcess(["/no/such/program"], {})) as child:
            assert "No such file or directory: '/no/such/program'" in all_lines(child)[-1]
            assert child.exit_code() == 1


# Asks the server as aiohttp with `trust_env` does, which vLLM's benchmark has: by the proxies of the environment.
BENCH = """#!{python}
import json, os, sys, urllib.request
if sys.argv[1] != "bench":
    os.execv({executable!r}, [{executable!r}, *sys.argv[1:]])
base = sys.argv[sys.argv.index("--base-url") + 1]
headers = {{"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}}
body = json.dumps({{"model": "tiny", "prompt": "my secret prompt", "max_tokens": 1}}).encode()
done = 0
for _ in range({requests} or 1):
    if not {requests}:
        base = "http://127.0.0.1:9"
    try:
        urllib.request.urlopen(urllib.request.Request(base + "/v1/completions", body, headers), timeout=60).read()
        done += 1
    except OSError as error:
        print("Error 0:", error)
print("============ Serving Benchmark Result ============")
print("Successful requests:                    ", done)
print("Failed requests:                        ", {requests} - done)
print("no_proxy:", *(os.environ.get(name) for name in ("no_proxy", "NO_PROXY")))
print("==================================================")
"""


@pytest.fixture
def bench(executable, tmp_path):
    """Makes a vLLM with a benchmark of so many requests."""

    def make(requests: int) -> str:
        path = tmp_path / "vllm"
        path.write_text(BENCH.format(python=sys.executable, executable=executable, requests=requests))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that the environment names; what it was asked."""
    heard = []

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection:
                    said = connection.recv(2**16)
                    # Another test's vLLM may still try a port that was its own: ZeroMQ greets with 0xff (ZMTP 3.0).
                    if said[:1] == b"\xff":
                        continue
                    heard.append(said.decode())
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=listen)
        thread.start()
        yield heard
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class TestBenchmark:
    """That it works is seen on the real vLLM: the stand-in has no benchmark."""

    @pytest.mark.parametrize(
        ("lower", "upper", "kept"),
        [
            (None, None, "127.0.0.1 127.0.0.1"),
            ("a.example", None, "a.example,127.0.0.1 a.example,127.0.0.1"),
            (None, "b.example,", "b.example,127.0.0.1 b.example,127.0.0.1"),
            ("a.example", "b.example", "a.example,127.0.0.1 b.example,127.0.0.1"),
            ("*", "", "* 127.0.0.1"),
        ],
    )
    def test_no_proxy_hears_of_it(self, manager, spec, bench, proxy, monkeypatch, lower, upper, kept):
        for name, value in (("no_proxy", lower), ("NO_PROXY", upper)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        server = manager.start(spec(executable=bench(2)), timeout=60).server
        table = server.bench()
        assert proxy == []
        assert table[1].split() == ["Successful", "requests:", "2"]
        assert table[-2] == f"no_proxy: {kept}"

    def test_one_without_a_success_is_an_error(self, manager, spec, bench):
        server = manager.start(spec(executable=bench(0)), timeout=60).server
        with pytest.raises(VllmMagicError) as caught:
            server.bench()
        assert str(caught.value) == (
            "None of the requests of vllm bench serve has succeeded: <urlopen error [Errno 111] Connection refused>. "
            'vllm_magic.servers()["tiny"].log() may show more.'
        )

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            ([], ""),
            (["Error 0: Bad Request", "Error 1: x"], ": Bad Request"),
            (["Error 0: Traceback (most recent call last):", '  File "a"', "aiohttp.ClientError: no", "x"],
             ": aiohttp.ClientError: no"),
        ],
    )  # fmt: skip
    def test_why_none_has_succeeded(self, said, why):
        assert benchmark._first_error(["loading", *said]) == why

    def test_one_that_fails(self, manager, spec):
        server = manager.start(spec(), timeout=60).server
        seen = []
        with pytest.raises(VllmMagicError, match=r"has failed \(exit code 2\): .*invalid choice: 'bench'"):
            server.bench(report=lambda last, seconds: seen.append((last, seconds)))
        assert seen
        assert server.state == "ready"

    def test_its_server_is_not_to_be_chosen(self, manager, spec):
        server = manager.start(spec(), timeout=60).server
        for word in ("--port", "--port=1", "--por", "--base_u=http://127.0.0.1:9", "--back"):
            with pytest.raises(VllmMagicError, match=r"--\S+ is set for the server"):
                server.bench(word, "1")
        manager.stop()
        with pytest.raises(VllmMagicError, match="tiny takes no requests any more: it is released"):
            server.bench()

    def test_the_table_ends_with_its_last_line(self):
        title, end = f"====== {benchmark.TITLE} ======", "=" * 50
        said = [
            "loading",
            title,
            "Failed requests: 0",
            "---- Time ----",
            "Mean (ms): 1",
            end,
            "leaked 4 instances!",
        ]
        assert benchmark._table(said) == said[1:-1]
        assert benchmark._table(said[:-2]) == said[1:-2]
        assert benchmark._table(["loading"]) == []

    def test_the_words(self, manager, spec):
        server = manager.start(spec("m", "--served-model-name", "s"), timeout=60).server
        words = benchmark._words(server.spec, server._run.command, ("--num-prompts", "3"))
        assert words[1:5] == ["bench", "serve", "--base-url", server.url]
        assert words[words.index("--served-model-name") + 1] == "s"
        assert words.count("--num-prompts") == 1
        assert server.api_key not in " ".join(words)
