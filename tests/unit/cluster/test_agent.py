"""The agent of a server on a cluster, where the disk, a port or the cluster fails."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from vllm_magic.cluster import agent, placement, wire
from vllm_magic.cluster.agent import Agent
from vllm_magic.cluster.entities import Job, JobStatus, Node
from vllm_magic.cluster.messages import JobSpec
from vllm_magic.cluster.placement import Placement
from vllm_magic.cluster.rest import JobUnknownError
from vllm_magic.errors import ClusterError, ClusterUnreachable

SPEC = JobSpec("http://127.0.0.1:1", "m-1", "m", "a/model", (), None, (), 0, 1, force=False, vllm="0.32.0")
FULL = (errno.ENOSPC, os.strerror(errno.ENOSPC))


class Head:
    """The head of a cluster: each answer in turn, the last one again and again; an error is raised."""

    def __init__(self, *jobs: Job | ClusterError, refuses: tuple[ClusterError, ...] = ()) -> None:
        self._jobs = [*jobs]
        self._refuses = [*refuses]
        self.puts: list[str] = []
        self.submitted = 0

    def job(self, _name: str) -> Job:
        now = self._jobs.pop(0) if len(self._jobs) > 1 else self._jobs[0]
        if isinstance(now, ClusterError):
            raise now
        return now

    def put(self, name: str, _data: bytes) -> None:
        self.puts.append(name)

    def submit(self, *_, **__) -> None:
        self.submitted += 1
        if self._refuses:
            raise self._refuses.pop(0)

    def node(self, name: str) -> Node:
        return Node(name, "n", "10.0.0.1", alive=True, head=False, gpus=1.0)

    def follow(self, *_):
        yield self.log

    log = b""


def job(status: JobStatus) -> Job:
    return Job("m-1", status, "no room", "node", None, {})


def unreachable() -> ClusterUnreachable:
    return ClusterUnreachable("The cluster does not answer.")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(agent, "POLL_INTERVAL", 0.0)
    monkeypatch.setattr(agent, "LONG_INTERVAL", 0.0)


@pytest.fixture
def said(monkeypatch):
    """What the agent writes to the server's log."""
    lines: list[bytes] = []
    real = os.write
    monkeypatch.setattr(
        agent.os, "write", lambda fd, data: (lines.append(data), len(data))[1] if fd == 1 else real(fd, data)
    )
    return lines


@pytest.fixture
def full_disk(monkeypatch):
    """Nothing can be written to the server's log any more."""
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if fd == 1:
            raise OSError(*FULL)
        return real(fd, data)

    monkeypatch.setattr(agent.os, "write", write)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes an agent in front of a head."""
    agents = []
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def make(head: Head) -> Agent:
        one = Agent(SPEC)
        one._ray = head
        agents.append(one)
        return one

    yield make
    for one in agents:
        one._forwarder.close()
        one._forwarder._socket.close()


class TestDisk:
    def test_a_placement_that_cannot_be_written_is_kept(self, made, tmp_path, monkeypatch):
        one = made(Head(job(JobStatus.RUNNING)))

        def refuse(*_: object) -> None:
            raise OSError(*FULL)

        monkeypatch.setattr(placement, "write", refuse)
        one._update(nodes=("10.0.0.1",))
        assert one._placement == Placement(nodes=("10.0.0.1",))
        assert placement.read(tmp_path) == Placement()

    @pytest.mark.usefixtures("full_disk")
    def test_the_log_is_read_on_to_its_last_line(self, made):
        """The lines for the agent tell where the server listens, and that it is released."""
        head = Head(job(JobStatus.RUNNING))
        one = made(head)
        head.log = (
            f"a line of vLLM\n{wire.line(wire.PLACED, vllm='0.33.0')}\n{wire.line(wire.RELEASED)}\n".encode()
        )

        async def copy() -> None:
            await asyncio.to_thread(one._copy_log, "node", asyncio.get_running_loop())

        asyncio.run(copy())
        assert "vLLM 0.33.0" in one._placement.caveat

    @pytest.mark.usefixtures("full_disk")
    def test_what_cannot_be_said_is_not(self):
        agent._print("a line")


class TestPort:
    def test_one_that_cannot_be_used_ends_the_job(self, made, monkeypatch, said):
        one = made(Head(job(JobStatus.RUNNING)))

        async def refuse(_to: tuple[str, int]) -> None:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

        monkeypatch.setattr(one._forwarder, "listen", refuse)
        asyncio.run(one._forward(("10.0.0.1", 8000)))
        assert one._stop_request.is_set()
        assert one._failed
        assert said == [b"Port 0 cannot be used: Address already in use\n"]

    def test_it_is_closed_before_the_job_is_stopped(self, made):
        """Once the server has ended, another process may have its port on the node."""
        head = Head(job(JobStatus.RUNNING))
        one = made(head)
        open_at_stop = []
        head.stop = lambda _: open_at_stop.append(not one._forwarder._closed.is_set())
        head.job = lambda _: job(JobStatus.STOPPED)
        asyncio.run(one._end())
        assert open_at_stop == [False]

    def test_it_leads_to_the_node_of_the_job(self, made, monkeypatch):
        """Also while the nodes of the engine's other workers are not known, or the job's own node is not among them."""
        head = Head(job(JobStatus.RUNNING))
        one = made(head)
        places = []

        async def listen(to: tuple[str, int]) -> None:
            places.append(to)

        monkeypatch.setattr(one._forwarder, "listen", listen)

        async def hear() -> None:
            one._send_request("node")
            one._update(nodes=())
            one._copy(wire.line(wire.LISTENS, port=8000).encode(), asyncio.get_running_loop())
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        asyncio.run(hear())
        assert places == [("10.0.0.1", 8000)]


class TestCluster:
    def test_a_submission_is_tried_again(self, made, said):
        head = Head(unreachable(), refuses=(unreachable(), unreachable()))
        asyncio.run(made(head)._submit())
        assert head.submitted == 3
        assert said == [b"The cluster does not answer. Trying again for 60 s.\n"]

    def test_one_that_is_refused_is_an_error(self, made, said):
        head = Head(unreachable(), refuses=(ClusterError("Refused."),))
        with pytest.raises(ClusterError, match="Refused"):
            asyncio.run(made(head)._submit())
        assert said == []

    def test_one_that_is_refused_for_too_long_is_an_error(self, made, monkeypatch, said):
        monkeypatch.setattr(agent, "SUBMIT_LIMIT", 0.0)
        with pytest.raises(ClusterUnreachable):
            asyncio.run(made(Head(unreachable(), refuses=(unreachable(),)))._submit())

    def test_one_that_was_accepted_all_the_same(self, made, said):
        head = Head(job(JobStatus.PENDING), refuses=(unreachable(),))
        asyncio.run(made(head)._submit())
        assert (head.submitted, said) == (1, [])

    def test_a_node_is_waited_for_while_the_cluster_does_not_answer(self, made, said):
        head = Head(unreachable(), JobUnknownError("m-1"), job(JobStatus.PENDING), job(JobStatus.RUNNING))
        assert asyncio.run(made(head)._wait_for_node()) == "node"
        assert said[-1] == b"The job runs on n (10.0.0.1).\n"
        assert head.puts == [wire.request("m-1")]

    def test_a_job_that_the_head_has_forgotten(self, made):
        with pytest.raises(JobUnknownError):
            asyncio.run(made(Head(JobUnknownError("m-1")))._wait_for_node())

    def test_a_job_that_was_never_started(self, made, said):
        assert asyncio.run(made(Head(job(JobStatus.FAILED)))._wait_for_node()) is None
        assert said == [b"Ray has not started the job: no room\n"]

    def test_whether_it_answers_is_said_once(self, made, said):
        one = made(Head(job(JobStatus.RUNNING)))
        for error in (None, unreachable(), unreachable(), None):
            one._set_reachable(error)
        assert said == [
            f"The cluster does not answer. The server ends itself if that lasts {wire.LEASE:g} s.\n".encode(),
            b"The cluster answers again.\n",
        ]


def test_a_fault_is_told_in_the_log(tmp_path, monkeypatch, said):
    codes = []
    monkeypatch.setattr(agent.os, "_exit", codes.append)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv(wire.JOB_SPEC, raising=False)
    asyncio.run(agent._main())
    assert codes == [1]
    assert said == [f"KeyError: {wire.JOB_SPEC!r}\n".encode()]
