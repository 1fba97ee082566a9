"""Why a server failed, end to end: what the stand-in writes as vLLM does, and what a person hears of it, once."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path

import pytest
from by_hand import listening, until
from failure_logs import KNOWN
from fake_gpu import fakegpu
from IPython.utils.capture import capture_output
from shells import a_shell
from view_checks import same

from vllm_magic.engine import port
from vllm_magic.errors import ReleaseFailed, ServerFailed, StartFailed, VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.jupyter.display import views
from vllm_magic.lifecycle import state
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.manager.manager import manager as the_manager
from vllm_magic.notation import written
from vllm_magic.release.local_verifier import LocalVerifier
from vllm_magic.release.result import Proof
from vllm_magic.release.verifier import Verdict
from vllm_magic.server.run import ENGINE_DEAD

GIB = 2**30
LIMIT = 60.0  # seconds for what takes less than one
ENGINE = "(EngineCore pid=77) ERROR 11-23 20:49:32 [core.py:1512] "
OUT_OF_MEMORY = [
    f"{ENGINE}EngineCore encountered a fatal error.",
    f"{ENGINE}Traceback (most recent call last):",
    f'{ENGINE}  File "/venv/lib/python3.11/site-packages/vllm/v1/engine/core.py", line 1500, in run_busy_loop',
    f"{ENGINE}    self._process_engine_step()",
    f'{ENGINE}  File "/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1780, in _call_impl',
    f"{ENGINE}    return forward_call(*args, **kwargs)",
    (
        f"{ENGINE}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity "
        "of 23.68 GiB of which 512.00 MiB is free."
    ),
]
OUT_OF_MEMORY_CAUSE = (
    "GPU 0 is out of memory: vLLM wanted 1.16 GiB more, and 512.00 MiB of its 23.68 GiB were free"
)
# What needs a GPU or the network to happen; the rest is caused on vLLM's CPU build (tests/real).
RECORDED = [
    "no repository", "gated", "gated, by the hub", "refused", "offline, said by the hub", "bad revision",
    "custom configuration", "quantization on an old GPU", "quantization and dtype", "old GPU", "GPU occupied",
    "no KV room", "KV too small", "weights too large", "out of memory", "sampler", "no device", "init timeout",
    "worker killed", "no module", "compiled for another torch",
]  # fmt: skip
EVIL = "<script>alert(1)</script>&amp;{0}{cause}{{%s"


def dying(*says: str, who: str = "engine", when: str = "ready", **how) -> dict:
    """A fault of the stand-in: it writes these lines, and ends."""
    return {"die": {"who": who, "when": when, "says": list(says), **how}}


def failed(manager, spec) -> StartFailed:
    with pytest.raises(StartFailed) as caught:
        manager.start(spec, timeout=LIMIT)
    assert "\n" not in str(caught.value)
    assert len(caught.value.log_tail) <= 12
    return caught.value


class TestStart:
    @pytest.mark.parametrize(
        ("words", "fault", "cause", "hint"),
        [
            (
                ("tiny", "--max-len", "5"),
                None,
                "vLLM does not know --max-len 5",
                "Did you mean --max-model-len? Else leave it out",
            ),
            (
                ("tiny", "--seed", "x"),
                None,
                "--seed cannot be 'x'",
                "Give a whole number",
            ),
            (
                ("some/gated",),
                "gated",
                "some/gated is gated",
                "Accept its terms on https://huggingface.co/some/gated, and set HF_TOKEN to a token of that account",
            ),
            (
                ("tiny",),
                "kv_too_small",
                "One request of 131072 tokens needs 14.0 GiB of KV cache, and there are 6.5 GiB",
                "Lower --max-model-len to 60848, or raise --gpu-memory-utilization",
            ),
        ],
    )
    def test_its_cause(self, manager, spec, traces, words, fault, cause, hint):
        error = failed(manager, spec(*words, faults={"fail": fault} if fault else None))
        assert (error.cause, error.hint) == (cause, hint)
        assert manager.news() == []
        traces.check()

    @pytest.mark.parametrize("sign", RECORDED)
    def test_what_was_recorded(self, manager, spec, executable, sign):
        lines, cause, hint = KNOWN[sign]
        python = Path(executable).with_name("python")
        hint = hint.replace(" python -m ", f" {python} -m ").replace(" of python,", f" of {python},")
        error = failed(manager, spec("some/model", faults=dying(*lines, who="leader", when="init")))
        assert (error.cause, error.hint) == (cause, written(hint))
        assert all(any(shown.removesuffix("…") in line for line in lines) for shown in error.log_tail)

    def test_a_worker_that_is_killed(self, manager, spec, traces):
        error = failed(manager, spec(faults=dying(who="worker", when="init", signal=9)))
        assert error.cause == "Worker ended by signal 9 (SIGKILL)"
        assert "the machine's memory has run out" in error.hint
        traces.check()

    def test_an_end_without_a_word(self, manager, spec):
        error = failed(manager, spec(faults=dying(who="leader", when="import", signal=15)))
        assert error.cause == "vLLM ended by signal 15 (SIGTERM)"
        assert error.hint == "Somebody else ended it: a batch system, or kill"

    def test_the_holder_of_the_port(self, manager, spec, traces):
        """It was free when the start began."""
        server = manager.start(spec(faults={"import_s": 1.0}), wait=False).server
        with listening(server.port) as holder, pytest.raises(StartFailed) as caught:
            server.wait(LIMIT)
        cause = caught.value.cause
        assert cause.startswith(f"Port {server.port} is taken by python")
        assert cause.endswith(f" (pid {holder.pid}, {getpass.getuser()})")
        assert "--port" in caught.value.hint
        traces.check()

    def test_nobody_has_the_port_any_more(self, manager, spec):
        says = "OSError: [Errno 98] Address already in use"
        error = failed(manager, spec(faults=dying(says, who="leader", when="init")))
        assert error.cause == "The port is taken"

    @pytest.mark.usefixtures("fake_gpus")
    def test_the_holder_of_the_gpu(self, manager, spec, fake_gpus, tmp_path, monkeypatch):
        monkeypatch.setattr(locks, "_PARENT", tmp_path)
        with fakegpu.holding(fake_gpus, 21.5, 0) as holder, fakegpu.holding(fake_gpus, 1, 1):
            error = failed(manager, spec(force=True, faults={"fail": "gpu_occupied"}))
        name = f"{os.path.basename(sys.executable)} fakegpu.py"
        assert error.cause == (
            "GPU cuda:0 has 2.1 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB; "
            f"held by {name} (pid {holder.pid}, {getpass.getuser()}): 21.5 GiB"
        )

    def test_lines_that_would_do_harm(self, manager, spec):
        """HTML, escape sequences, braces and a key: each in the line that tells."""
        key = "hf_" + "k" * 30
        line = f"\x1b[31mvllm: error: unrecognized arguments: --{EVIL} \x1b]0;title\x07{key}\x1b[0m"
        spec = spec(faults=dying(line, who="leader", when="init", rc=2))
        error = failed(manager, spec)
        assert error.cause == f"vLLM does not know --{EVIL} ***"
        shown = [
            error.cause,
            error.hint,
            *error.log_tail,
            same(views.status([manager.get("tiny").status], None)),
        ]
        assert not [text for text in shown if "\x1b" in text or key in text]
        assert "<script" not in views.status([manager.get("tiny").status], None)._repr_html_()


class TestReady:
    """It was ready, and then its engine died: the API server exits with 0."""

    def test_it_is_said_once_and_why(self, manager, spec, traces):
        server = manager.start(spec(faults=dying(*OUT_OF_MEMORY, after_s=2.0)), timeout=LIMIT).server
        assert server._run.wait_over(LIMIT)
        assert server.state == "failed"
        assert server.release.verified
        error = server.error
        assert type(error) is ServerFailed
        assert error.cause == OUT_OF_MEMORY_CAUSE
        assert error.log_tail[0].endswith("line 1500, in run_busy_loop")
        assert error.log_tail[-1].startswith("torch.OutOfMemoryError: ")
        assert manager.news() == [f"tiny has failed: {error}"]
        assert manager.news() == []
        assert manager.stop("tiny").verified
        assert manager.news() == []
        traces.check()

    def test_nobody_knows_why(self, manager, spec):
        server = manager.start(spec(faults=dying(signal=9, after_s=2.0)), timeout=LIMIT).server
        assert server._run.wait_over(LIMIT)
        assert server.error.cause == "The engine ended, and did not say why"
        assert "dmesg" in server.error.hint

    def test_a_worker_is_killed(self, manager, spec):
        server = manager.start(spec(faults=dying(who="worker", signal=9, after_s=2.0)), timeout=LIMIT).server
        assert server._run.wait_over(LIMIT)
        assert server.error.cause == "Worker ended by signal 9 (SIGKILL)"
        assert "the machine's memory has run out" in server.error.hint

    def test_a_request_that_failed_before_is_no_cause(self, manager, spec):
        gated = "(APIServer pid=7) OSError: You are trying to access a gated repo."
        server = manager.start(spec(faults=dying(gated, signal=9, after_s=2.0)), timeout=LIMIT).server
        assert server._run.wait_over(LIMIT)
        assert server.error.cause == "The engine ended, and did not say why"

    def test_the_engine_is_killed_and_the_http_server_stays(self, manager, spec, monkeypatch):
        """As with VLLM_KEEP_ALIVE_ON_ENGINE_DEATH, and with elastic expert parallelism since vLLM 0.33."""
        monkeypatch.setattr(state, "ENGINE_CHECK_DELAY", 0.1)
        faults = {"dead_exit_s": 600.0, **dying(signal=9, after_s=1.0)}
        server = manager.start(spec(faults=faults), timeout=LIMIT).server
        until(lambda: server.caveat, "nobody saw that the engine is dead")
        assert server.caveat == ENGINE_DEAD
        assert manager.news() == [f"tiny: {ENGINE_DEAD}. %vllm restart tiny starts it again."]
        assert server.state is ServerState.READY
        assert server.stop().verified
        assert server.caveat == ""

    def test_somebody_else_stops_it(self, manager, spec):
        server = manager.start(spec(), timeout=LIMIT).server
        os.kill(server.pid, 15)
        assert server._run.wait_over(LIMIT)
        assert server.error.cause == "Somebody else asked it to end (SIGTERM or SIGINT)"


class TestWhoHears:
    def test_nothing_is_said_after_a_stop(self, manager, spec):
        manager.start(spec(), timeout=LIMIT).server.stop()
        assert manager.news() == []

    def test_of_a_stop_that_fails_only_who_did_not_ask_hears(self, manager, spec, monkeypatch):
        monkeypatch.setattr(
            LocalVerifier, "verify", lambda *_: Verdict(Proof.NONE, False, (), "not all is back")
        )
        manager.start(spec(), timeout=LIMIT)
        with pytest.raises(ReleaseFailed):
            manager.stop("tiny")
        assert manager.news() == []
        idle = manager.start(spec(ttl=0.5), timeout=LIMIT).server
        assert idle._run.wait_over(LIMIT)
        assert manager.news() == ["tiny has ended, but is not released: not all is back."]
        with pytest.raises(ReleaseFailed):
            manager.stop("tiny")
        assert manager.news() == []

    def test_nothing_is_said_to_who_waited(self, manager, spec):
        failed(manager, spec(faults={"fail": "no_weights"}))
        assert manager.news() == []

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"faults": {"fail": "no_weights"}}, "tiny did not start: There are no weights in tiny. "),
            ({"gpus": "7"}, "tiny did not start: "),
        ],
    )
    def test_who_did_not_wait_hears_of_a_start(self, manager, spec, fields, said):
        server = manager.start(spec(**fields), wait=False).server
        assert server._run.wait_over(LIMIT)
        (line,) = manager.news()
        assert line.startswith(said)
        with pytest.raises(VllmMagicError):
            server.wait()
        assert manager.news() == []

    def test_one_that_is_started_again_is_not_forgotten(self, manager, spec):
        wanted = spec(faults=dying(*OUT_OF_MEMORY, after_s=2.0))
        for _ in range(2):
            assert manager.start(wanted, timeout=LIMIT).server._run.wait_over(LIMIT)
        assert [line.partition(":")[0] for line in manager.news()] == ["tiny has failed"] * 2

    def test_after_the_next_cell(self, home, spec):
        with a_shell() as shell:
            shell.run_line_magic("load_ext", "vllm_magic")
            try:
                server = the_manager.start(
                    spec(faults=dying(*OUT_OF_MEMORY, after_s=2.0)), timeout=LIMIT
                ).server
                assert server._run.wait_over(LIMIT)
                said = []
                for _ in range(2):
                    with capture_output() as seen:
                        shell.run_cell("1 + 1")
                    said.append(seen.stdout)
            finally:
                shell.run_line_magic("unload_ext", "vllm_magic")
        assert f"tiny has failed: {OUT_OF_MEMORY_CAUSE}. " in said[0]
        assert "tiny" not in said[1]


def test_the_holder_of_a_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        assert port.holder(number).endswith(f"(pid {os.getpid()}, {getpass.getuser()})")
    assert port.holder(number) == ""


def test_the_holder_of_a_port_that_cannot_be_seen(monkeypatch):
    monkeypatch.setattr("vllm_magic.linux.sockets.open_files", lambda _pid: {})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert port.holder(listening.getsockname()[1]) == f"a process of {getpass.getuser()}"
