"""The stand-in behaves as vLLM 0.32 was measured to: what every other test that uses it relies on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import stand_in
from fake_gpu import fakegpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30.0  # of every wait; a healthy run needs tenths of a second


@dataclasses.dataclass
class StandIn:
    """One running stand-in. Its processes are those that work in its private folder, wherever they moved to."""

    popen: subprocess.Popen[bytes]
    folder: Path
    port: int
    client: httpx.Client

    @property
    def log(self) -> str:
        """All that it wrote."""
        return (self.folder / "log").read_bytes().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Every live process of it, zombies apart."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def titles(self) -> list[str]:
        """Sorted names of its processes: titles, "vllm" for the leader, "tracker" for the resource tracker."""
        return sorted(filter(None, map(title, self.processes())))

    def process(self, name: str) -> psutil.Process:
        """The process of that title."""
        return next(process for process in self.processes() if title(process) == name)

    def until_titles(self, *titles: str) -> None:
        """Wait until these, and no others, are left."""
        until(lambda: self.titles() == sorted(titles), lambda: f"{self.titles()}\n{self.log}")

    def until_logged(self, text: str) -> None:
        """Wait for `text` in its log."""
        until(lambda: text in self.log, lambda: self.log)

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        """GET `path`."""
        return self.client.get(path, **kwargs)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """POST `body` to `path`."""
        return self.client.post(path, json=body)

    def stream(self, **body: Any) -> httpx.Response:
        """Begin a streamed completion; the response is to be closed."""
        request = self.client.build_request(
            "POST", "/v1/completions", json={"prompt": "hi", "stream": True, **body}
        )
        return self.client.send(request, stream=True)

    def health(self) -> int | None:
        """Status of /health; None where nobody listens."""
        try:
            return self.get("/health").status_code
        except httpx.TransportError:
            return None

    def until_ready(self) -> StandIn:
        """Wait for /health 200."""
        until(lambda: self.popen.poll() is not None or self.health() == 200, lambda: self.log)
        assert self.popen.poll() is None, self.log
        return self

    def segments(self) -> list[Path]:
        """The /dev/shm files that its processes map, by inode: a semaphore is mapped under another name."""
        inodes = set()
        for process in self.processes():
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            inodes |= {int(inode) for inode in re.findall(r" (\d+) +/dev/shm/", maps)}
        with os.scandir("/dev/shm") as entries:  # files of other tests come and go
            return sorted(Path(entry.path) for entry in entries if entry.inode() in inodes)

    def end(self) -> None:
        """Kill all of it; the resource tracker is left alone, so that it unlinks the segments."""
        self.client.close()
        until(self._kill_all, lambda: str(self.processes()))

    def _kill_all(self) -> bool:
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if title(process) != "tracker":
                    process.kill()
        self.popen.poll()
        return not processes


def title(process: psutil.Process) -> str:
    """Name of one process; empty where it is ending."""
    words = []
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
    if "serve" in words:
        return "vllm"
    return (
        "tracker" if any("multiprocessing.resource_tracker" in word for word in words) else "".join(words[:1])
    )


def until(condition: Callable[[], bool], tell: Callable[[], str]) -> None:
    """Wait for `condition`."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, tell()
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StandIn]]:
    """Start stand-ins; whatever is left of them is ended after the test."""
    executable = stand_in.install(tmp_path / "bin")
    started = []

    def begin(
        *words: str, port: int | None = None, env: dict[str, str] | None = None, **asked: Any
    ) -> StandIn:
        folder = tmp_path / f"server{len(started)}"
        (folder / "t").mkdir(parents=True)
        number = port or free_port()
        model = [] if words and not words[0].startswith("-") else ["tiny"]
        command = [executable, "serve", *model, *words, "--host", "127.0.0.1", "--port", str(number)]
        short = {
            "TMPDIR": "t",
            "VLLM_RPC_BASE_PATH": "t",
        }  # relative: pytest's paths are too long for AF_UNIX
        environment = {**os.environ, **short, **(env or {}), **stand_in.options(**asked)}
        with (folder / "log").open("wb") as log:
            popen = subprocess.Popen(
                command, cwd=folder, env=environment, start_new_session=True, stdout=log, stderr=log
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{number}", timeout=DEADLINE_S, trust_env=False)
        started.append(StandIn(popen, folder, number, client))
        return started[-1]

    yield begin
    for server in started:
        server.end()


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def open_streams(server: StandIn, count: int) -> list[httpx.Response]:
    """Begin `count` answers that take for ever, and await the first token of each."""
    streams = [server.stream(max_tokens=10**6) for _ in range(count)]
    until(lambda: metric(server, "time_to_first_token_seconds_count") == count, lambda: server.log)
    return streams


# The process tree


@pytest.mark.parametrize(
    ("flags", "titles"),
    [
        ([], "VLLM::EngineCore VLLM::Worker"),
        (["-tp", "2"], "VLLM::EngineCore VLLM::Worker_TP0 VLLM::Worker_TP1"),
        (
            ["--data-parallel-size=2"],
            "VLLM::DPCoordinator VLLM::EngineCore_DP0 VLLM::EngineCore_DP1 VLLM::Worker_DP0 VLLM::Worker_DP1",
        ),
        (["--api-server-count", "2"], "VLLM::EngineCore VLLM::Worker VLLM::APIServer_0 VLLM::APIServer_1"),
    ],
)
def test_tree(start: Callable[..., StandIn], flags: list[str], titles: str) -> None:
    server = start(*flags).until_ready()
    server.until_titles("vllm", "tracker", *titles.split())
    assert {os.getsid(process.pid) for process in server.processes()} == {server.popen.pid}
    server.popen.terminate()
    assert server.popen.wait(DEADLINE_S) == 0
    server.until_titles()


def test_names(start: Callable[..., StandIn]) -> None:
    server = start(env={"VLLM_PROCESS_NAME_PREFIX": "VLLM@nb-42"}).until_ready()
    engine = server.process("VLLM@nb-42::EngineCore")
    assert Path(f"/proc/{engine.pid}/comm").read_text() == "VLLM@nb-42::Eng\n"
    assert Path(f"/proc/{server.popen.pid}/comm").read_text() == "vllm\n"
    assert engine.ppid() == server.popen.pid
    assert server.process("VLLM@nb-42::Worker").ppid() == engine.pid


# Stopping: the table of measurements


@pytest.mark.parametrize(
    ("number", "to_group"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)]
)
def test_stop_when_idle(start: Callable[..., StandIn], number: signal.Signals, to_group: bool) -> None:
    server = start().until_ready()
    (os.killpg if to_group else os.kill)(server.popen.pid, number)
    assert server.popen.wait(DEADLINE_S) == 0
    server.until_titles()
    assert "[shutdown] API server: shutdown triggered" in server.log


@pytest.mark.parametrize("to_group", [False, True])
def test_sigterm_with_open_streams_never_ends(start: Callable[..., StandIn], to_group: bool) -> None:
    server = start().until_ready()
    streams = open_streams(server, 4)
    (os.killpg if to_group else os.kill)(server.popen.pid, signal.SIGTERM)
    server.until_titles("vllm", "tracker")
    server.until_logged("Waiting for connections to close")
    assert server.health() is None
    with pytest.raises(subprocess.TimeoutExpired):
        server.popen.wait(1.0)
    for stream in streams:
        stream.close()
    assert server.popen.wait(DEADLINE_S) == 0


def test_sigint_with_open_streams_ends(start: Callable[..., StandIn]) -> None:
    server = start().until_ready()
    streams = open_streams(server, 2)
    os.killpg(server.popen.pid, signal.SIGINT)
    assert server.popen.wait(DEADLINE_S) == 0
    server.until_titles()
    for stream in streams:
        stream.close()


def test_shutdown_timeout_drains(start: Callable[..., StandIn]) -> None:
    server = start("--shutdown-timeout", "20", token_s=0.05).until_ready()
    stream = server.stream(max_tokens=20)
    server.popen.terminate()
    assert stream.read().endswith(b"data: [DONE]\n\n")
    assert server.popen.wait(DEADLINE_S) == 0


def test_sigterm_while_importing_ends_at_once(start: Callable[..., StandIn]) -> None:
    server = start(hang_in="import", log_bytes=True)
    server.until_logged("alert(1)")
    server.popen.terminate()
    assert server.popen.wait(DEADLINE_S) == -signal.SIGTERM
    server.until_titles()


def test_first_sigterm_during_initialisation_is_swallowed(start: Callable[..., StandIn]) -> None:
    server = start(hang_in="init")
    server.until_logged("Initializing a V1 LLM engine")
    server.popen.terminate()
    server.process("VLLM::EngineCore").send_signal(signal.SIGUSR1)
    server.until_ready()
    server.popen.terminate()
    assert server.popen.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("where", ["init", "load"])
def test_second_sigterm_during_initialisation_ends(start: Callable[..., StandIn], where: str) -> None:
    server = start(hang_in=where)
    server.until_logged("Initializing" if where == "init" else "Starting to load model")
    assert server.health() is None
    server.popen.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        server.popen.wait(0.5)
    assert "VLLM::EngineCore" in server.titles()
    server.popen.terminate()
    assert server.popen.wait(DEADLINE_S) == -signal.SIGINT
    server.until_titles()


def test_sigterm_to_the_group_during_initialisation_leaves_the_leader(start: Callable[..., StandIn]) -> None:
    server = start(hang_in="load")
    server.until_logged("Starting to load model")
    os.killpg(server.popen.pid, signal.SIGTERM)
    server.until_titles("vllm", "tracker")
    with pytest.raises(subprocess.TimeoutExpired):
        server.popen.wait(0.5)


def test_sigint_to_the_group_during_initialisation_fails(start: Callable[..., StandIn]) -> None:
    server = start(hang_in="init")
    server.until_logged("Initializing")
    os.killpg(server.popen.pid, signal.SIGINT)
    assert server.popen.wait(DEADLINE_S) == 1
    server.until_titles()


def test_sigkill_of_the_leader_leaves_the_rest(start: Callable[..., StandIn]) -> None:
    server = start().until_ready()
    server.popen.kill()
    assert server.popen.wait(DEADLINE_S) == -signal.SIGKILL
    server.until_titles("VLLM::EngineCore", "VLLM::Worker", "tracker")


@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "VLLM::Worker"])
def test_engine_death_is_503_and_exit_code_0(start: Callable[..., StandIn], victim: str) -> None:
    server = start(dead_exit_s=60).until_ready()
    stream = open_streams(server, 1)[0]
    server.process(victim).kill()
    until(lambda: server.health() == 503, lambda: server.log)
    assert b"EngineCore encountered an issue" in stream.read()
    server.popen.terminate()  # it would go by itself after `dead_exit_s`
    assert server.popen.wait(DEADLINE_S) == 0
    server.until_titles()
    assert "EngineDeadError" in server.log


# What it leaves behind


def test_clean_exit_leaves_sockets_only(start: Callable[..., StandIn]) -> None:
    server = start().until_ready()
    segments = server.segments()
    assert [path.name[:4] for path in segments] == ["psm_", "psm_", "sem."]
    server.popen.terminate()
    assert server.popen.wait(DEADLINE_S) == 0
    server.until_titles()
    assert not any(path.exists() for path in segments)
    left = [path.name for path in (server.folder / "t").iterdir() if path.is_socket()]
    assert 3 <= len(left) <= 12
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in left)


def test_kill_leaves_shared_memory(start: Callable[..., StandIn]) -> None:
    server = start().until_ready()
    segments = server.segments()
    os.killpg(server.popen.pid, signal.SIGKILL)
    server.popen.wait(DEADLINE_S)
    server.until_titles()
    assert len(segments) == 3
    for path in segments:
        path.unlink()


# HTTP


def test_key_guards_v1_only(start: Callable[..., StandIn]) -> None:
    server = start("--served-model-name", "short", env={"VLLM_API_KEY": "secret"}).until_ready()
    assert server.get("/v1/models").status_code == 401
    assert server.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert server.post("/v1/completions", prompt="a").status_code == 401
    assert server.get("/metrics").status_code == 200
    answer = server.get("/v1/models", headers={"Authorization": "Bearer secret"})
    assert (answer.status_code, answer.json()["data"][0]["id"]) == (200, "short")
    assert "secret" not in server.log


def test_completions(start: Callable[..., StandIn]) -> None:
    server = start("--max-model-len", "64").until_ready()
    chat = {"messages": [{"role": "user", "content": "one two three"}]}
    answer = server.post("/v1/chat/completions", **chat, max_tokens=3).json()
    assert answer["choices"][0]["message"]["content"] == " word0 word1 word2"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    asked = {**chat, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    events = server.post("/v1/chat/completions", **asked).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert parts[-1]["usage"]["completion_tokens"] == 4
    assert (
        "".join(part["choices"][0]["delta"]["content"] for part in parts[:-1]) == " word0 word1 word2 word3"
    )
    assert parts[-2]["choices"][0]["finish_reason"] == "length"
    assert (
        server.post("/v1/completions", prompt="a", max_tokens=2).json()["choices"][0]["text"]
        == " word0 word1"
    )


@pytest.mark.parametrize(
    ("body", "status"), [({"max_tokens": 65}, 400), ({"model": "other"}, 404), ({"max_tokens": "many"}, 400)]
)
def test_bad_requests(start: Callable[..., StandIn], body: dict[str, Any], status: int) -> None:
    answer = start("--max-model-len", "64").until_ready().post("/v1/completions", prompt="a", **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)


def test_metrics(start: Callable[..., StandIn]) -> None:
    server = start("--max-num-seqs", "2").until_ready()
    streams = open_streams(server, 2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        third = pool.submit(server.post, "/v1/completions", prompt="waits", max_tokens=1)
        until(lambda: metric(server, "num_requests_waiting") == 1, lambda: server.log)
        assert metric(server, "num_requests_running") == 2
        assert metric(server, "kv_cache_usage_perc") > 0
        for stream in streams:
            stream.close()
        assert third.result().status_code == 200
    until(lambda: metric(server, "num_requests_running") == 0, lambda: server.log)
    assert metric(server, "prompt_tokens_total") == 3
    assert metric(server, "generation_tokens_total") >= 3
    assert metric(server, "request_success_total") == 1
    assert metric(server, "time_to_first_token_seconds_count") == 3
    assert metric(server, "kv_cache_usage_perc") == 0


def metric(server: StandIn, name: str) -> float:
    """Read one sample of /metrics."""
    found = re.search(rf"^vllm:{name}\{{.*\}} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


# The command line and the failures


def test_flags_as_vllm_reads_them(start: Callable[..., StandIn]) -> None:
    words = [
        "org/model",
        "-O.level=3",
        "--max_model_len=4k",
        "--hf-overrides",
        '{"a": {"b": 1}}',
        "--enforce-eager",
    ]
    server = start(*words, "--hf-overrides.x.y", "1", "--no-enable-lora", "-O3").until_ready()
    assert "non-default args: " in server.log
    assert "'max_model_len': 4000" in server.log
    assert "Capturing CUDA graphs" not in server.log


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--bogus"], 2, "vllm: error: unrecognized arguments: --bogus"),
        (["--seed", "x"], 2, "vllm serve: error: argument --seed: invalid int value: 'x'"),
        (["--hf-overrides", "{"], 2, "[type=json_invalid, input_value='{'"),
        (["--config", "none.yaml"], 1, "FileNotFoundError: [Errno 2] No such file or directory: 'none.yaml'"),
        (["missing/model"], 1, "missing/model is not a local folder and is not a valid model identifier"),
        (
            ["./none"],
            1,
            "HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': './none'",
        ),
    ],
)
def test_user_errors(start: Callable[..., StandIn], words: list[str], code: int, said: str) -> None:
    server = start(*words)
    assert server.popen.wait(DEADLINE_S) == code
    assert said in server.log
    assert "Initializing" not in server.log
    server.until_titles()


def test_port_in_use_fails_before_the_engine_starts(start: Callable[..., StandIn]) -> None:
    first = start().until_ready()
    second = start(port=first.port)
    assert second.popen.wait(DEADLINE_S) == 1
    assert "OSError: [Errno 98] Address already in use" in second.log
    assert "Initializing" not in second.log


def test_failure_of_the_engine(start: Callable[..., StandIn]) -> None:
    server = start(fail="gpu_occupied")
    assert server.popen.wait(DEADLINE_S) == 1
    first = next(
        line for line in server.log.splitlines() if re.search(r"ERROR .* \[core\.py:\d+\] \w*Error", line)
    )
    assert "Free memory on device cuda:0" in first
    assert "Engine core initialization failed. See root cause above." in server.log
    server.until_titles()


def test_log_lines_have_vllms_prefix(start: Callable[..., StandIn]) -> None:
    server = start().until_ready()
    server.until_logged("Application startup complete.")
    prefix = r"\((APIServer|EngineCore|Worker) pid=\d+\) INFO \d\d-\d\d \d\d:\d\d:\d\d \[\w+\.py:\d+\] "
    bare = r"INFO:     |Loading safetensors checkpoint shards: |Capturing CUDA graphs "
    assert [line for line in server.log.splitlines() if line and not re.match(f"{prefix}|{bare}", line)] == []


# VRAM


@pytest.mark.parametrize(
    ("visible", "flags", "holders"),
    [
        (None, [], {"VLLM::EngineCore": {0}}),
        ("1", [], {"VLLM::EngineCore": {1}}),
        pytest.param(
            f"{fakegpu.uuid(1)},{fakegpu.uuid(0)}",
            ["-tp", "2"],
            {"VLLM::Worker_TP0": {1}, "VLLM::Worker_TP1": {0}},
            id="UUIDs",
        ),
    ],
)
def test_vram(
    start: Callable[..., StandIn],
    tmp_path: Path,
    visible: str | None,
    flags: list[str],
    holders: dict[str, set[int]],
) -> None:
    root = fakegpu.build(tmp_path / "gpu", gpus=2)
    env = {"FAKE_GPU_DIR": str(root), **({"CUDA_VISIBLE_DEVICES": visible} if visible else {})}
    server = start(*flags, env=env, vram=1 << 30).until_ready()
    found = {}
    for process in server.processes():
        maps = {each.path for each in process.memory_maps()}
        gpus = {gpu for gpu in range(2) if str(root / "dev" / f"nvidia{gpu}") in maps}
        if gpus:
            found[title(process)] = gpus
    assert found == holders


# Faults


def test_ignore_sigterm(start: Callable[..., StandIn]) -> None:
    server = start(ignore_sigterm=True).until_ready()
    os.killpg(server.popen.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        server.popen.wait(0.5)
    assert server.titles() == ["VLLM::EngineCore", "VLLM::Worker", "tracker", "vllm"]


def test_ignore_sigterm_engine_and_setpgrp(start: Callable[..., StandIn]) -> None:
    server = start(ignore_sigterm_engine=True, setpgrp=True).until_ready()
    engine, worker = (server.process(name).pid for name in ("VLLM::EngineCore", "VLLM::Worker"))
    assert [ignores_sigterm(pid) for pid in (server.popen.pid, engine, worker)] == [False, True, True]
    assert [os.getpgid(pid) for pid in (engine, worker)] == [engine, engine]
    assert os.getsid(engine) == server.popen.pid


def ignores_sigterm(pid: int) -> bool:
    """Whether the process has SIGTERM set to SIG_IGN (proc(5), SigIgn)."""
    mask = re.search(r"^SigIgn:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert mask
    return bool(int(mask[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_strays_outlive_a_clean_stop(start: Callable[..., StandIn]) -> None:
    server = start(setsid_child=True, daemonise=True, children=3).until_ready()
    assert server.titles().count("VLLM::Child") == 3
    sessions = {os.getsid(server.process(title).pid) for title in ("VLLM::Setsid", "VLLM::Daemon")}
    assert len(sessions | {server.popen.pid}) == 3
    tree = [child.pid for child in psutil.Process(server.popen.pid).children(recursive=True)]
    assert server.process("VLLM::Daemon").pid not in tree
    server.popen.terminate()
    assert server.popen.wait(DEADLINE_S) == 0
    server.until_titles("VLLM::Setsid", "VLLM::Daemon", "tracker")


def test_forks_while_killed(start: Callable[..., StandIn]) -> None:
    server = start(fork_while_killed=True).until_ready()
    seen: set[int] = set()

    def several() -> bool:
        seen.update(process.pid for process in server.processes() if title(process) == "VLLM::Forker")
        return len(seen) > 5

    until(several, lambda: str(seen))


@pytest.mark.parametrize(
    ("die", "code"),
    [
        ({"who": "leader", "when": "import", "signal": signal.SIGSEGV}, -signal.SIGSEGV),
        ({"who": "leader", "when": "ready", "rc": 3, "after_s": 0.2}, 3),
        ({"who": "engine", "when": "init", "rc": 9}, 1),
        ({"who": "worker", "when": "init", "signal": signal.SIGKILL}, 1),
        ({"who": "engine", "when": "ready", "signal": signal.SIGKILL}, 0),
        ({"who": "worker", "when": "ready", "rc": 5}, 0),
    ],
)
def test_deaths(start: Callable[..., StandIn], die: dict[str, Any], code: int) -> None:
    server = start(die=die)
    assert server.popen.wait(DEADLINE_S) == code, server.log
    if die["who"] != "leader":
        server.until_titles()
    if die["who"] == "worker":
        assert "Worker proc Worker died unexpectedly (exit code: " in server.log
    if die["who"] == "engine" and die["when"] == "init":
        assert "Failed core proc(s): {'EngineCore': 9}" in server.log


def test_log_flood_is_bounded(start: Callable[..., StandIn]) -> None:
    server = start(log_flood={"bytes_per_s": 1e8, "seconds": 0.1}, log_bytes=True).until_ready()
    until(lambda: server.log.count("flood xxx") == 50_000, lambda: str(len(server.log)))
    assert b"\xff\xfe\x00 \x1b[31mred" in (server.folder / "log").read_bytes()


def test_a_trigger_begins_floods_and_forks(start: Callable[..., StandIn], tmp_path: Path) -> None:
    fifo = tmp_path / "trigger"
    os.mkfifo(fifo)
    flood = {"bytes_per_s": 1e8, "seconds": 0.1, "newline": False}
    server = start(log_flood=flood, fork_while_killed=True, trigger=str(fifo)).until_ready()
    assert "flood" not in server.log
    assert server.titles().count("VLLM::Forker") == 1
    os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
    until(lambda: server.log.count("flood xxx") == 50_000, lambda: str(len(server.log)))
    assert max(map(len, server.log.splitlines())) > 1_000_000
    until(lambda: server.titles().count("VLLM::Forker") > 1, lambda: str(server.titles()))


def test_life_is_limited(start: Callable[..., StandIn]) -> None:
    server = start(life_s=2, ignore_sigterm=True, setsid_child=True, daemonise=True, children=1)
    assert server.popen.wait(DEADLINE_S) == -signal.SIGALRM
    server.until_titles()


def test_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="hang_inn"):
        stand_in.options(hang_inn="init")
