"""The messages of a guard to a process that does not read, or reads late."""

from __future__ import annotations

import socket

import pytest

from vllm_magic.guard.outbox import Outbox
from vllm_magic.guard.protocol import Decoder, Ended, KnownProcesses, Message, Refused, Stopping, encode

STOPPING = Stopping("asked")
ENDED = Ended("inner", "asked", 0, [[pid, 1, "sleep 300", "SIGKILL"] for pid in range(300)], [], 0.5)


def known(count: int, start: int = 1) -> KnownProcesses:
    return KnownProcesses([[pid, start] for pid in range(count)])


@pytest.fixture
def wire():
    """The two ends of a connection; the buffer of the first one has a few kilobytes."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def received(theirs: socket.socket, *boxes: Outbox) -> list[Message]:
    """Read the connection to its end, and return all messages."""
    decoder, messages = Decoder(), []
    while True:
        for box in boxes:
            box.flush()
        try:
            messages += decoder.feed(theirs.recv(65536))
        except BlockingIOError:
            return messages


def test_a_partly_sent_message_is_completed_before_the_next(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for message in (known(1000), STOPPING, ENDED):
        box.send(message)
    assert not box.is_empty
    assert received(theirs, box) == [known(1000), STOPPING, ENDED]
    assert box.is_empty


def test_a_new_message_replaces_a_waiting_one_of_its_kind(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for start in range(1, 50):
        box.send(known(1000, start))
    assert received(theirs, box) == [known(1000, 1), known(1000, 49)]


def test_the_end_of_a_release_discards_the_known_processes(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for message in (known(1000, 1), known(1000, 2), STOPPING, ENDED):
        box.send(message)
    assert received(theirs, box) == [known(1000, 1), STOPPING, ENDED]


def test_known_processes_leave_room_in_the_buffer_for_the_end():
    """A kernel that was stopped reads the messages after the guards have ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        box = Outbox(ours)
        for start in range(1, 500):
            box.send(known(700, start))
        box.send(STOPPING)
        box.send(ENDED)
        assert box.is_empty
        messages = received(theirs)
    assert messages[0] == known(700, 1)
    assert messages[-2:] == [STOPPING, ENDED]


def test_a_kernel_that_reads_gets_each_list_of_processes(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for start in range(1, 5):
        box.send(known(10, start))
        assert received(theirs, box) == [known(10, start)]


def test_a_message_after_one_that_another_guard_cut_is_whole(wire):
    ours, theirs = wire
    ours.sendall(encode(known(5))[:-20])
    Outbox(ours, is_cut=True).send(ENDED._replace(ended=[]))
    assert received(theirs) == [ENDED._replace(ended=[])]


def test_messages_to_a_closed_connection_are_dropped(wire):
    ours, theirs = wire
    box = Outbox(ours)
    box.send(known(1000))
    theirs.close()
    box.send(STOPPING)
    assert box.is_empty
    ours.close()
    box.send(Refused(1, ""))
    assert box.is_empty
