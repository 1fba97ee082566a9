"""A start that fails before anything runs leaves no folder, whatever went wrong, and is told in one line."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from vllm_magic import ledger
from vllm_magic.engine import executable
from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import ExecutableNotFound, StartFailed
from vllm_magic.gpu.devices import Gpu, Snapshot
from vllm_magic.linux import forks
from vllm_magic.provisioning import launch
from vllm_magic.provisioning.launch import GpuSelection, Preparation
from vllm_magic.provisioning.standby import Standby, StandbySpec

SELECTION = GpuSelection(Snapshot(0.0, (), None, None), ())
COMMAND = Command(("/x/vllm", "serve", "m"), Endpoint("127.0.0.1", 8000, "a-key-of-this-test"))


def prepare():
    return Preparation(ServerSpec("m"), COMMAND, (5.0, 2.5), {}, None).prepare(SELECTION)


def failing(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), RuntimeError("x"), MemoryError(), KeyboardInterrupt()],
)
@pytest.mark.parametrize(
    "step",
    [
        "Preparation._record",
        "ledger.write_record",
        "commands.environment",
        "Downloads",
        "serialization.pack_owner",
    ],
)
def test_nothing_is_left_of_a_start_that_fails_early(home, monkeypatch, step, error):
    monkeypatch.setattr(f"vllm_magic.provisioning.launch.{step}", failing(error))
    with pytest.raises(StartFailed if isinstance(error, OSError) else type(error)):
        prepare()
    assert ledger.folders() == []
    assert not [
        name for name in os.listdir("/tmp") if name.startswith("vllm-") and name[5:] in os.listdir(home)
    ]


@pytest.mark.parametrize(
    ("version", "chosen", "given", "devices"),
    [
        ("0.20.2", True, None, ("1", "PCI_BUS_ID")),
        ("0.24.0", True, None, ("GPU-b", "PCI_BUS_ID")),
        (None, True, None, ("GPU-b", "PCI_BUS_ID")),
        ("0.20.2", False, "GPU-b", ("1", "PCI_BUS_ID")),
        ("0.20.2", False, "1", ("1", None)),
        ("0.20.2", False, None, (None, None)),
        ("0.24.0", False, "GPU-b", ("GPU-b", None)),
    ],
)
def test_the_gpus_are_named_as_the_version_reads_them(home, monkeypatch, version, chosen, given, devices):
    """vLLM 0.20 takes each entry of CUDA_VISIBLE_DEVICES for a number."""
    monkeypatch.setattr(executable, "version", lambda _: version)
    gpus = tuple(
        Gpu(number, uuid, "H100", None, None, None, ()) for number, uuid in enumerate(("GPU-a", "GPU-b"))
    )
    selection = GpuSelection(Snapshot(0.0, gpus, None, None), gpus[1:] if chosen else ())
    environ = {"CUDA_VISIBLE_DEVICES": given} if given else {}
    preparation = Preparation(ServerSpec("m"), COMMAND, (5.0, 2.5), environ, None)
    _, request = preparation.prepare(selection)
    assert (request.env.get("CUDA_VISIBLE_DEVICES"), request.env.get("CUDA_DEVICE_ORDER")) == devices


def test_what_succeeds_stays(home):
    prepared, request = prepare()
    assert [prepared.folder.path] == ledger.folders()
    written = ledger.read_entry(prepared.folder.path).record
    assert (written.name, written.stop_grace, written.stop_patience) == ("m", 5.0, 2.5)
    assert request.record["id"] == prepared.folder.id


def test_no_folder_for_temporary_files_can_be_made(home, monkeypatch):
    make = ledger._make
    monkeypatch.setattr(
        ledger,
        "_make",
        lambda path: make(path) if path.parent == home else failing(OSError(30, "Read-only"))(),
    )
    with pytest.raises(StartFailed, match="Read-only"):
        prepare()
    assert ledger.folders() == []


@pytest.mark.parametrize("step", ["_launch_request", "ledger.write_record", "GuardPair"])
@pytest.mark.parametrize("error", [OSError(24, "x"), RuntimeError("x")])
def test_nothing_is_left_of_a_spare_that_fails_early(home, monkeypatch, step, error):
    monkeypatch.setattr(f"vllm_magic.provisioning.standby.{step}", failing(error))
    with pytest.raises(type(error)):
        Standby(StandbySpec.of(ServerSpec("m"), "/x/vllm", {}))
    assert ledger.folders() == []


@pytest.mark.parametrize("program", [None, "", "/nonexistent/python"])
def test_a_python_that_is_not_there(home, monkeypatch, program):
    """An embedded Python does not know its own path; and an upgrade may have removed it."""
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(forks, "spawn", failing(FileNotFoundError(errno.ENOENT, "No such file or directory")))
    _, request = prepare()
    with pytest.raises(StartFailed, match="start the kernel with another Python"):
        launch.start_guards(request)
    assert ledger.folders() == []
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE", raising=False)
    with pytest.raises(ExecutableNotFound):
        executable.find()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_nothing_is_left_of_guards_that_fail(home, monkeypatch, error):
    _, request = prepare()
    monkeypatch.setattr(launch, "GuardPair", failing(error))
    with pytest.raises(type(error)):
        launch.start_guards(request)
    assert ledger.folders() == []
