"""What the panel draws: one moment of each server."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace

import pytest
from view_checks import a_server

from vllm_magic.jupyter.panel.controller import Controller
from vllm_magic.jupyter.panel.messages import FormFields
from vllm_magic.provisioning.standby_pool import StandbyPool
from vllm_magic.server.server import Server, ServerState


@pytest.fixture
def controller():
    """A controller with one server, "tiny", which nobody looks at."""
    server = a_server()
    manager = SimpleNamespace(
        servers=lambda: {"tiny": server},
        past=dict,
        attribution={},
        latest=None,
        spares=StandbyPool(),
        get_even_past=lambda _: server,
    )
    work = SimpleNamespace(fields_of=lambda _: FormFields())
    made = Controller(manager, SimpleNamespace(), work, lambda: False)
    yield made
    made.close()


def test_the_list_and_the_chosen_server_are_of_one_moment(controller, monkeypatch):
    """Also while the state changes at each look."""
    first = a_server().status
    states = cycle([ServerState.STARTING, ServerState.READY])
    monkeypatch.setattr(Server, "status", property(lambda _: replace(first, state=next(states))))
    controller._selection.name = "tiny"
    for _ in range(3):
        state = controller._view_state()
        (line,) = state["servers"]
        assert line["state"] == state["chosen"]["state"]
