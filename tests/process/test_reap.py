"""Which processes of vLLM nobody owns, that only those can be reaped, and that nobody beside them is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import by_hand
import pytest
from by_hand import ByHand, identity, until

from vllm_magic import ledger
from vllm_magic.doctor import reap, unowned
from vllm_magic.doctor.unowned import Owner, Role
from vllm_magic.errors import InvalidOption
from vllm_magic.guard.ladder import Ladder
from vllm_magic.linux import pidfd, processes, shared_memory
from vllm_magic.linux.processes import Process

pytestmark = pytest.mark.usefixtures("home")

GIB = 2**30
# A child with a title of vLLM's, made as multiprocessing does: by the same program, in the same session.
ENGINE_BELOW = """
import os, sys, time
import setproctitle
if os.fork() == 0:
    setproctitle.setproctitle(sys.argv[1])
    print(os.getpid(), flush=True)
    time.sleep(300)
sys.stdin.read()
"""

# The same below another program, which lives on.
EMBEDDED = """
import os, sys, time
import setproctitle
if os.fork() == 0:
    if sys.argv[2]:
        os.setsid()
    setproctitle.setproctitle(sys.argv[1])
    print(os.getpid(), flush=True)
    time.sleep(300)
os.execvp("sleep", ["sleep", "300"])
"""
# The same, with the engine's parent gone, below one that adopts orphans and has the name that it is told.
ADOPTED = """
import ctypes, os, sys, time
import setproctitle
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
reaper = os.getpid()
if os.fork() == 0:
    if os.fork() == 0:
        while os.getppid() != reaper:
            time.sleep(0.01)
        setproctitle.setproctitle(sys.argv[1])
        print(os.getpid(), flush=True)
        time.sleep(300)
    os._exit(0)
os.wait()
with open("/proc/self/comm", "w") as comm:
    comm.write(sys.argv[2])
sys.stdin.read()
"""


@pytest.fixture
def server(executable):
    """Starts servers by hand; what lives of them at the end is ended."""
    made: list[ByHand] = []

    def start(*flags: str, **options) -> ByHand:
        made.append(ByHand(executable, *flags, **options))
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture
def script():
    """Runs a script that prints a pid; it is killed at the end, and that process too."""
    ended = []

    def start(text: str, *words: str, **kwargs) -> tuple[subprocess.Popen, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", text, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kwargs
        )
        pid = int(process.stdout.readline())
        ended.append((process, identity(pid)))
        return process, pid

    yield start
    for process, child in ended:
        pidfd.send(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def tree_of(pid: int) -> unowned.Tree:
    (found,) = [tree for tree in unowned.trees(processes.table()) if pid in tree.pids]
    return found


def refused(pid: int) -> str:
    with pytest.raises(InvalidOption) as caught:
        reap.find_candidate(pid, ledger.entries())
    return str(caught.value)


class TestOwners:
    def test_a_server_by_hand_owns_its_engine(self, server):
        one = server()
        tree = tree_of(one.leader.pid)
        assert (tree.role, tree.owner, tree.root.identity) == (Role.SERVER, Owner.ITSELF, one.leader)
        assert one.pid("::EngineCore") in tree.pids
        assert tree.uid == os.getuid()

    @pytest.mark.parametrize(
        ("flags", "least"),
        [
            ((), 1),
            (("--tensor-parallel-size", "2"), 1),
            (("--data-parallel-size", "2"), 3),
            (("--api-server-count", "2"), 1),
        ],
    )
    def test_when_the_server_is_killed_nobody_owns_them(self, server, flags, least):
        one = server(*flags)
        one.kill_server()
        ours = {process.identity.pid for process in one.living()}
        trees = [tree for tree in unowned.trees(processes.table()) if tree.pids & ours]
        assert {tree.owner for tree in trees} == {Owner.NOBODY}
        assert {tree.root.group for tree in trees} == {one.leader.pid}
        assert len(trees) >= least

    def test_another_prefix_of_the_titles(self, script):
        process, pid = script(ENGINE_BELOW, "mine@nb-42::EngineCore_DP0", start_new_session=True)
        assert tree_of(pid).owner is Owner.STARTER
        process.kill()
        process.wait()
        until(lambda: processes.read(pid).parent != process.pid, "it is not adopted")
        assert tree_of(pid).owner is Owner.NOBODY

    def test_a_script_that_uses_an_engine_owns_it(self, script):
        process, pid = script(ENGINE_BELOW, "VLLM::EngineCore")
        tree = tree_of(pid)
        assert tree.owner is Owner.STARTER
        assert f"(pid {process.pid})" in tree.above
        assert f"(pid {process.pid}), which still runs" in refused(pid)

    @pytest.mark.parametrize("session", [False, True])
    def test_another_program_that_uses_an_engine_owns_it(self, script, session):
        """A stub of Triton, uWSGI: not Python, or with the engine in a session of its own."""
        process, pid = script(EMBEDDED, "VLLM::EngineCore", "setsid" if session else "")
        until(lambda: processes.title(process.pid).startswith("sleep"), "not executed")
        tree = tree_of(pid)
        assert tree.owner is Owner.STARTER
        assert f"(pid {process.pid})" in tree.above
        assert f"sleep 300 (pid {process.pid}), which still runs" in refused(pid)

    @pytest.mark.parametrize(
        ("reaper", "owner"),
        [
            ("systemd", Owner.NOBODY),
            ("tini", Owner.NOBODY),
            ("Relay(9)", Owner.NOBODY),
            ("mine", Owner.STARTER),
        ],
    )
    def test_one_that_adopts_orphans_owns_it_unless_it_is_known_to(self, script, reaper, owner):
        process, pid = script(ADOPTED, "VLLM::EngineCore", reaper)
        until(lambda: processes.read(process.pid).name == reaper, "not renamed")
        assert processes.read(pid).parent == process.pid
        assert tree_of(pid).owner is owner

    @pytest.mark.parametrize("title", ["ray::Worker", "foo::bar", "VLLM", "postgres: writer"])
    def test_titles_that_are_not_of_vllm(self, script, title):
        _, pid = script(ENGINE_BELOW, title)
        assert unowned.role(processes.read(pid)) is None

    def test_what_is_shown_of_a_server_has_no_secret(self, server):
        one = server("--api-key", "sk-do-not-show")
        process = processes.read(one.leader.pid)
        assert unowned.display_name(process) == "vllm serve tiny"
        assert unowned.display_name(processes.read(one.pid("::EngineCore"))) == "VLLM::EngineCore"


class TestRefusals:
    def test_no_process(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        assert "no process" in refused(ended.pid)
        assert "no process" in refused(0)
        assert "no process" in refused(-1)

    def test_not_vllm(self):
        with by_hand.bystander() as other:
            assert f"sleep 300 (pid {other.pid}) is not a vLLM process" in refused(other.pid)

    def test_a_part_of_a_living_server(self, server):
        one = server()
        said = refused(one.pid("::EngineCore"))
        assert f"belongs to vllm serve tiny (pid {one.leader.pid}), which still runs" in said

    def test_a_server_whose_starter_lives(self, server):
        one = server()
        assert f"(pid {os.getpid()}), which still runs" in refused(one.leader.pid)

    def test_a_server_whose_starter_is_gone(self, executable):
        """As nohup, setsid and services leave it: somebody may be using it."""
        port = str(by_hand.free_port())
        shell = subprocess.run(
            ["sh", "-c", f"setsid {executable} serve tiny --port {port} >/dev/null 2>&1 & echo $!"],
            capture_output=True,
            check=True,
            text=True,
        )
        pid = int(shell.stdout)
        leader = identity(pid)
        try:
            until(lambda: (found := processes.read(pid)) and unowned.role(found), "not executed")
            tree = tree_of(pid)
            assert (tree.owner, tree.above) == (Owner.ITSELF, "")
            said = refused(pid)
            assert said.startswith(f"pid {pid} is a running vLLM server,")
            assert said.endswith(f"kill {pid}")
            assert processes.is_alive(leader)
        finally:
            os.killpg(pid, signal.SIGKILL)

    def test_one_of_our_servers(self, manager, spec):
        one = manager.start(spec(name="mine")).server
        assert refused(one.pid).endswith("use vllm-magic stop mine.")

    def test_an_orphan_of_ours(self, executable, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
        with by_hand.kernel("mine") as process:
            entry = by_hand.kill_with_guards(process)
            try:
                until(
                    lambda: entry.leader not in [one.identity for one in entry.processes], "the leader lives"
                )
                assert "vllm-magic reap releases it" in refused(entry.processes[0].identity.pid)
            finally:
                by_hand.end(entry)

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
    def test_another_users(self, script):
        as_nobody = ENGINE_BELOW.replace("import setproctitle", "import setproctitle; os.setuid(65534)")
        process, pid = script(as_nobody, "VLLM::EngineCore", start_new_session=True)
        process.kill()
        process.wait()
        until(lambda: processes.read(pid).parent != process.pid, "it is not adopted")
        assert tree_of(pid).owner is Owner.NOBODY
        assert "belongs to nobody" in refused(pid)

    def test_a_pid_that_changed_hands(self, server, probe):
        """Judged, then gone, and its number somebody else's: nobody is signalled."""
        one = server()
        one.kill_server()
        candidate = reap.find_candidate(one.pid("::EngineCore"), [])
        with by_hand.bystander() as bystander:
            stale = candidate.root._replace(identity=identity(bystander.pid)._replace(start=1))
            done = reap.reap(reap.ProcessTree((stale,)), probe)
            assert bystander.poll() is None
            assert (done.ended, done.left) == ((), ())
            assert done.text == "The process had already ended."


class TestReap:
    @pytest.mark.usefixtures("fake_gpus")
    @pytest.mark.parametrize("options", [{}, {"ignore_sigterm_engine": True}, {"children": 20}])
    def test_all_of_it_goes_and_the_memory_comes_back(self, server, probe, options):
        one = server("--tensor-parallel-size", "2", **options)
        one.kill_server()
        held = [gpu.used for gpu in probe.snapshot().gpus]
        done = reap.reap(reap.find_candidate(one.pid("::EngineCore"), []), probe, grace=1.0, patience=0.5)
        assert done.verified
        assert done.problem is None
        assert {process.name for process in done.ended} >= {
            "VLLM::EngineCore",
            "VLLM::Worker_TP0",
            "VLLM::Worker_TP1",
        }
        assert held == [2 * GIB, 2 * GIB]
        assert [gpu.used for gpu in probe.snapshot().gpus] == [0, 0]
        until(lambda: not one.living(), "something is left")  # the resource tracker ends by itself

    def test_without_a_gpu(self, server, probe):
        one = server()
        one.kill_server()
        done = reap.reap(reap.find_candidate(one.pid("::EngineCore"), []), probe)
        assert done.verified
        assert "could not be asked" in done.text

    @pytest.mark.usefixtures("fake_gpus")
    def test_a_driver_that_still_lists_it(self, server, probe, monkeypatch):
        monkeypatch.setattr(reap, "LISTED_LIMIT", 0.5)
        one = server("--gpu-memory-utilization", "0.5", vram_teardown_s=30.0)
        one.kill_server()
        pid = one.pid("::EngineCore")
        done = reap.reap(reap.find_candidate(pid, []), probe)
        assert not done.verified
        assert done.listed == (pid,)
        assert f"still lists pid {pid}" in done.text

    def test_those_who_share_its_process_group_live(self, script, probe):
        """A vLLM that was started from a script: the script's other children are none of ours."""
        process, pid = script(ADOPTED, "VLLM::EngineCore", "tini", start_new_session=True)
        until(lambda: processes.read(process.pid).name == "tini", "not renamed")
        bystander = processes.read(process.pid)
        engine = processes.read(pid)
        assert engine.group == bystander.group
        assert tree_of(pid).owner is Owner.NOBODY
        done = reap.reap(reap.find_candidate(pid, []), probe, grace=0.0)
        assert [one.pid for one in done.ended] == [pid]
        assert processes.is_alive(bystander.identity)
        assert processes.read(process.pid).state != "T"

    @pytest.mark.usefixtures("fake_gpus")
    def test_the_view(self, server, probe):
        one = server("--tensor-parallel-size", "2")
        one.kill_server()
        engine = one.pid("::EngineCore")
        lines = repr(reap.view([reap.find_candidate(engine, [])], probe.snapshot())).splitlines()
        assert lines[0].split() == ["pid", "process", "user", "age", "VRAM"]
        assert [line.split()[0] for line in lines[1:]] == [
            str(engine),
            *(str(one.pid(f"TP{n}")) for n in (0, 1)),
        ]
        assert lines[2].endswith("2.00 GiB")
        assert "└ VLLM::Worker_TP0" in lines[2]


class TestShares:
    def test_what_vllm_leaves_in_shared_memory_goes(self, server, probe):
        one = server(ignore_sigterm_engine=True)
        one.kill_server()
        engine = one.pid("::EngineCore")
        mapped = {os.path.realpath(path) for path in _shared(engine)}
        assert any("/psm_" in path for path in mapped)
        reap.reap(reap.find_candidate(engine, []), probe, grace=0.0)
        assert not any(os.path.exists(path) for path in mapped if "/psm_" in path)

    @pytest.mark.parametrize("deaf", [False, True])
    def test_it_goes_also_without_the_resource_tracker(self, server, probe, deaf):
        """Which removes it at the end of the last of them, where it lives."""
        one = server(ignore_sigterm_engine=deaf)
        one.kill_server()
        engine = one.pid("::EngineCore")
        (tracker,) = [
            each for each in one.living() if "resource_tracker" in processes.title(each.identity.pid)
        ]
        pidfd.send(tracker.identity, signal.SIGKILL)
        until(lambda: not processes.is_alive(tracker.identity), "the tracker lives")
        made = shared_memory.mapped_by([engine])
        assert len(made) == 3  # two segments and a semaphore
        reap.reap(reap.find_candidate(engine, []), probe)
        assert shared_memory.present(made) == set()

    def test_a_model_in_shared_memory_stays(self, script, probe):
        """It may be mapped by nobody but the engine."""
        with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="model-", suffix=".gguf") as model:
            model.write(b"weights")
            model.flush()
            mapping = f"import mmap; m = mmap.mmap(os.open({model.name!r}, os.O_RDONLY), 0, access=mmap.ACCESS_READ)"
            text = ENGINE_BELOW.replace("    print", f"    {mapping}\n    print")
            process, pid = script(text, "VLLM::EngineCore", start_new_session=True)
            process.kill()
            process.wait()
            assert reap.reap(reap.find_candidate(pid, []), probe, grace=0.0).verified
            assert os.path.exists(model.name)


def _shared(pid: int) -> set[str]:
    with open(f"/proc/{pid}/maps") as maps:
        return {line.split()[5] for line in maps if "/dev/shm/psm_" in line}


class TestLadder:
    SHELL = "sleep 300 & echo $!; sleep 301"

    def family(self) -> tuple[subprocess.Popen, Process, Process]:
        shell = subprocess.Popen(
            ["sh", "-c", self.SHELL], stdout=subprocess.PIPE, start_new_session=True, text=True
        )
        child = processes.read(int(shell.stdout.readline()))
        return shell, processes.read(shell.pid), child

    @pytest.mark.parametrize("whole", [True, False])
    def test_groups(self, whole):
        shell, parent, child = self.family()
        with shell:

            def find():
                return [child] if processes.is_alive(child.identity) else []

            outcome = Ladder(find, None, whole_groups=whole).run(0.0, 0.0)
            assert [row[0] for row in outcome.ended] == [child.identity.pid]
            if whole:
                assert shell.wait(by_hand.LIMIT) == -signal.SIGKILL
            else:
                assert processes.is_alive(parent.identity)
                os.killpg(shell.pid, signal.SIGKILL)

    def test_who_is_forked_between_look_and_stop_goes_too(self):
        """The first look shows the parent alone, as if the child had been forked right after it."""
        shell, parent, child = self.family()
        with shell:
            looks = []

            def find():
                looks.append(1)
                seen = [parent] if len(looks) == 1 else [parent, child]
                return [one for one in seen if processes.is_alive(one.identity)]

            outcome = Ladder(find, None, whole_groups=False).run(0.0, 0.0)
            assert {row[0] for row in outcome.ended} == {parent.identity.pid, child.identity.pid}
            assert not processes.is_alive(child.identity)
            shell.wait()
            os.killpg(shell.pid, signal.SIGKILL)
