"""The helper jobs of a server on a cluster: a fault of one does not affect the others."""

from __future__ import annotations

import pytest

from vllm_magic.cluster import node_jobs, teardown
from vllm_magic.cluster.entities import Job, JobStatus
from vllm_magic.cluster.rest import JobUnknownError
from vllm_magic.errors import ClusterError, ClusterUnreachable


class Head:
    """The head of a cluster.

    Args:
        known: the jobs on record.
        faulty: what the head answers about some jobs, on record or not.
        kept: what the head answers to who wants to remove the record of some jobs.
    """

    def __init__(self, *known: str, faulty=None, kept=None) -> None:
        self.known = dict.fromkeys(known, JobStatus.SUCCEEDED)
        self.faulty = faulty or {}
        self.kept = kept or {}

    def jobs(self):
        return [Job(name, status, "", "node", None, {}) for name, status in self.known.items()]

    def job(self, name: str) -> Job:
        if name in self.faulty:
            raise self.faulty[name]
        if name not in self.known:
            raise JobUnknownError(f"{name} is not known")
        return Job(name, self.known[name], "", "node", None, {})

    def forget(self, name: str) -> None:
        if name in self.kept:
            raise self.kept[name]
        self.job(name)
        del self.known[name]

    def submit(self, name: str, *_, **__) -> None:
        self.known[name] = JobStatus.SUCCEEDED

    def put(self, *_) -> None:
        pass

    def stop(self, name: str) -> None:
        self.known[name] = JobStatus.STOPPED


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(teardown, "RECORD_DELAY", 0.0)


HELPERS = ("m-1-look-a", "m-1-look-b", "m-1-end-0", "m-1-end-1", "m-1-clear-0", "m-1-clear-1")
OTHERS = ("m-1", "m-12-end-0", "m-1-end-0-end-0", "m-1-ends-0")


class TestTidying:
    def test_all_helper_jobs_and_no_others(self):
        head = Head(*HELPERS, *OTHERS)
        teardown.remove_records(head, "m-1", HELPERS[:2])
        assert sorted(head.known) == sorted(OTHERS)

    @pytest.mark.parametrize("gone", HELPERS)
    def test_a_forgotten_helper_job_is_skipped(self, gone):
        """Another kernel, or Ray itself, has removed its record."""
        head = Head(*HELPERS)
        del head.known[gone]
        teardown.remove_records(head, "m-1", HELPERS[:2])
        assert head.known == {}

    @pytest.mark.parametrize("refused", HELPERS)
    @pytest.mark.parametrize("where", ["faulty", "kept"])
    @pytest.mark.parametrize("kind", [ClusterError, ClusterUnreachable])
    def test_a_refusal_does_not_stop_the_others(self, refused, where, kind):
        head = Head(*HELPERS, **{where: {refused: kind("no")}})
        with pytest.raises(kind, match=r"^no$"):
            teardown.remove_records(head, "m-1", HELPERS[:2])
        assert list(head.known) == [refused]

    @pytest.mark.parametrize("runs", HELPERS)
    def test_a_running_helper_job_stays(self, runs):
        head = Head(*HELPERS)
        head.known[runs] = JobStatus.RUNNING
        teardown.remove_records(head, "m-1", HELPERS[:2])
        assert list(head.known) == [runs]

    def test_there_is_a_limit_for_all_of_it(self, monkeypatch):
        """With a head that does not answer, each job takes a whole time limit."""
        monkeypatch.setattr(teardown, "REMOVAL_LIMIT", 0.0)
        head = Head(*HELPERS, faulty=dict.fromkeys(HELPERS, ClusterUnreachable("no")))
        asked = []
        monkeypatch.setattr(head, "job", lambda name: [asked.append(name), Head.job(head, name)])
        with pytest.raises(ClusterUnreachable):
            teardown.remove_records(head, "m-1", HELPERS[:2])
        assert len(asked) == 1


class TestAskNodes:
    def test_a_node_whose_helper_job_was_forgotten(self, monkeypatch):
        head = Head()
        monkeypatch.setattr(node_jobs.package, "packed", lambda: b"")
        submit = head.submit

        def forgetful(name, *words, **options):
            submit(name, *words, **options)
            if len(head.known) == 1:
                head.faulty[name] = JobUnknownError("not known")

        monkeypatch.setattr(head, "submit", forgetful)
        monkeypatch.setattr(node_jobs.wire, "last_line", lambda log, _: {"said": log[0]})

        def tail(name, node):
            head.job(name)
            return [f"{node} says"]

        monkeypatch.setattr(head, "tail", tail, raising=False)
        made = []
        said = node_jobs.ask_nodes(head, "m-1", "--left", {"one": (), "two": ()}, made)
        assert said == {"two": {"said": "two says"}}
        assert len(made) == 2
