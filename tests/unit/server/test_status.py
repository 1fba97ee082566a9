"""The status of a server: one moment of it, whole."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
from view_checks import KEY, Nothing, a_server, launched

from vllm_magic.cluster import placement
from vllm_magic.cluster.placement import Placement
from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle.events import Ending, Over, Ready
from vllm_magic.provisioning.ray import RayProvisioner
from vllm_magic.release.result import nothing_to_release
from vllm_magic.server.server import Server, ServerState


@pytest.mark.parametrize("part", ["estimate", "stages"])
def test_one_status_is_one_moment(tmp_path, monkeypatch, part):
    """An event that comes while the parts are read is in all of them, or in none."""
    one = launched(a_server(), tmp_path)
    lifecycle = one._run.lifecycle
    before = getattr(lifecycle, part)

    def interrupted():
        if lifecycle.now.state is ServerState.STARTING:
            one._run.handle(Ready())
        return before()

    monkeypatch.setattr(lifecycle, part, interrupted)
    now = one.status
    assert (now.state, now.progress.stage, now.estimate.share) == (ServerState.READY, Stage.READY, 1.0)
    assert now.ready_after is not None
    assert list(now.times) == [ServerState.STARTING, ServerState.READY]


class Away(Nothing):
    """A provisioner of servers on another machine, which does not answer."""

    def placement(self, _folder):
        return Placement(("10.0.0.2",), reachable=False, caveat="other vLLM")


def test_the_provisioner_says_where_a_server_runs(tmp_path):
    made = Server(
        ServerSpec("m"),
        Away(Command(("vllm",), Endpoint("127.0.0.1", 8001, KEY))),
        Probe(),
        print,
        lambda _: None,
    )
    assert (made.nodes, made.reachable, made.state) == ((), True, "starting")
    launched(made, tmp_path)._run.handle(Ready())
    now = made.status
    assert (now.nodes, now.reachable, now.caveat) == (("10.0.0.2",), False, "other vLLM")
    assert now.state is made.state is ServerState.UNREACHABLE


def test_a_ray_job_has_its_placement_written_down(tmp_path):
    where = Placement(("10.0.0.2", "10.0.0.3"), caveat="other vLLM")
    placement.write(tmp_path, where)
    folder = SimpleNamespace(tmp=tmp_path)
    assert RayProvisioner.placement(object(), folder) == where


def test_it_does_not_change(tmp_path):
    one = launched(a_server(), tmp_path)
    before = one.status
    one._run.handle(Ready())
    assert before.state == "starting"
    assert one.status.state == "ready"
    with pytest.raises(FrozenInstanceError):
        before.state = ServerState.READY  # type: ignore[misc]


def test_the_properties_of_a_server_say_the_same(tmp_path):
    one = launched(a_server(), tmp_path)
    for notice in (Ready(), Ending(Why.ASKED), Over(nothing_to_release("tiny"), Why.ASKED)):
        one._run.handle(notice)
        now = one.status
        for name in [
            "spec",
            "name",
            "model",
            "state",
            "url",
            "base_url",
            "pid",
            "log_path",
            "progress",
            "ready_after",
            "start_kind",
            "cold_because",
            "asleep",
            "job",
            "nodes",
            "reachable",
            "caveat",
            "release",
            "error",
        ]:
            assert getattr(one, name) == getattr(now, name), name


def test_it_is_shown_as_its_server_is_and_without_its_key(tmp_path):
    one = launched(a_server(), tmp_path)
    assert one._repr_html_() == one.status._repr_html_()
    assert KEY not in repr(one.status)
