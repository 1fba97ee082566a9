"""A process that has imported vLLM ahead of a start: who gets it, and that it is a server like any other then."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stand_in
from IPython.core.error import UsageError

from vllm_magic import ledger
from vllm_magic.doctor import survey
from vllm_magic.errors import VllmMagicError
from vllm_magic.guard import standby_leader
from vllm_magic.guard.record import Phase
from vllm_magic.linux import memory, pidfd, processes
from vllm_magic.linux.marks import MARK
from vllm_magic.linux.processes import Identity
from vllm_magic.manager.manager import manager as manager_of_kernel
from vllm_magic.provisioning import from_standby
from vllm_magic.provisioning import standby as one_spare
from vllm_magic.provisioning import standby_pool as kept
from vllm_magic.provisioning.base import StartKind
from vllm_magic.provisioning.standby import StandbySpec
from vllm_magic.provisioning.standby_pool import StandbyMode, StandbyPool
from vllm_magic.recovery.sweep import sweep

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Message
    from vllm_magic.linux.eventfd import Cancellation
    from vllm_magic.provisioning.standby import Standby

LIMIT = 30.0


@pytest.fixture(scope="module")
def vllm(tmp_path_factory) -> str:
    """The stand-in as vLLM is installed, so that it is known what runs behind it."""
    return str(stand_in.install_environment(tmp_path_factory.mktemp("environment")))


@pytest.fixture
def make(spec, vllm):
    """Makes specs as `spec` does, for that stand-in."""
    return lambda *words, **fields: spec(*words, **{"executable": vllm, **fields})


@pytest.fixture
def warm(manager, make):
    """Have a spare for starts like this one, and return when it is warm."""

    def ahead(spec=None) -> ledger.Entry:
        manager.spares.set_mode(StandbyMode.ON)
        manager.expect(spec or make("tiny"))
        until(lambda: manager.spares.status().warm)
        return the_spare()

    return ahead


def until(condition, limit: float = LIMIT) -> None:
    pause = threading.Event()
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        pause.wait(0.02)


def the_spare() -> ledger.Entry:
    (entry,) = [one for one in ledger.entries() if one.record and one.record.phase == Phase.SPARE]
    return entry


def test_a_spare_becomes_the_server(manager, make, warm, traces, fake_gpus):
    spare = warm()
    before = processes.environment(spare.leader.pid)
    assert spare.condition is ledger.Condition.OWNED
    assert int(Path(f"/proc/{spare.leader.pid}/oom_score_adj").read_text()) == 1000
    server = manager.start(make("tiny", "--max-model-len", "512", name="chosen")).server
    assert (server.start_kind, server.cold_because) == (StartKind.WARM, "")
    assert server.status.leader == spare.leader
    assert server.log_path.parent == spare.path
    assert server.processes()[0].name == "vllm"
    assert "serve tiny --max-model-len 512" in processes.title(server.pid)
    assert "VLLM::EngineCore" in {processes.title(one.identity.pid) for one in server.processes()}
    assert os.getpriority(os.PRIO_PROCESS, server.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert (
        Path(f"/proc/{server.pid}/oom_score_adj").read_text() == Path("/proc/self/oom_score_adj").read_text()
    )
    assert server.api_key not in str(before)
    assert server.chat("hello", max_tokens=3).text
    until(lambda: ledger.read_entry(spare.path).record.phase == Phase.READY)  # its guard writes that
    record = ledger.read_entry(spare.path).record
    assert (record.name, record.port, record.leader) == ("chosen", server.port, list(server.status.leader))
    release = server.stop()
    assert release.verified
    assert server.log_path.name.startswith("chosen-")
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


def test_a_warm_server_is_what_a_cold_one_is(manager, make, warm):
    # With this flag given, none is added once vLLM's flags are known, which may be between the two starts.
    spec = make("tiny", "--max-model-len", "64", "--disable-access-log-for-endpoints", "/health")
    told = []
    for kind in (StartKind.COLD, StartKind.WARM):
        if kind is StartKind.WARM:
            warm()
        with_it = manager.start(spec).server
        assert with_it.start_kind is kind
        environment = {
            name: value
            for name, value in processes.environment(with_it.processes()[-1].identity.pid).items()
            if name
            not in (
                MARK,
                "TMPDIR",
                "VLLM_RPC_BASE_PATH",
                "VLLM_API_KEY",
                "VLLM_WORKER_MULTIPROC_METHOD",
            )
        }
        names = sorted(processes.title(one.identity.pid) for one in with_it.processes())
        port = str(with_it.port)
        told.append(
            (
                [re.sub(r"main\(\d+\)", "main(FD)", name.replace(port, "PORT")) for name in names],
                with_it.chat("hello", max_tokens=5, temperature=0).text,
                Path(f"/proc/{with_it.pid}/cwd").readlink(),
                Path(f"/proc/{with_it.pid}/fd/0").readlink(),
                set(environment),
            )
        )
        with_it.stop()
        manager.spares.set_mode(StandbyMode.OFF)
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"env": {"HF_HUB_OFFLINE": "1"}, "force": True}, "$HF_HUB_OFFLINE is not what it was"),
        ({"cwd": "/"}, "another working directory"),
        ({"executable": "other"}, "another vLLM"),
    ],
)
def test_it_serves_only_what_it_was_made_for(manager, make, warm, vllm, tmp_path, change, because):
    warm()
    if "executable" in change:
        change = {"executable": str(stand_in.install_environment(tmp_path / "other"))}
    server = manager.start(make("tiny", **change)).server
    assert server.start_kind is StartKind.COLD
    assert because in server.cold_because


@pytest.mark.parametrize(
    "late", [{"VLLM_API_KEY": "sk-own"}, {"HF_TOKEN": "hf_x"}, {"CUDA_VISIBLE_DEVICES": "1"}]
)
def test_what_vllm_reads_late_may_differ(manager, make, warm, late):
    warm()
    server = manager.start(make("tiny", env=late)).server
    assert server.start_kind is StartKind.WARM
    if "VLLM_API_KEY" in late:
        assert server.api_key == "sk-own"


def test_a_spare_that_died_is_a_cold_start(manager, make, warm, traces):
    spare = warm()
    assert pidfd.send(spare.leader, signal.SIGKILL)
    until(lambda: not spare.path.exists())
    server = manager.start(make("tiny")).server
    assert server.start_kind is StartKind.COLD
    assert server.cold_because.startswith("it could not be used: it has ended")
    server.stop()


@pytest.mark.parametrize("victim", ["leader", "inner", "outer", "both guards"])
def test_a_spare_that_dies_in_the_moment_of_the_start_is_a_cold_start(manager, make, warm, traces, victim):
    spare = warm()
    manager.spares.set_mode(StandbyMode.ON)
    record = spare.record
    assert pidfd.send(spare.leader, signal.SIGSTOP)
    server = manager.start(make("tiny"), wait=False).server
    until(lambda: (entry := ledger.read_entry(spare.path)) and entry.record and entry.record.name == "tiny")
    assert server.state == "starting"
    assert server.pid is None  # it has not taken its order
    for one in {"leader": [record.leader], "inner": [record.inner], "outer": [record.outer]}.get(
        victim, [record.inner, record.outer]
    ):
        assert pidfd.send(Identity(*one), signal.SIGKILL)
    server.wait(LIMIT)
    assert server.start_kind is StartKind.COLD
    assert server.cold_because
    assert server.status.leader != spare.leader
    assert server.stop().verified
    assert not processes.is_alive(spare.leader)
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


@pytest.mark.parametrize("frozen", ["leader", "inner guard", "leader and both guards"])
def test_a_spare_that_is_stopped_is_dropped_and_the_start_is_cold(
    manager, make, warm, monkeypatch, traces, frozen
):
    monkeypatch.setattr(from_standby, "TAKE_LIMIT", 0.5)
    monkeypatch.setattr(from_standby, "GUARD_LIMIT", 0.5 if "guard" in frozen else LIMIT)
    spare = warm()
    record = spare.record
    stopped = {"leader": [record.leader], "inner guard": [record.inner]}.get(
        frozen, [record.leader, record.outer, record.inner]
    )
    for one in stopped:
        assert pidfd.send(Identity(*one), signal.SIGSTOP)
    server = manager.start(make("tiny"), timeout=LIMIT).server
    assert server.start_kind is StartKind.COLD
    assert server.cold_because == "it did not take the launch request within 0.5 s"
    assert pidfd.wait_for_all({spare.leader, *spare.guards}, LIMIT) == set()
    assert not spare.path.exists()
    assert server.stop().verified
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


def test_a_spare_that_is_stopped_while_it_imports_is_dropped(manager, make, monkeypatch, traces):
    monkeypatch.setattr(from_standby, "TAKE_LIMIT", 0.5)
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(make("tiny", faults={"imports": "hang"}))
    until(lambda: the_spare().leader)
    spare = the_spare()
    assert pidfd.send(spare.leader, signal.SIGSTOP)
    server = manager.start(make("tiny", faults={"imports": "hang"}), wait=False).server
    until(lambda: server.cold_because)
    assert server.cold_because == "it did not take the launch request within 0.5 s"
    assert server.status.leader != spare.leader
    assert server.stop().verified
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


@pytest.mark.parametrize("guards", ["live", "stopped"])
def test_a_start_can_be_stopped_as_the_spare_is_dropped(manager, make, warm, monkeypatch, traces, guards):
    """The stop comes at the end of the time to take the launch request. Nothing of the spare stays."""
    spare = warm()
    monkeypatch.setattr(from_standby, "GUARD_LIMIT", 0.5 if guards == "stopped" else LIMIT)
    for one in [spare.leader, *(spare.guards if guards == "stopped" else ())]:
        assert pidfd.send(one, signal.SIGSTOP)

    def answer(_: Standby, cancelled: Cancellation) -> list[Message]:
        cancelled.event.wait(LIMIT)
        raise TimeoutError("it did not take the launch request")

    monkeypatch.setattr(from_standby, "_answer", answer)
    server = manager.start(make("tiny"), wait=False).server
    assert server.stop().verified
    assert server.state == "released"
    assert pidfd.wait_for_all({spare.leader, *spare.guards}, LIMIT) == set()
    assert not spare.path.exists()
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


def test_a_start_can_be_stopped_before_the_spare_took_it(manager, make, warm, traces):
    spare = warm()
    assert pidfd.send(spare.leader, signal.SIGSTOP)
    server = manager.start(make("tiny"), wait=False).server
    until(lambda: (entry := ledger.read_entry(spare.path)) and entry.record and entry.record.name == "tiny")
    assert server.stop().verified
    assert server.state == "released"
    assert not processes.is_alive(spare.leader)
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


@pytest.mark.parametrize(
    ("imports", "because"),
    [
        ("thread", "an import has left the thread telemetry"),
        ("crash", "RuntimeError: no kernel image is available"),
    ],
)
def test_an_import_that_spoils_it(manager, make, imports, because):
    spec = make("tiny", faults={"imports": imports})
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(spec)
    until(lambda: not manager.spares.status().there)
    assert manager.spares.status().reason == f"it could not be used: {because}"
    server = manager.start(spec).server
    assert (server.start_kind, server.cold_because) == (StartKind.COLD, f"it could not be used: {because}")


@pytest.mark.usefixtures("fake_gpus")
def test_counting_the_gpus_is_no_reason(manager, make, warm):
    """As every import of vLLM for CUDA does, with NVML; none of its files stays open in a spare."""
    spec = make("tiny", faults={"imports": "nvml"})
    spare = warm(spec)
    opened = [os.readlink(path) for path in Path(f"/proc/{spare.leader.pid}/fd").iterdir()]
    assert not [path for path in opened if "nvidia" in path]
    assert b"libnvidia-ml" in Path(f"/proc/{spare.leader.pid}/maps").read_bytes()
    assert manager.start(spec).server.start_kind is StartKind.WARM


def test_one_in_which_cuda_was_begun_is_of_no_use(manager, make, fake_gpus):
    spec = make("tiny", faults={"imports": "cuda"})
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(spec)
    until(lambda: not manager.spares.status().there)
    assert manager.spares.status().reason == (
        f"it could not be used: an import has opened {fake_gpus}/dev/nvidia-uvm"
    )


def test_a_command_that_lacks_something_is_no_reason(manager, make, warm):
    spec = make("tiny", faults={"imports": "missing"})
    warm(spec)
    assert manager.start(spec).server.start_kind is StartKind.WARM


def test_an_update_of_vllm_is_noticed(manager, make, warm, tmp_path):
    own = stand_in.install_environment(tmp_path / "own")
    spec = make("tiny", executable=str(own))
    warm(spec)
    (module,) = own.parent.parent.glob("lib/python*/site-packages/vllm/entrypoints/cli/main.py")
    os.utime(module, (1, 1))
    server = manager.start(spec).server
    assert server.start_kind is StartKind.COLD
    assert server.cold_because == f"{module} is not what was imported any more"


def test_one_that_is_not_warm_yet_is_waited_for(manager, make):
    """As a restart has it: the import goes on while the release does."""
    spec = make("tiny")
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(spec)
    server = manager.start(spec).server
    assert server.start_kind is StartKind.WARM


def test_an_import_that_hangs_can_be_stopped(manager, make, traces):
    spec = make("tiny", faults={"imports": "hang"})
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(spec)
    server = manager.start(spec, wait=False).server
    spare = ledger.entries()[0]
    until(lambda: (entry := ledger.read_entry(spare.path)) and entry.record and entry.record.name == "tiny")
    assert server.stop().verified
    traces.check()


def test_auto_makes_one_after_a_server_is_ready(manager, make, monkeypatch, traces):
    manager.spares.set_mode(StandbyMode.AUTO)
    monkeypatch.setattr(kept, "LEAST_FREE_MEMORY", 1)
    first = manager.start(make("tiny")).server
    assert (first.start_kind, first.cold_because) == (StartKind.COLD, "none was started yet")
    until(lambda: manager.spares.status().warm)
    second = manager.start(make("tiny", name="second")).server
    assert second.start_kind is StartKind.WARM
    until(lambda: manager.spares.status().memory > 2**20)
    assert first.stop().verified
    assert second.stop().verified
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


def test_auto_makes_none_where_memory_is_short(manager, make, monkeypatch):
    manager.spares.set_mode(StandbyMode.AUTO)
    monkeypatch.setattr(kept, "LEAST_FREE_MEMORY", 2**60)
    manager.start(make("tiny"))
    until(lambda: manager.spares.status().reason.startswith("less than"))
    assert [entry for entry in ledger.entries() if entry.record.phase == Phase.SPARE] == []


def test_a_wrapper_has_no_spare(manager, make, executable):
    manager.spares.set_mode(StandbyMode.ON)
    server = manager.start(make("tiny", executable=executable)).server
    assert not manager.spares.status().there
    assert server.start_kind is StartKind.COLD


def test_it_goes_when_nobody_wants_it(manager, make, monkeypatch, traces):
    monkeypatch.setattr(one_spare, "STANDBY_LIMIT", 0.5)
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(make("tiny"))
    until(lambda: not manager.spares.status().there)
    assert "no start had used it" in manager.spares.status().reason
    assert manager.spares.wait_gone()
    traces.check()


@pytest.mark.parametrize("victim", ["leader", "inner", "outer"])
def test_a_death_in_it_is_noticed_and_nothing_of_it_stays_a_zombie(manager, warm, traces, victim):
    spare = warm()
    guard = Identity(*spare.record.outer)
    assert pidfd.send(Identity(*getattr(spare.record, victim)), signal.SIGKILL)
    until(lambda: processes.read(guard.pid) is None)  # this process is its parent
    assert manager.spares.status().reason in ("it has ended", "it could not be used: it has ended")
    assert manager.spares.wait_gone()  # the other guard clears the folder
    traces.check()


def test_one_that_ends_just_before_its_order(manager, make, warm, monkeypatch, traces):
    spare = warm()
    take = manager.spares.take

    def take_and_lose(cast: StandbySpec):
        one = take(cast)
        assert pidfd.send(Identity(*spare.record.inner), signal.SIGKILL)
        until(lambda: one.gone)
        return one

    monkeypatch.setattr(manager.spares, "take", take_and_lose)
    server = manager.start(make("tiny")).server
    assert (server.start_kind, server.cold_because) == (StartKind.COLD, "it has ended")
    assert server.stop().verified
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()


def test_no_thread_for_it(manager, make, monkeypatch, traces):
    def fail(_):
        raise RuntimeError("can't start new thread")

    manager.spares.set_mode(StandbyMode.ON)
    with monkeypatch.context() as patched:
        patched.setattr(one_spare.threading.Thread, "start", fail)
        manager.expect(make("tiny"))
    assert "can't start new thread" in manager.spares.status().reason
    until(lambda: ledger.entries() == [])
    traces.check()


def test_it_goes_when_memory_is_short(monkeypatch):
    spare = standby_leader.StandbyConnection(60.0)
    try:
        assert not spare.should_end()
        monkeypatch.setattr(memory, "available", lambda: standby_leader.LEAST_MEMORY - 1)
        assert spare.should_end()
    finally:
        spare.theirs.close()
        spare.close()


KERNEL = """
import json, sys, time
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.provisioning.standby_pool import StandbyMode
from vllm_magic.manager.manager import manager
manager.spares.set_mode(StandbyMode.ON)
spec = ServerSpec("tiny", executable=sys.argv[1], keep=float(sys.argv[2]) or None)
manager.expect(spec)
while not manager.spares.status().warm:
    time.sleep(0.02)
kind = "waits"
if spec.keep:
    kind = manager.start(spec).server.start_kind
    while not manager.spares.status().warm:  # the next one
        time.sleep(0.02)
print(json.dumps(kind), flush=True)
sys.stdin.readline()
"""


def kernel(vllm: str, keep: float = 0.0) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", KERNEL, vllm, str(keep)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_ends_with_its_kernel(home, vllm, traces, death):
    process, _ = kernel(vllm)
    spare = the_spare()
    if death:
        process.send_signal(death)
    process.communicate("\n")
    assert not pidfd.wait_for_all({spare.leader}, LIMIT)
    until(lambda: not spare.path.exists())
    traces.check()


def test_the_next_kernel_sweeps_what_is_left_of_it(home, vllm, manager, traces):
    process, _ = kernel(vllm)
    spare = the_spare()
    victims = [Identity(*one) for one in (spare.record.kernel, spare.record.outer, spare.record.inner)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for victim in victims:
            pidfd.send(victim, number)
    process.communicate()
    assert not pidfd.wait_for_all(set(victims), LIMIT)
    (swept,) = sweep(manager.probe)
    assert swept.name == "spare"
    assert not processes.is_alive(spare.leader)
    traces.check()


def test_a_warm_server_can_be_kept(home, vllm, manager, make, traces):
    process, kind = kernel(vllm, keep=60.0)
    assert kind == "warm"
    process.kill()
    process.communicate()
    until(lambda: any(entry.condition is ledger.Condition.KEPT for entry in ledger.entries()))
    server = manager.attach("tiny")
    assert server.start_kind is StartKind.ATTACHED
    assert server.chat("hello", max_tokens=2).text
    assert server.stop().verified
    until(lambda: ledger.entries() == [])
    traces.check()


def test_a_doctor_finds_nothing_wrong_with_it(manager, warm):
    warm()
    report = survey.survey(manager.probe)
    assert [(one.name, one.phase) for one in report.servers] == [("spare", "spare")]
    assert [one for one in report.findings if "spare" in one.what] == []


def test_only_the_last_is_kept(manager, make, warm, traces):
    first = warm()
    second = warm(make("tiny", env={"HF_HOME": "/elsewhere"}))
    assert second.id != first.id
    until(lambda: not first.path.exists())
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    assert manager.spares.status().reason == "it is switched off"
    traces.check()


@pytest.mark.parametrize("frozen", ["guards", "leader and guards"])
def test_one_whose_guards_are_stopped_is_killed(manager, warm, traces, frozen):
    spare = warm()
    for one in [*spare.guards, *([spare.leader] if "leader" in frozen else [])]:
        assert pidfd.send(one, signal.SIGSTOP)
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone(0.5)
    assert manager.spares.status().reason == "it is switched off"
    assert [one for one in (spare.leader, *spare.guards) if processes.is_alive(one)] == []
    assert not spare.path.exists()
    traces.check()


def test_a_program_has_none_unless_it_wants_one():
    assert StandbyPool().mode is StandbyMode.OFF


def test_the_environment_of_a_cast_is_not_shown(make, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    cast = StandbySpec.of(make("tiny"), "/bin/vllm", os.environ)
    assert "very-secret" not in repr(cast)
    assert "very-secret" not in cast.difference(StandbySpec.of(make("tiny"), "/bin/vllm", {}))


@pytest.fixture
def notebook(home, vllm, monkeypatch, shell):
    """A shell whose starts are of a vLLM that can have a spare; its manager is the kernel's own."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", vllm)
    monkeypatch.setattr("vllm_magic.manager.manager.manager._last", None)  # of another test's
    return lambda line: shell.run_line_magic("vllm", line)


class TestWords:
    def test_off_on_and_status(self, notebook, traces):
        assert "switched off" in repr(notebook("spare off"))
        shown = repr(notebook("spare on"))
        assert shown.startswith("A spare is importing vLLM, since")
        until(lambda: "A spare waits, in" in repr(notebook("spare")))
        assert "A spare waits for the next start, in" in repr(notebook(""))
        server = notebook("start tiny")
        assert server.start_kind is StartKind.WARM
        notebook("stop --all")
        assert "switched off" in repr(notebook("spare off"))
        traces.check()

    def test_off_says_that_one_lives_on(self, notebook, monkeypatch):
        monkeypatch.setattr(StandbyPool, "wait_gone", lambda _: False)
        with pytest.raises(VllmMagicError, match="SIGKILL does not end it"):
            notebook("spare off")

    def test_a_ready_server_says_that_it_came_from_one(self, notebook, capsys):
        notebook("spare on")
        notebook("start tiny")
        assert re.search(r"tiny is ready after [\d.]+ s, from a spare", capsys.readouterr().out)

    @pytest.mark.parametrize("line", ["restart tiny", "switch tiny --name other"])
    def test_what_comes_is_imported_while_the_old_one_goes(self, notebook, line):
        notebook("spare off")
        first = notebook("start tiny")
        notebook("spare on")
        manager_of_kernel.spares.set_mode(StandbyMode.OFF)  # without the one that the first start had made
        assert manager_of_kernel.spares.wait_gone()
        second = notebook(line)
        assert (first.state, second.state) == ("released", "ready")
        assert second.start_kind is StartKind.WARM

    def test_the_setting(self, notebook, shell):
        shell.run_line_magic("config", "VllmMagics.spare = 'off'")
        assert "switched off" in repr(notebook("spare status"))
        with pytest.raises(Exception, match="spare"):
            shell.magics_manager.registry["VllmMagics"].spare = "sometimes"

    def test_a_word_that_does_not_fit(self, notebook):
        with pytest.raises(UsageError, match="invalid choice: 'maybe'"):
            notebook("spare maybe")
