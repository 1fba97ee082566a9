"""What this machine lacks is said before the start: a number in VLLM_PORT, limits, shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import machine
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.linux import limits

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 2**20


def check(
    *words: str,
    environ: Mapping[str, str] | None = None,
    version: str = "",
    **fields: Any,
) -> None:
    start = PlannedStart(ServerSpec("m", words, **fields), environ or {}, "/nowhere/vllm")
    start.version = version
    machine.check(start)


class TestVllmPort:
    @pytest.mark.parametrize("value", ["", "http", "tcp://10.0.0.1:80"])
    def test_no_number_from_the_user(self, value):
        with pytest.raises(InvalidOption) as refused:
            check(environ={"VLLM_PORT": "1"}, env=(("VLLM_PORT", value),))
        assert str(refused.value) == (
            f"The environment variable VLLM_PORT is '{value}', and vLLM needs a number there. Leave out --env VLLM_PORT."
        )

    def test_no_number_in_the_kernel(self):
        with pytest.raises(InvalidOption, match=r"is 'http', .* Remove it: del os\.environ\['VLLM_PORT'\]"):
            check(environ={"VLLM_PORT": "http"})

    def test_what_the_server_never_sees(self):
        """Kubernetes sets the variable for a service that is called vllm."""
        check(environ={"VLLM_PORT": "tcp://10.0.0.1:80"})

    def test_a_number(self):
        check(environ={"VLLM_PORT": "8123"})
        check(environ={"VLLM_PORT": "http"}, env=(("VLLM_PORT", "8123"),))


class TestSharedMemory:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch) -> None:
        """As in a container of Docker, by default."""
        monkeypatch.setattr(limits, "free_shared_memory", lambda: 64 * MIB)

    @pytest.mark.parametrize(
        "words", ["-tp 2", "-pp 2", "--tensor-parallel-size=2 --distributed-executor-backend mp"]
    )
    def test_several_gpus(self, words):
        with pytest.raises(StartFailed) as refused:
            check(*words.split(), version="0.32.0")
        assert refused.value.cause == "/dev/shm has 0.06 GiB free, and vLLM needs 0.23 GiB for several GPUs"
        assert "--shm-size" in refused.value.hint

    @pytest.mark.parametrize(
        ("words", "version"),
        [
            ("", "0.32.0"),
            ("-tp 1", "0.32.0"),
            ("-tp 2", "0.27.0"),  # which does not check it
            ("-tp 2", "0.99.0"),
            ("-tp 2", ""),
            ("-tp 2 --distributed-executor-backend ray", "0.32.0"),
            ("-tp 2 --nnodes 2", "0.32.0"),
        ],
    )
    def test_where_vllm_may_start(self, words, version):
        check(*words.split(), version=version)

    def test_enough(self, monkeypatch):
        monkeypatch.setattr(limits, "free_shared_memory", lambda: machine.SHARED_MEMORY)
        check("-tp", "2", version="0.32.0")
        monkeypatch.setattr(limits, "free_shared_memory", lambda: machine.SHARED_MEMORY - 1)
        with pytest.raises(StartFailed):
            check("-tp", "2", version="0.32.0")
        monkeypatch.setattr(limits, "free_shared_memory", lambda: None)
        check("-tp", "2", version="0.32.0")


class TestLimits:
    def test_open_files(self, monkeypatch):
        monkeypatch.setattr(limits, "open_files", lambda: 63)
        with pytest.raises(StartFailed, match="may open 63 files here, and vLLM opens more than 64"):
            check()
        monkeypatch.setattr(limits, "open_files", lambda: 64)
        check()

    def test_processes(self, monkeypatch):
        monkeypatch.setattr(limits, "processes_left", lambda: machine.LEAST_PROCESSES - 1)
        with pytest.raises(StartFailed, match="Only 7 more processes and threads are allowed"):
            check()
        for left in (machine.LEAST_PROCESSES, None):
            monkeypatch.setattr(limits, "processes_left", lambda left=left: left)
            check()


def test_both_are_told(monkeypatch):
    monkeypatch.setattr(limits, "open_files", lambda: 63)
    monkeypatch.setattr(limits, "processes_left", lambda: 7)
    with pytest.raises(InvalidOption) as refused:
        check(env=(("VLLM_PORT", "http"),))
    assert [line.partition(" ")[0] for line in refused.value.lines] == ["The", "A", "Only"]
