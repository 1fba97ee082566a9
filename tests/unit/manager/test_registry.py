"""The names of servers: who has one now, and what a `Server` says whose server was started again."""

from __future__ import annotations

import pytest
from view_checks import a_server

from vllm_magic.errors import RequestFailed
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle.events import Over
from vllm_magic.manager.registry import Registry
from vllm_magic.release.result import nothing_to_release
from vllm_magic.server.server import Server

SAID = "It was restarted since: server = vllm_magic.servers()['tiny']"


def end(server: Server) -> None:
    server._run.handle(Over(nothing_to_release(server.name), Why.ASKED))


def test_a_server_that_was_restarted_says_where_it_is():
    registry = Registry()
    first, second, third = (a_server(name="tiny") for _ in range(3))
    registry.enter(first, None)
    end(first)
    registry.enter(second, first)
    assert first.status.restarted == f"{SAID}."
    assert SAID in repr(first)
    assert f"{SAID}." in first.status.view().lines
    with pytest.raises(RequestFailed) as refused:
        first.chat("hello")
    assert str(refused.value) == f"tiny takes no requests any more: it is released. {SAID}."
    assert second.status.restarted == ""
    end(second)
    assert first.status.restarted == ""
    registry.forget(second)
    registry.enter(third, None)
    assert [one.status.restarted for one in (first, second, third)] == [f"{SAID}.", f"{SAID}.", ""]


def test_another_model_of_the_same_name_is_no_restart():
    registry = Registry()
    first, other = a_server(name="tiny"), a_server("m/Other", name="tiny")
    registry.enter(first, None)
    end(first)
    registry.enter(other, first)
    assert first.status.restarted == ""
    assert first.base_url in repr(first)
