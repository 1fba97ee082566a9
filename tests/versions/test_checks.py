"""One set of checks for any version of vLLM. They run in this order, and some share a server: a start is dear.

`make versions` runs them on each version, `make test` those `with_each_change` on the oldest version that is promised: what
it says and how it ends, which the stand-in has from records.

The limits are for what hangs. None of them says how fast anything is: `seconds` in the table is what was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx
import pytest
from stand_in import leftovers
from traces import Traces

from tests.real.environment import FLAGS, FORKED
from tests.versions import install
from vllm_magic.children import flag_reading
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import unknown_flags
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.errors import RequestFailed, StartFailed
from vllm_magic.linux import pidfd, processes
from vllm_magic.manager.manager import Manager
from vllm_magic.provisioning.base import StartKind
from vllm_magic.provisioning.standby_pool import StandbyMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.real.environment import RealVllm
    from vllm_magic.server.server import Server

# Seconds for what takes a calm machine a minute at most. A machine with other work was seen to need twenty minutes.
LIMIT = 3600.0 if install.CHOSEN else 300.0
pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(2 * LIMIT)]

CONSTANT = {"PYTEST_CURRENT_TEST": ""}  # pytest changes it, and a spare is for one environment
LONG = {"max_tokens": 200, "ignore_eos": True}


@dataclass(frozen=True)
class Bed:
    """Starts servers of this vLLM, and looks for what they leave behind."""

    vllm: RealVllm
    manager: Manager
    traces: Traces

    def spec(self, name: str, *args: str, ttl: float | None = None, **env: str) -> ServerSpec:
        return ServerSpec(
            str(self.vllm.model),
            (*FLAGS, *args),
            name,
            executable=str(self.vllm.executable),
            ttl=ttl,
            env=tuple(sorted({**self.vllm.env, **CONSTANT, **env}.items())),
        )

    def check_traces(self) -> None:
        """Look for what was left; not while a server of another check runs, whose traces these would be."""
        if all(server.state.over for server in self.manager.servers().values()):
            self.traces.check()

    def start(self, name: str, *args: str, ttl: float | None = None) -> Server:
        """One whose engine is forked, as on a GPU: that takes half the time."""
        return self.manager.start(self.spec(name, *args, ttl=ttl, **FORKED), timeout=LIMIT).server


@pytest.fixture(scope="module")
def bed(vllm, tmp_path_factory, shared_cache) -> Iterator[Bed]:
    """The bed of all checks: one manager."""
    home = tmp_path_factory.mktemp("versions") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_MAGIC_HOME", str(home))
        patch.setenv(leftovers.HOME, str(home))
        patch.setenv("VLLM_MAGIC_CACHE", str(shared_cache))
        manager = Manager()
        yield Bed(vllm, manager, Traces(home))
        manager.stop_all(grace=0.0)
        manager.spares.set_mode(StandbyMode.OFF)
        assert manager.spares.wait_gone(LIMIT)
        manager.close()


@pytest.fixture(autouse=True)
def news(bed) -> Iterator[None]:
    """Have pytest show, with a check that fails, what happened to the servers."""
    yield
    print(*bed.manager.news(), sep="\n")


@dataclass(frozen=True)
class Started:
    server: Server
    stages: list[Stage]


@pytest.fixture(scope="module")
def reading(vllm, bed) -> Iterator[str]:
    """The vLLM whose flags are read, at the lowest priority: that begins first, and is looked at last."""
    path = str(vllm.executable)
    flag_reading.table(path)
    yield path
    flag_reading.end()


@pytest.fixture(scope="module")
def main(bed, reading) -> Started:
    """The server that most checks ask."""
    stages: list[Stage] = []
    server = bed.manager.start(
        bed.spec("main", **FORKED), timeout=LIMIT, report=lambda one: stages.append(one.progress.stage)
    ).server
    return Started(server, stages)


@pytest.fixture(scope="module")
def warm(bed) -> ServerSpec:
    """What a warm spare waits for."""
    spec = bed.spec("spared", **FORKED)
    bed.manager.spares.set_mode(StandbyMode.ON)
    bed.manager.expect(spec)
    until(lambda: (status := bed.manager.spares.status()).warm or not status.there)
    return spec


@pytest.fixture(scope="module")
def spared(bed, warm) -> Server:
    """A server that a spare has become."""
    return bed.manager.start(warm, timeout=LIMIT).server


@pytest.fixture(scope="module")
def pooling(bed) -> Server:
    """A server that gives vectors."""
    bed.manager.spares.set_mode(StandbyMode.OFF)
    return bed.start("pooling", "--runner", "pooling")


@pytest.fixture(scope="module")
def configured(bed, tmp_path_factory) -> Server:
    """A server whose options stand in a file."""
    path = tmp_path_factory.mktemp("config") / "options.yaml"
    path.write_text("served-model-name: fox\nseed: 7\n")
    return bed.start("configured", "--config", str(path))


@pytest.fixture(scope="module")
def doubled(bed) -> Server:
    """A server with two API servers, and a worker of its own: older versions compute in the engine's process."""
    return bed.start("doubled", "--api-server-count", "2", "--distributed-executor-backend", "mp")


def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    pause, end = threading.Event(), time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "this took too long"
        pause.wait(0.05)


def identities(server: Server) -> set[processes.Identity]:
    return {process.identity for process in server.processes()}


def process_of(server: Server, role: str) -> int:
    """The pid of the process with this role in its title."""
    found = [one.identity.pid for one in server.processes() if f"::{role}" in processes.shown_name(one)]
    assert found, [processes.shown_name(one) for one in server.processes()]
    return found[0]


def check_failed(bed: Bed, server: Server, everyone: set[processes.Identity]) -> None:
    """Nothing is left of a server that lost a process."""
    assert pidfd.wait_for_all(everyone, LIMIT) == set()
    until(lambda: server.state.over)
    assert server.state == "failed"
    assert server.error.cause
    assert server.release.verified
    with contextlib.suppress(Exception):
        bed.manager.stop(server.name)
    bed.check_traces()


@contextlib.contextmanager
def open_streams(base_url: str, key: str, model: str) -> Iterator[list[httpx.Response]]:
    """Four answers under way."""
    body = {"model": model, "prompt": "a", "stream": True, **LONG}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=LIMIT))
        headers = {"Authorization": f"Bearer {key}"}
        answers = [
            stack.enter_context(client.stream("POST", f"{base_url}/completions", headers=headers, json=body))
            for _ in range(4)
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        yield answers


@pytest.mark.with_each_change
@pytest.mark.check("start, with its stages")
def test_start(main, record_property):
    record_property("detail", f"{main.server.ready_after:.0f} s")
    assert main.server.state == "ready"
    assert [Stage(stage) for stage in sorted(main.stages, key=list(Stage).index)] == main.stages
    assert {Stage.IMPORTING, Stage.CONFIGURING, Stage.ENGINE} <= set(main.stages)


@pytest.mark.with_each_change
@pytest.mark.check("ask: chat, complete")
def test_ask(main):
    server = main.server
    chat = [server.chat("the river", max_tokens=8, temperature=0) for _ in range(2)]
    assert chat[0].text
    assert chat[0].text == chat[1].text
    whole = server.complete("the river", max_tokens=40, ignore_eos=True, temperature=0)
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 40)
    assert httpx.get(f"{server.base_url}/models", timeout=LIMIT).status_code == 401


@pytest.mark.with_each_change
@pytest.mark.check("stream, and leave it")
def test_stream(main):
    server = main.server
    with server.chat("the river", stream=True, temperature=0, ignore_eos=True, max_tokens=100) as stream:
        pieces = list(stream)
    assert len(pieces) > 10
    assert stream.answer.completion_tokens == 100
    with server.chat("the river", stream=True, **LONG) as left:
        assert next(iter(left))
    until(lambda: server.metrics(window=0).running == 0)


@pytest.mark.with_each_change
@pytest.mark.check("errors of the server in its words")
def test_errors(main):
    server = main.server
    with pytest.raises(RequestFailed, match="gives no embeddings"):
        server.embed("the river")
    with pytest.raises(RequestFailed, match="does not classify"):
        server.classify("the river")
    with pytest.raises(RequestFailed, match="nobody"):
        server.chat("the river", model="nobody")
    assert server.chat("the river", max_tokens=2).text


@pytest.mark.with_each_change
@pytest.mark.check("a prompt that is too long: what helps")
def test_too_long(main):
    with pytest.raises(RequestFailed, match="greater --max-model-len"):
        main.server.complete("river " * 300)


@pytest.mark.with_each_change
@pytest.mark.check("metrics")
def test_metrics(main):
    before = main.server.metrics(window=0)
    main.server.complete("the river", max_tokens=30, ignore_eos=True)
    until(lambda: main.server.metrics(window=0).generation_tokens >= before.generation_tokens + 30)
    after = main.server.metrics(window=0)
    assert after.prompt_tokens > before.prompt_tokens
    assert after.kv_cache_use is not None
    assert after.ttft.count > before.ttft.count
    assert after.itl.count > before.itl.count


@pytest.mark.with_each_change
@pytest.mark.check("logs, without our own looks")
def test_logs(main):
    lines = main.server.log(2000)
    assert any("/v1/chat/completions" in line for line in lines)
    assert not [line for line in lines if "GET /metrics" in line or "GET /health" in line]
    assert not [line for line in lines if "\x1b" in line]
    assert main.server.api_key not in main.server.log_path.read_text()


@pytest.mark.check("fit, as vLLM's log says")
def test_fit(main, bed):
    text = main.server.log_path.read_text()
    said = re.search(r"KV cache size: ([\d,]+) tokens(?:.*request: ([\d.]+)x)?", text)
    assert said, "vLLM says no size"
    request = said[2] or re.search(r"Maximum concurrency for 256 tokens per request: ([\d.]+)x", text)[1]
    fit = bed.manager.fit(main.server.spec)
    assert (said[1], request) == (f"{fit.kv_tokens:,}", f"{fit.requests:.2f}")


@pytest.mark.check("JSON schema")
def test_schema(main):
    """The first such answer may wait for a C++ compiler: on a CPU, inductor compiles what applies the grammar."""
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}
    answer = main.server.complete("a number:", json_schema=schema, max_tokens=60, timeout=LIMIT)
    assert answer.parsed == {"n": 7}


@pytest.mark.check("bench")
def test_bench(main):
    table = main.server.bench("--num-prompts", "4", "--random-input-len", "16", "--random-output-len", "8")
    assert any(re.search(r"Successful requests:\s+4\b", line) for line in table)


@pytest.mark.with_each_change
@pytest.mark.check("stop with 4 open streams")
def test_stop_with_open_streams(main, bed, record_property):
    server = main.server
    with open_streams(server.base_url, server.api_key, server.model):
        release = bed.manager.stop("main")
    record_property("detail", f"{release.seconds:.1f} s")
    assert release.verified
    bed.check_traces()


@pytest.mark.without_a_gpu
@pytest.mark.check("a spare imports vLLM")
def test_spare_is_warm(warm, bed, record_property):
    status = bed.manager.spares.status()
    assert status.warm, status.reason
    record_property("detail", f"{status.memory / 2**20:.0f} MiB")


@pytest.mark.check("a spare becomes a server")
def test_spare(spared, record_property):
    record_property("detail", f"{spared.ready_after:.0f} s")
    assert (spared.start_kind, spared.cold_because) == (StartKind.WARM, "")
    assert spared.complete("the river", max_tokens=4).text


@pytest.mark.check("restart")
def test_restart(spared, bed, record_property):
    before = spared.complete("the river", max_tokens=20, temperature=0).text
    bed.manager.expect(spared.spec)
    release = bed.manager.stop("spared", grace=LIMIT)
    record_property("detail", f"stop {release.seconds:.1f} s")
    assert release.verified
    again = bed.manager.start(spared.spec, timeout=LIMIT).server
    assert again.complete("the river", max_tokens=20, temperature=0).text == before


@pytest.mark.check("drain: the streams are finished first")
def test_drain(spared, bed, record_property):
    bed.manager.spares.set_mode(StandbyMode.OFF)
    server = bed.manager.get("spared")
    with open_streams(server.base_url, server.api_key, server.model) as streams:
        began = time.monotonic()
        stopping = threading.Thread(target=server.stop, kwargs={"drain": LIMIT})
        stopping.start()
        ends = [list(stream.iter_lines()) for stream in streams]
        stopping.join(LIMIT)
    assert not stopping.is_alive()
    assert all("data: [DONE]" in end for end in ends)
    assert server.release.verified
    record_property("detail", f"{time.monotonic() - began:.1f} s")
    assert bed.manager.spares.wait_gone(LIMIT)
    bed.check_traces()


@pytest.mark.check("pooling: embed and score")
def test_pooling(pooling):
    one, other, same = pooling.embed(["the river", "a small red fox", "the river"])
    assert len(one) == 128
    assert one == pytest.approx(same, abs=1e-4)
    assert one != pytest.approx(other, abs=1e-2)
    far, near = pooling.score("the river", ["a small red fox", "the river"])
    assert far < near == pytest.approx(1, abs=1e-3)
    with pytest.raises(RequestFailed, match="generates no text"):
        pooling.chat("the river")


@pytest.mark.check("the API server is killed")
def test_api_server_is_killed(pooling, bed):
    everyone = identities(pooling)
    assert len(everyone) >= 2
    os.kill(pooling.pid, signal.SIGKILL)
    check_failed(bed, pooling, everyone)


@pytest.mark.check("options in a file (--config)")
def test_config_file(configured):
    models = httpx.get(
        f"{configured.base_url}/models",
        headers={"Authorization": f"Bearer {configured.api_key}"},
        timeout=LIMIT,
    ).json()
    assert [model["id"] for model in models["data"]] == ["fox"]
    assert configured.chat("the river", max_tokens=4).text


@pytest.mark.check("the engine is killed")
def test_engine_is_killed(configured, bed):
    everyone = identities(configured)
    os.kill(process_of(configured, "EngineCore"), signal.SIGKILL)
    check_failed(bed, configured, everyone)


@pytest.mark.check("two API servers: metrics before a request")
def test_metrics_before_a_request(doubled):
    assert doubled.metrics(window=0).generation_tokens == 0


@pytest.mark.check("two API servers")
def test_two_api_servers(doubled):
    def titled() -> int:  # a server sets its title after it has begun to answer
        names = [processes.shown_name(process) for process in doubled.processes()]
        return sum("::APIServer" in name or "::ApiServer" in name for name in names)

    until(lambda: titled() == 2)
    for _ in range(4):
        assert doubled.complete("the river", max_tokens=5, ignore_eos=True).completion_tokens == 5
    until(lambda: doubled.metrics(window=0).generation_tokens == 20)


@pytest.mark.check("a worker is killed")
def test_worker_is_killed(doubled, bed):
    everyone = identities(doubled)
    os.kill(process_of(doubled, "Worker"), signal.SIGKILL)
    check_failed(bed, doubled, everyone)


@pytest.mark.check("ttl: never in a request, then released")
def test_ttl(bed):
    ttl = 10.0
    server = bed.start("idle", ttl=ttl)
    assert server.complete("the river", max_tokens=4).text
    engine = process_of(server, "EngineCore")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(server.complete("the river", max_tokens=4)))
    os.kill(engine, signal.SIGSTOP)  # a step that takes its time
    try:
        asking.start()
        threading.Event().wait(2.5 * ttl)
        assert server.state == "ready"
    finally:
        os.kill(engine, signal.SIGCONT)
    asking.join(LIMIT)
    assert answers
    assert answers[0].text
    until(lambda: server.state.over)
    assert server.state == "released"
    assert server.release.verified
    bed.check_traces()


HOST = """
import json, signal, sys, time, vllm_magic
words, options = json.loads(sys.argv[1])
server = vllm_magic.start(*words, **options)
print(json.dumps([server.base_url, server.api_key]), flush=True)
signal.pause()
"""


@pytest.mark.with_each_change
@pytest.mark.check("the kernel is killed, 4 open streams")
def test_kernel_is_killed(vllm, traces, record_property):
    options = {"executable": str(vllm.executable), "env": {**vllm.env, **FORKED}, "timeout": LIMIT}
    words = json.dumps([[str(vllm.model), *FLAGS], options])
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", HOST, words]
        host = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        )
        stack.callback(host.kill)
        url, key = json.loads(host.stdout.readline())
        stack.enter_context(open_streams(url, key, str(vllm.model)))
        table = processes.table()
        everyone = {table[pid].identity for pid in processes.descendants(table, host.pid)}
        assert len(everyone) >= 3
        began = time.monotonic()
        host.kill()
        assert pidfd.wait_for_all(everyone, LIMIT) == set()
        record_property("detail", f"{time.monotonic() - began:.1f} s")
    until(lambda: not (traces.processes() or traces.files()))
    traces.check()


@pytest.mark.check("stop while the engine initialises")
def test_stop_while_the_engine_initialises(bed, record_property):
    server = bed.manager.start(bed.spec("early"), wait=False).server
    until(lambda: server.progress.stage is Stage.ENGINE or server.state != "starting")
    assert server.state == "starting"
    release = bed.manager.stop("early")
    record_property("detail", f"{release.seconds:.1f} s")
    assert release.verified
    bed.check_traces()


@pytest.mark.without_a_gpu
@pytest.mark.check("a start that fails is explained")
def test_failure(bed):
    missing = replace(bed.spec("missing", **FORKED), model="/nowhere/at/all", force=True)
    with pytest.raises(StartFailed) as caught:
        bed.manager.start(missing, timeout=LIMIT)
    cpu_build = install.has_cpu_build(install.VERSION)
    expected = "There is no model at /nowhere/at/all" if cpu_build else "vLLM finds no GPU that it can use"
    assert caught.value.cause == expected
    assert caught.value.hint
    bed.manager.spares.set_mode(StandbyMode.OFF)
    assert bed.manager.spares.wait_gone(LIMIT)
    bed.check_traces()


@pytest.mark.with_each_change
@pytest.mark.without_a_gpu
@pytest.mark.check("flags are read, unknown ones found")
def test_flags(reading, record_property):
    until(lambda: flag_table.load(reading) or flag_table.failure(reading))
    assert flag_table.failure(reading) == ""
    table = flag_table.load(reading)
    record_property("detail", f"{len(table.options)} options")
    assert len(table.options) > 150
    assert table.find("--max-model-len").kind == "int"
    assert {"auto", "bfloat16", "float32"} <= set(table.find("--dtype").choices)
    assert table.find("--enforce-eager") is table.find("--no-enforce-eager")
    for known in (["-tp", "2"], ["--no-enable-prefix-caching"], ["--max_model_len=-1"], ["--api-key", "a"]):
        assert not unknown_flags.find(known, table), known
    assert unknown_flags.find(["--max-modell-len", "9"], table)
