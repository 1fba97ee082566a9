"""What a guard says to somebody who does not read, or reads late."""

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
    """The two ends of a connection; the first one takes a few kilobytes that nobody has read."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def heard(theirs: socket.socket, *boxes: Outbox) -> list[Message]:
    """All that comes over the connection, by and by."""
    decoder, messages = Decoder(), []
    while True:
        for box in boxes:
            box.flush()
        try:
            messages += decoder.feed(theirs.recv(65536))
        except BlockingIOError:
            return messages


def test_a_line_that_was_begun_is_finished_before_the_next(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for message in (known(1000), STOPPING, ENDED):
        box.say(message)
    assert not box.is_empty
    assert heard(theirs, box) == [known(1000), STOPPING, ENDED]
    assert box.is_empty


def test_the_newest_of_a_kind_takes_the_place_of_one_that_waits(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for start in range(1, 50):
        box.say(known(1000, start))
    assert heard(theirs, box) == [known(1000, 1), known(1000, 49)]


def test_nobody_has_to_be_found_after_the_end(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for message in (known(1000, 1), known(1000, 2), STOPPING, ENDED):
        box.say(message)
    assert heard(theirs, box) == [known(1000, 1), STOPPING, ENDED]


def test_who_is_known_leaves_room_for_how_it_ends():
    """The guards are gone, and the kernel, which was stopped all the time, finds everything in the socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        box = Outbox(ours)
        for start in range(1, 500):
            box.say(known(700, start))
        box.say(STOPPING)
        box.say(ENDED)
        assert box.is_empty
        messages = heard(theirs)
    assert messages[0] == known(700, 1)
    assert messages[-2:] == [STOPPING, ENDED]


def test_a_kernel_that_reads_hears_of_everybody_in_time(wire):
    ours, theirs = wire
    box = Outbox(ours)
    for start in range(1, 5):
        box.say(known(10, start))
        assert heard(theirs, box) == [known(10, start)]


def test_what_another_guard_had_begun_is_not_glued_to_it(wire):
    ours, theirs = wire
    ours.sendall(encode(known(5))[:-20])
    Outbox(ours, is_cut=True).say(ENDED._replace(ended=[]))
    assert heard(theirs) == [ENDED._replace(ended=[])]


def test_nobody_is_there_any_more(wire):
    ours, theirs = wire
    box = Outbox(ours)
    box.say(known(1000))
    theirs.close()
    box.say(STOPPING)
    assert box.is_empty
    ours.close()
    box.say(Refused(1, ""))
    assert box.is_empty
