"""What this machine lacks is said before the start: a port, a number in VLLM_PORT, limits, shared memory, disk space."""

from __future__ import annotations

import json
import os
import socket
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import machine
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.linux import limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MIB = 2**20
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil has it


def check(
    *words: str,
    environ: Mapping[str, str] | None = None,
    version: str = "",
    freed: tuple[int, ...] = (),
    model: str = "m",
    **fields: Any,
) -> None:
    start = PlannedStart(ServerSpec(model, words, **fields), environ or {}, "/nowhere/vllm", None, freed)
    start.version = version
    machine.check(start)


@pytest.fixture
def taken() -> Iterator[int]:
    """The number of a port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestPort:
    def test_a_taken_port(self, taken):
        for how in ({"port": taken}, {"words": ("--port", str(taken))}, {"words": (f"--port={taken}",)}):
            with pytest.raises(StartFailed) as refused:
                check(*how.pop("words", ()), **how)
            assert refused.value.cause.startswith(f"Port {taken} is taken by ")
            assert f"(pid {os.getpid()}, " in refused.value.cause

    def test_a_port_that_is_free_by_then(self, taken):
        check("--port", str(taken), freed=(taken,))

    def test_another_address(self, taken):
        check("--port", str(taken), "--host", "127.0.0.2")

    def test_a_free_port(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        check("--port", str(port))
        check()

    def test_no_port(self):
        with pytest.raises(InvalidOption, match="--port http is not a number"):
            check("--port", "http")


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


class TestDisk:
    @pytest.fixture
    def snapshot(self, tmp_path) -> Path:
        """A model of which one of two files is there, and a part of the other."""
        kept = tmp_path / "hub/models--m--Tiny"
        snapshot = kept / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (kept / "blobs").mkdir()
        (kept / "refs").mkdir()
        (kept / "refs/main").write_text("a" * 40)
        (kept / "blobs/one").write_bytes(bytes(1000))
        (snapshot / "1.safetensors").symlink_to("../../blobs/one")
        (kept / "blobs/two.incomplete").write_bytes(bytes(500))
        write_index(snapshot)
        return snapshot

    def check(self, snapshot: Path, *words: str, free: int, monkeypatch) -> None:
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(10**9, 0, free))
        monkeypatch.setattr(limits, "free_shared_memory", lambda: None)
        check(*words, model="m/Tiny", environ={"HF_HUB_CACHE": str(snapshot.parents[2])})

    def test_too_little(self, snapshot, monkeypatch):
        with pytest.raises(StartFailed) as refused:
            self.check(snapshot, free=499, monkeypatch=monkeypatch)
        assert refused.value.cause.startswith("The weights of m/Tiny need 0.0 GiB more on the disk of ")
        assert "--download-dir" in refused.value.hint
        self.check(snapshot, free=500, monkeypatch=monkeypatch)

    def test_another_format(self, snapshot, monkeypatch):
        self.check(snapshot, "--load-format", "dummy", free=0, monkeypatch=monkeypatch)

    def test_all_is_there(self, snapshot, monkeypatch):
        (snapshot / "2.safetensors").write_bytes(bytes(10))
        self.check(snapshot, free=0, monkeypatch=monkeypatch)

    @pytest.mark.parametrize(
        "index",
        [
            {"metadata": {}},
            {"metadata": None},
            {"metadata": {"total_size": "2000"}},
            {"weight_map": None},
            {"weight_map": {"a": "../../1.safetensors", "b": ["2.safetensors"]}},
        ],
    )
    def test_an_index_that_does_not_tell(self, snapshot, monkeypatch, index):
        write_index(snapshot, **index)
        self.check(snapshot, free=0, monkeypatch=monkeypatch)

    def test_no_index(self, snapshot, monkeypatch):
        (snapshot / "model.safetensors.index.json").unlink()
        self.check(snapshot, free=0, monkeypatch=monkeypatch)


def write_index(snapshot: Path, **fields: Any) -> None:
    index = {
        "metadata": {"total_size": 2000},
        "weight_map": {"a": "1.safetensors", "b": "2.safetensors"},
        **fields,
    }
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
