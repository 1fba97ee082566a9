"""What cannot start is said before the start, and before anything is stopped for it; whatever vLLM might take is left to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
import stand_in
from by_hand import free_port, until
from fake_gpu import fakegpu

import vllm_magic
from vllm_magic.children import flag_reading
from vllm_magic.engine import command
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.start_checks import checks
from vllm_magic.errors import InvalidOption, StartFailed, VllmMagicError
from vllm_magic.gpu.devices import Gpu, Snapshot
from vllm_magic.jupyter.commands.settings import Settings
from vllm_magic.jupyter.panel import form
from vllm_magic.jupyter.panel.messages import FormFields
from vllm_magic.manager import switching


@pytest.fixture
def vllm(tmp_path, monkeypatch) -> str:
    """The stand-in, installed as vLLM is, whose flags are known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    path = str(stand_in.install_environment(tmp_path / "environment"))
    until(lambda: flag_reading.table(path), "the table is not built")
    yield path
    flag_reading.end()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--max-modell-len", " Did you mean --max-model-len?"),
        ("--max_modell_len=1", " Did you mean --max-model-len?"),
        ("--max-len", " Did you mean --max-model-len?"),  # not --max-log-len, which is more alike
        ("--enforce-eagre", " Did you mean --enforce-eager?"),
        ("--zzz", " If a plugin adds it while vLLM starts, force=True starts the server all the same."),
        ("--kep", " Did you mean keep=?"),
        ("--worker-use-ray", " any more. Write --distributed-executor-backend ray."),
    ],
)
def test_the_start_is_refused(manager, spec, vllm, traces, flag, said):
    with pytest.raises(InvalidOption) as refused:
        manager.start(spec("tiny", "--seed", "1", flag, executable=vllm))
    name = flag.partition("=")[0]
    end = "" if said.startswith(" any") else "."
    assert str(refused.value) == f"vLLM 0.32.0 has no flag {name}{end}{said}"
    assert manager.servers() == {}
    traces.check()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--dtype", "float99"), "Choose from auto, bfloat16, float16 or float32."),
        (("--max-num-seqs", "many"), "--max-num-seqs many is not a whole number."),
        (("--seed",), "--seed has no value."),
        (("--enforce-eager", "true"), "--enforce-eager is a switch, and takes no value."),
        (
            ("--limit-mm-per-prompt", "image=2"),
            """Write --limit-mm-per-prompt '{"image": 2}', with the quotes.""",
        ),
        (("--enable-auto-tool-choice", "--tool-call-parser", "qwen3"), "Did you mean qwen3_xml?"),
        (("--reasoning-parser", "deepseek-r1"), "Did you mean deepseek_r1?"),
        (("--lora-modules", "sql=/nowhere/sql"), "The LoRA adapter sql is not there: /nowhere/sql."),
        (("--chat-template", "/nowhere.jinja"), "--chat-template /nowhere.jinja is not there."),
        (("--config", "FILE"), "--max-num-seqs many is not a whole number (in "),
    ],
    ids=str,
)
def test_a_value_is_refused(manager, spec, vllm, traces, tmp_path, args, said):
    """The checks know the flags as the reader has read them."""
    (tmp_path / "a.yaml").write_text("max-num-seqs: many\n")
    words = [str(tmp_path / "a.yaml") if word == "FILE" else word for word in args]
    with pytest.raises(InvalidOption) as refused:
        manager.start(spec("tiny", *words, executable=vllm))
    assert said in str(refused.value)
    assert manager.servers() == {}
    checks.check(spec("tiny", *words, executable=vllm, force=True), os.environ, vllm)
    traces.check()


def test_the_start_of_a_program_is_refused(home, vllm):
    with pytest.raises(ValueError, match="Did you mean --max-model-len"):
        vllm_magic.start("tiny", "--max-modell-len", "1", executable=vllm)


@pytest.mark.parametrize("fields", [{"force": True}, {"env": {"PYTHONPATH": ""}}], ids=str)
def test_it_is_not_refused(spec, vllm, fields):
    """By who insists, and where it is not known that the same vLLM is meant."""
    checks.check(spec("tiny", "--strange", executable=vllm, **fields), os.environ, vllm)


def test_nor_where_the_flags_are_not_known(spec, vllm, executable):
    checks.check(spec("tiny", "--strange"), os.environ, executable)
    with open(vllm, "a") as script:
        script.write("\n")
    checks.check(spec("tiny", "--strange", executable=vllm), os.environ, vllm)


def test_the_first_start_has_them_read(manager, spec, tmp_path, monkeypatch, traces):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    path = str(stand_in.install_environment(tmp_path / "environment"))
    manager.start(spec(executable=path), timeout=60)
    until(lambda: flag_table.load(path), "the table is not built")
    manager.stop_all()
    flag_reading.end()
    traces.check()


def test_a_server_that_is_ready_is_not_refused(manager, spec, vllm, traces):
    """What is right is served, however it is written."""
    words = (
        "--max_model_len=64",
        "--no-enforce-eager",
        "-O.level=3",
        "--hf-overrides.a.b",
        "1",
        "--dtype",
        "auto",
    )
    server = manager.start(spec("tiny", *words, executable=vllm), timeout=60).server
    assert server.state == "ready"
    assert server.stop().verified
    traces.check()


def test_what_is_not_written_out_is_read_all_the_same(manager, spec, vllm, traces):
    """The stand-in takes whole flags alone, so that it starts shows that they were written out."""
    key, port = "a-key-of-my-own", free_port()
    words = ("--api-k", key, "--por", str(port), "--hos=127.0.0.2", "--pipeline-p", "1")
    server = manager.start(spec("tiny", *words, executable=vllm), timeout=60).server
    assert (server.url, server.api_key) == (f"http://127.0.0.2:{port}", key)
    assert server.complete("hello", max_tokens=1).text
    shown = (f"/proc/{server.pid}/cmdline", server.log_path.parent / "record.json")
    assert not any(key in Path(path).read_text() for path in shown)
    assert key not in repr(server.spec)
    assert server.stop().verified
    traces.check()


QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")


def test_looks_at_a_server_are_not_logged_where_the_flag_is_known(manager, spec, vllm, monkeypatch):
    def argv(*args: str, **env: str) -> tuple[str, ...]:
        return command.build(spec("tiny", *args, executable=vllm, env=env)).argv

    assert argv("--seed", "1")[3:7] == ("--seed", "1", *QUIET)
    for said in ((QUIET[0], "/v1/models"), (f"{QUIET[0]}=",), ("--disable_access_log_for_endpoints", "")):
        assert argv(*said)[3 : 3 + len(said)] == said
        assert QUIET[1] not in argv(*said)
    assert QUIET[0] not in argv(PYTHONPATH="/elsewhere")  # there another vLLM may be
    server = manager.start(spec("tiny", executable=vllm), timeout=60).server
    assert server.metrics(window=0.0).finished == 0
    assert "GET /" not in server.log_path.read_text()


class TestBeforeAnythingIsStopped:
    """What cannot start is refused while another server runs, which goes on."""

    @pytest.fixture
    def running(self, manager, spec, vllm, fake_gpus):
        server = manager.start(spec("one", executable=vllm), timeout=60).server
        yield server
        assert server.state == "ready"
        assert list(manager.servers()) == ["one"]

    def refused(self, manager, spec, message: str) -> None:
        for start in (manager.check, lambda one: switching.switch(manager, one), manager.start):
            with pytest.raises(VllmMagicError, match=message):
                start(spec)

    def test_too_few_gpus(self, manager, spec, vllm, running):
        self.refused(manager, spec("two", "-tp", "4", executable=vllm), "needs 4 GPUs, and the server has 2")

    def test_gpus_that_are_too_old(self, manager, spec, vllm, running, fake_gpus):
        fakegpu.configure(fake_gpus, capability=75, name="Tesla T4")
        for read in (manager.gpus, manager.recent_gpus):
            until(lambda: _is_t4(read().gpus[0]), "the driver is not asked again")  # noqa: B023 - called at once
        asked = spec("two", "--dtype", "bfloat16", executable=vllm)
        self.refused(manager, asked, r"compute capability 8\.0, and Tesla T4 has 7\.5")

    def test_a_gpu_that_is_not_there(self, manager, spec, vllm, running):
        self.refused(manager, spec("two", gpus="5", executable=vllm), "there is no GPU '5'")

    def test_a_length_that_the_model_does_not_have(self, manager, spec, vllm, running, tmp_path):
        model = checkpoints.model(tmp_path / "model", checkpoints.LLAMA_3_8B)
        asked = spec(str(model), "--max-model-len", "1000000", executable=vllm)
        self.refused(manager, asked, "longer than the model's context of")

    def test_a_port_that_another_process_has(self, manager, spec, vllm, running):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            self.refused(manager, spec("two", executable=vllm, port=port), f"Port {port} is taken by")

    def test_a_variable_that_is_no_number(self, manager, spec, vllm, running):
        asked = spec("two", executable=vllm, env={"VLLM_PORT": "tcp://10.0.0.1:80"})
        self.refused(manager, asked, "VLLM_PORT is 'tcp://10.0.0.1:80'")


def _is_t4(gpu: Gpu) -> bool:
    return (gpu.name, gpu.capability) == ("Tesla T4", (7, 5))


def test_the_port_of_a_server_that_is_stopped_for_another_is_free(manager, spec, vllm, traces):
    port = free_port()
    first = spec("one", executable=vllm, port=port)
    manager.start(first, timeout=60)
    manager.check(first)  # for a restart
    switched = switching.switch(manager, spec("two", executable=vllm, port=port), timeout=60)
    assert switched.server.port == port
    assert list(manager.servers()) == ["two"]
    assert manager.stop().verified
    traces.check()


def test_the_port_of_a_server_that_sleeps_is_taken(manager, spec, vllm):
    port = free_port()
    server = manager.start(spec("one", "--enable-sleep-mode", executable=vllm, port=port), timeout=60).server
    with pytest.raises(StartFailed, match=f"Port {port} is taken"):
        switching.switch(manager, spec("two", executable=vllm, port=port), timeout=60)
    assert (server.state, server.asleep) == ("ready", 0)


LIMITED = """
import resource
from vllm_magic.engine.start_checks import machine
print(*[problem.cause for problem in machine.problems(1, "")], sep="\\n")
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
print(*[problem.cause for problem in machine.problems(1, "")], sep="\\n")
"""


def test_the_limit_of_open_files_of_a_process():
    ended = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert ended.stdout == "\nA process may open 60 files here, and vLLM opens more than 64\n", ended.stderr


class TestForm:
    """The panel's form says it while one types."""

    def assess(self, vllm: str, flags: str, own_ports: tuple[int, ...] = ()) -> form.Assessment:
        now = Snapshot(0.0, (Gpu(0, "GPU-0", "Tesla T4", 2**34, 0, 2**34, (), (7, 5)),), "580.00", None)
        return form.assess(FormFields("org/tiny", flags), Settings(executable=vllm), now, own_ports)

    def test_what_cannot_start(self, vllm):
        for flags, said in (
            ("-tp 4", "needs 4 GPUs"),
            ("--dtype bfloat16", "compute capability 8.0"),
            ("--env VLLM_PORT=x", "VLLM_PORT is 'x'"),
        ):
            judged = self.assess(vllm, flags)
            assert judged.wrong
            assert said in judged.text
        assert not self.assess(vllm, "--dtype float16").wrong

    def test_a_taken_port(self, vllm):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert f"Port {port} is taken by" in self.assess(vllm, f"--port {port}").text
            assert not self.assess(vllm, f"--port {port}", (port,)).wrong  # of a server of this kernel
