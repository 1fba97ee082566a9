"""The CPU build of vLLM itself: the hangs that this project exists for, on the real thing.

A start takes half a minute, so what the stand-in can show is shown with it. Each test here says what it cannot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import architectures
import httpx
import pytest
from fake_gpu import fakegpu
from stand_in import leftovers
from traces import Traces

from tests.real.environment import FLAGS, FORKED, fake_vram_env
from vllm_magic.engine.capacity import architecture
from vllm_magic.engine.capacity.layers import Layer
from vllm_magic.engine.client.metrics import activity
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.errors import NoChatTemplate, RequestFailed, StartFailed
from vllm_magic.guard.ladder import LINGER
from vllm_magic.linux import pidfd, processes, shared_memory
from vllm_magic.manager.manager import Manager
from vllm_magic.release.result import Proof

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]

READY_LIMIT = 300.0
GIB = 2**30


@pytest.fixture
def real(vllm):
    """Makes specs for the real vLLM."""

    def make(*args: str, name: str = "real", model: str | None = None, **env: str) -> ServerSpec:
        return ServerSpec(
            model=model or str(vllm.model),
            args=(*FLAGS, *args),
            name=name,
            executable=str(vllm.executable),
            env=tuple(sorted({**vllm.env, **env}.items())),
        )

    return make


def ask(server) -> str:
    answer = httpx.post(
        f"{server.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {server.api_key}"},
        json={
            "model": server.model,
            "messages": [{"role": "user", "content": "Say something."}],
            "max_tokens": 8,
        },
        timeout=60,
    )
    return answer.raise_for_status().json()["choices"][0]["message"]["content"]


def until_over(server) -> None:
    deadline = time.monotonic() + 60
    while not server.state.over:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def open_streams(stack: contextlib.ExitStack, base_url: str, key: str, model: str) -> None:
    """Four answers under way."""
    client = stack.enter_context(httpx.Client(timeout=60))
    body = {"model": model, "prompt": "a", "max_tokens": 200, "stream": True, "ignore_eos": True}
    for _ in range(4):
        answer = stack.enter_context(
            client.stream(
                "POST", f"{base_url}/completions", headers={"Authorization": f"Bearer {key}"}, json=body
            )
        )
        assert answer.status_code == 200


def test_configs_are_read_as_vllm_reads_them(vllm):
    """What `%vllm fit` makes of config.json; vLLM itself may say more on its standard error."""
    read = subprocess.run(
        [vllm.python, Path(__file__).with_name("read_configs.py")],
        input=json.dumps(architectures.ALL),
        capture_output=True,
        text=True,
        env={**os.environ, **vllm.env},
        timeout=READY_LIMIT,
    )
    assert read.returncode == 0, read.stderr
    theirs = json.loads(read.stdout[read.stdout.index("{") :])
    assert len(theirs) > 20
    for name, one in theirs.items():
        ours = architecture.read(architectures.ALL[name])
        kinds = {Layer.FULL: "full", Layer.SLIDING: "sliding", Layer.STATE: "linear"}
        values = one["head"] if one["latent"] else 2 * one["head"]
        assert (name, ours.depth, ours.values, ours.latent) == (name, one["depth"], values, one["latent"])
        assert (name, ours.kv_heads) == (name, 1 if one["latent"] else one["kv_heads"])
        assert (name, ours.longest) == (name, one["longest"])
        assert (name, ours.heads) == (name, one["heads"])
        accepted = architecture.longest_accepted(
            architectures.ALL[name]
        )  # refused above it, so never too small
        assert (name, accepted or one["accepted"]) == (name, one["accepted"])
        assert [kinds[layer] for layer in ours.layers] == [
            kind.removesuffix("_attention") for kind in one["layers"]
        ]
        assert (name, ours.window) == (name, one["window"] if "sliding" in str(one["layers"]) else 0)


@pytest.fixture(scope="module")
def kept_traces(tmp_path_factory) -> Traces:
    """What the servers of `kept` leave behind."""
    return Traces(tmp_path_factory.mktemp("kept") / "home")


@pytest.fixture(scope="module")
def kept(kept_traces, shared_cache):
    """A manager for the server that several tests ask."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_MAGIC_HOME", str(kept_traces.home))
        patched.setenv(leftovers.HOME, str(kept_traces.home))
        patched.setenv("VLLM_MAGIC_CACHE", str(shared_cache))
        made = Manager()
        yield made
        made.stop_all(grace=0.0)
        made.close()
        kept_traces.check()


@pytest.fixture(scope="module")
def base(vllm, kept, tmp_path_factory):
    """A server without a chat template, for the tests that only send requests; the last of them stops it."""
    model = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(vllm.model, model)
    (model / "chat_template.jinja").unlink()
    spec = ServerSpec(
        model=str(model),
        args=(*FLAGS, "--trust-request-chat-template"),
        name="base",
        executable=str(vllm.executable),
        env=tuple(sorted({**vllm.env, **FORKED}.items())),
    )
    return kept.start(spec, timeout=READY_LIMIT).server


@pytest.mark.usefixtures("patient")
def test_start_stop_and_start_again_with_vram(manager, real, fake_gpus, traces):
    """vLLM's own stages, logs and exit code; and an engine that is killed, which vLLM's own processes have to notice."""
    env = fake_vram_env(fake_gpus, GIB)
    baseline = [gpu.used for gpu in manager.gpus().gpus]
    stages = []
    server = manager.start(
        real(name="one", **env), timeout=READY_LIMIT, report=lambda one: stages.append(one.progress.stage)
    ).server
    assert isinstance(ask(server), str)
    assert httpx.get(f"{server.base_url}/models").status_code == 401
    assert {Stage.IMPORTING, Stage.CONFIGURING} <= set(stages)
    assert [Stage(stage) for stage in sorted(stages, key=list(Stage).index)] == stages
    assert server.api_key not in server.log_path.read_text()
    assert manager.gpus().gpus[0].used == 2 * GIB  # the engine core's and its worker's
    release = server.stop(grace=60.0)  # as long as vLLM may need on a busy machine to end by itself
    assert release.verified
    assert release.proof is Proof.NVML_MEMORY
    # On a machine so busy that vLLM's API server outlives its engine by `LINGER` seconds, it is killed.
    assert release.exit_code == 0 or release.seconds > LINGER
    assert release.vram[0].freed == 2 * GIB
    assert [gpu.used for gpu in manager.gpus().gpus] == baseline

    server = manager.start(real(name="two", **env), timeout=READY_LIMIT).server  # at once
    assert isinstance(ask(server), str)
    engine = next(process for process in server.processes() if "EngineCor" in process.name)
    os.kill(engine.identity.pid, signal.SIGKILL)
    until_over(server)
    assert server.state == "failed"
    assert server.error.cause == "The engine ended, and did not say why"
    assert manager.news() == [f"two has failed: {server.error}"]
    assert server.release.verified
    assert [gpu.used for gpu in manager.gpus().gpus] == baseline
    assert fakegpu.uuid(0) in {gpu.uuid for gpu in manager.gpus().gpus}
    traces.check()


def test_what_it_can_be_asked(vllm, base):
    """vLLM's own answers and refusals, in the words that are looked for."""
    server, template = base, (vllm.model / "chat_template.jinja").read_text()
    with pytest.raises(NoChatTemplate):
        server.chat("the river")
    with pytest.raises(RequestFailed, match="gives no embeddings"):
        server.embed("the river")
    with pytest.raises(RequestFailed, match=r"maximum context length is 256 .*greater --max-model-len"):
        server.complete("river " * 300)

    whole = server.complete("the river", max_tokens=40, ignore_eos=True, temperature=0)
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 40)
    assert whole.prompt_tokens > 0
    assert whole.tokens_per_second > 0

    history = []
    options = {"chat_template": template, "temperature": 0, "history": history}
    with server.chat("the river", stream=True, ignore_eos=True, **options) as stream:
        said = "".join(itertools.islice(stream, 5))  # and leaves it
    assert said
    assert history[-1] == {"role": "assistant", "content": said}
    assert 5 <= stream.answer.completion_tokens < 200
    deadline = time.monotonic() + 60
    while activity(httpx.get(f"{server.url}/metrics").text).in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.chat("who?", max_tokens=4, **options)
    assert len(history) == 4

    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}
    assert server.complete("a number:", json_schema=schema, max_tokens=60).parsed == {"n": 7}
    with server.client() as client:
        answer = client.completions.create(model=server.model, prompt="the river", max_tokens=2)
        assert answer.usage.completion_tokens == 2


def test_the_kv_cache_is_as_estimated(kept, base):
    """To the token, by vLLM's own log: it says how many fit."""
    said = re.search(r"KV cache size: ([\d,]+) tokens, .*request: ([\d.]+)x", base.log_path.read_text())
    fit = kept.fit(base.spec)
    assert said.groups() == (f"{fit.kv_tokens:,}", f"{fit.requests:.2f}")


def test_stop_with_four_open_streams(base, kept_traces):
    """vLLM alone never ends here. This is the last test that asks `base`."""
    with contextlib.ExitStack() as streams:
        open_streams(streams, base.base_url, base.api_key, base.model)
        release = base.stop()
    assert release.verified
    assert release.seconds < 30
    kept_traces.check()


def test_embeddings_and_scores(manager, real, traces):
    """vLLM's own vectors; which requests a pooling model refuses, and how."""
    server = manager.start(real("--runner", "pooling", **FORKED), timeout=READY_LIMIT).server
    one, other, same = server.embed(["the river", "a small red fox", "the river"])
    assert len(one) == 128
    assert sum(number * number for number in one) == pytest.approx(1, abs=1e-3)
    assert one == pytest.approx(same, abs=1e-4)
    assert one != pytest.approx(other, abs=1e-2)
    far, near = server.score("the river", ["a small red fox", "the river"])
    assert far < near == pytest.approx(1, abs=1e-3)
    with pytest.raises(RequestFailed, match=r"generates no text. Use server.embed"):
        server.chat("the river")
    with pytest.raises(RequestFailed, match="does not classify"):
        server.classify("the river")
    server.stop()
    traces.check()


def test_stop_three_seconds_after_the_start(manager, real, traces):
    """While vLLM imports: no handler of its own is there yet."""
    server = manager.start(real(), wait=False).server
    time.sleep(3)
    release = server.stop()
    assert (release.verified, release.exit_code) == (True, -15)
    traces.check()


@pytest.mark.parametrize("when", ["the engine's process is there", "the engine initialises"])
def test_stop_during_initialisation(manager, real, traces, when):
    """The first SIGTERM is swallowed here, and the engine makes shared memory until it is killed."""
    server = manager.start(real(), wait=False).server

    def begun() -> bool:
        if when == "the engine initialises":
            return server.progress.stage is Stage.ENGINE
        return any("EngineCor" in process.name for process in server.processes())

    deadline = time.monotonic() + READY_LIMIT
    while not begun():
        assert time.monotonic() < deadline
        assert server.state == "starting"
        time.sleep(0.02)
    release = server.stop()
    assert release.verified
    assert release.seconds < 30
    assert server.state == "released"
    traces.check()


HOST = """
import json, signal, sys, time, vllm_magic
words, options, until = json.loads(sys.argv[1])
server = vllm_magic.start(*words, **options, wait=False)
while server.progress.stage != until:
    assert not server.state.over
    time.sleep(0.02)
print(json.dumps([server.base_url, server.api_key]), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("stage", [Stage.IMPORTING, Stage.ENGINE, Stage.READY], ids=lambda stage: stage.name)
def test_the_kernel_is_killed(vllm, home, traces, stage):
    """While vLLM imports, while its engine initialises, and with four open streams: it hears no signal in its own time."""
    options = {"executable": str(vllm.executable), "env": {**vllm.env, **FORKED}}
    words = json.dumps([[str(vllm.model), *FLAGS], options, stage.value])
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", HOST, words]
        host = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        stack.callback(host.kill)
        url, key = json.loads(host.stdout.readline())
        if stage is Stage.IMPORTING:
            time.sleep(2.0)
        if stage is Stage.READY:
            open_streams(stack, url, key, str(vllm.model))
        table = processes.table()
        everyone = {table[pid].identity for pid in processes.descendants(table, host.pid)}
        segments = shared_memory.mapped_by(one.pid for one in everyone)
        assert len(everyone) >= 3
        assert segments or stage is not Stage.READY
        host.kill()
        assert pidfd.wait_for_all(everyone, 60) == set()
        deadline = time.monotonic() + 60
        while left := [
            *traces.processes(),
            *traces.files(),
            *(entry.path for segment, entry in shared_memory._entries() if segment in segments),
        ]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_killing_the_api_server_leaves_no_engine(manager, real, traces):
    """vllm-project/vllm#55510, #34643, #19849: what vLLM's engine does when its parent is gone."""
    server = manager.start(real(**FORKED), timeout=READY_LIMIT).server
    everyone = {process.identity for process in server.processes()}
    assert len(everyone) >= 4
    os.kill(server.pid, signal.SIGKILL)
    assert pidfd.wait_for_all(everyone, 30) == set()
    until_over(server)
    assert server.release.verified
    traces.check()


def test_killing_both_guards_leaves_nothing(manager, real, traces):
    """The kernel ends what vLLM leaves of itself once its leader has died with the guards."""
    server = manager.start(real(**FORKED), timeout=READY_LIMIT).server
    everyone = {process.identity for process in server.processes()}
    inner = processes.read(processes.read(server.pid).parent)
    for pid in (inner.parent, inner.identity.pid):
        os.kill(pid, signal.SIGSTOP)
    for pid in (inner.parent, inner.identity.pid):
        os.kill(pid, signal.SIGKILL)
    assert pidfd.wait_for_all(everyone, 30) == set()
    until_over(server)
    assert server.release.verified
    traces.check()


@pytest.mark.parametrize(
    ("args", "model", "cause", "hint"),
    [
        (
            ("--max-len", "9"),
            None,
            "vLLM does not know --max-len 9",
            "Did you mean --max-model-len? Else leave it out",
        ),
        (
            ("--dtype", "flaot16"),
            None,
            "--dtype cannot be 'flaot16'",
            "Did you mean float16? Choose from auto, bfloat16, float, float16, float32, half",
        ),
        (
            (),
            "/nowhere/at/all",
            "There is no model at /nowhere/at/all",
            "Check the path, or give a Hugging Face name such as Qwen/Qwen3-0.6B",
        ),
        (
            (),
            "nobody/nothing",
            "The model is not on this machine, and going online is disabled",
            "Check the name, or unset HF_HUB_OFFLINE to download it",
        ),
        (
            ("--max-model-len", "100000"),
            None,
            "The model takes 512 tokens, and --max-model-len asks for 100000",
            "Lower --max-model-len to 512",
        ),
        (
            ("--tensor-parallel-size", "3"),
            None,
            "The model's 4 attention heads cannot be divided among 3 GPUs",
            "Set --tensor-parallel-size to 1, 2 or 4",
        ),
        (
            ("--hf-overrides", '{"a": '),
            None,
            "--hf-overrides should be a valid dictionary",
            "Correct --hf-overrides: it is '{\"a\": '",
        ),
    ],
)
def test_failures_are_explained(manager, real, traces, args, model, cause, hint):
    """By what vLLM really says, not by what was recorded once; none of them comes as far as an engine."""
    insisted = dataclasses.replace(real(*args, model=model), force=True)  # else a flag is refused before
    with pytest.raises(StartFailed) as caught:
        manager.start(insisted, timeout=READY_LIMIT)
    assert (caught.value.cause, caught.value.hint) == (cause, hint)
    assert "\n" not in str(caught.value)
    assert 1 <= len(caught.value.log_tail) <= 12
    traces.check()
