"""A server is believed only while it listens itself; `tests/process/test_impostor.py` has real ones."""

from __future__ import annotations

import os
import socket

import by_hand
import pytest

from vllm_magic.engine.client.exchange import NoAnswerError
from vllm_magic.lifecycle.own_listener import OwnListener
from vllm_magic.linux import processes
from vllm_magic.linux.processes import Identity


def test_until_it_closes_its_port(monkeypatch):
    me = by_hand.identity(os.getpid())
    monkeypatch.setattr(processes, "server_members", lambda table, leader: {leader.pid} & set(table))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = OwnListener("127.0.0.1", listener.getsockname()[1], lambda: me)
        own.verify()
        own.verify()
    with pytest.raises(NoAnswerError, match="does not listen"):
        own.verify()


@pytest.mark.parametrize("leader", [None, Identity(os.getpid(), 1)])
def test_another_program_listens(leader):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = OwnListener("127.0.0.1", listener.getsockname()[1], lambda: leader)
        with pytest.raises(NoAnswerError, match="does not listen"):
            own.verify()
