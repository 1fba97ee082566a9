"""What is said between the guard pair and whoever it serves: JSON, one message a line.

The kernel, over a socketpair, speaks first::

    Order     what to run: argv, environment, working directory, and the private folder to clear at the end; a second
              one, with the same folder, tells a spare what it becomes
    Note      the server is ready: remember which shared memory it maps now
    Stop      end the server: SIGTERM, and SIGKILL after ``grace`` seconds, or after ``patience`` seconds
              if SIGTERM had no effect at all

Others of the same user, over the control socket in the private folder::

    Stop      the same
    Attach    take the server over, where its kernel is gone and it was to be kept: from then on this is the kernel

The guards answer::

    StandbyReport  the leader is a standby, and waits for its order: not yet, or with everything imported
    Started   the leader runs; who is who
    KnownProcesses  the processes of the server, as they are now: those that the guards have adopted need not carry its mark
    Refused   the leader could not be executed (errno and its text), or a spare cannot become it, and the guards end; or
              the server cannot be attached
    Attached  it is yours; what its first kernel wanted the next one to know
    Stopping  a release has begun, and why
    Ended     what the guard ``by`` ended and how; ``left`` lists what would not end

A release comes to its end with end-of-file on the socket: no guard lives any more. With an ``Ended`` before it
whose ``left`` is empty the processes are gone. Without one the guards were killed, and whoever reads this has
to release the server himself. End-of-file at the guards' end means that the kernel is gone.

Every message is an object with its name under "message"; unknown messages and fields are ignored, so that a
guard and a kernel of neighbouring versions understand each other. So is a message with a field that does not fit.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.guard import validation

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_LINE = 8 * 2**20  # bytes; an environment can be large, but not endless


class Why(str, Enum):
    """What made a guard release its server.

    Two are said by the kernel alone: IDLE of a server that it asked the guard to end, and FAULT of one that it ended in
    the guards' place, since it could not follow the server any longer.
    """

    ASKED = "asked"
    IDLE = "idle"
    LEADER_ENDED = "leader ended"
    KERNEL_GONE = "kernel gone"
    GUARD_GONE = "guard gone"
    GUARD_SIGNALLED = "guard signalled"
    FAULT = "fault of vllm_magic"


class How(str, Enum):
    """The last signal that a process got from us before it ended."""

    ITSELF = "by itself"
    SIGTERM = "SIGTERM"
    SIGKILL = "SIGKILL"


class Order(NamedTuple):
    """``tmp`` and ``folder`` are removed at the end, ``log`` is moved to ``keep_log`` before.

    ``locks`` are files to hold a shared flock on while the release is under way, one for each GPU. ``record`` are
    the fields of the server's `record.Record`. For ``keep`` seconds after the kernel's end the server waits for
    another one; that gets ``luggage``, which the guards do not look into and keep in memory only. Where ``spare`` is
    not 0, the leader is a spare, which waits for so many seconds to be told what it becomes.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    tmp: str
    folder: str
    log: str
    keep_log: str
    locks: list[str]
    record: dict[str, Any]
    keep: float = 0.0
    luggage: dict[str, Any] = {}  # noqa: RUF012 - never changed
    spare: float = 0.0


class Stop(NamedTuple):
    """Times in seconds."""

    grace: float
    patience: float


class Note(NamedTuple):
    """No content."""


class Attach(NamedTuple):
    """``only``: refuse unless the luggage has this under "spec"; None takes the server as it is."""

    only: dict[str, Any] | None


class Attached(NamedTuple):
    """``luggage`` as it was in the order."""

    luggage: dict[str, Any]


class StandbyReport(NamedTuple):
    """``leader`` as in `Started`; ``warm`` once it has imported everything."""

    leader: list[int]
    warm: bool


class Started(NamedTuple):
    """Identities as [pid, start time in clock ticks]; the leader's pid is the session id too."""

    leader: list[int]
    outer: list[int]
    inner: list[int]


class KnownProcesses(NamedTuple):
    """``known`` are [pid, start] of each process below the guards."""

    known: list[list[int]]


class Refused(NamedTuple):
    """An errno and its text: of execve(2), or EBUSY for a server that has a kernel, ESTALE for another spec or a spare."""

    errno: int
    text: str


class Stopping(NamedTuple):
    """``why`` is a value of `Why`."""

    why: str


class Ended(NamedTuple):
    """``ended`` and ``left`` hold [pid, start, name, how]; ``exit_code`` is negative for a signal, None if unknown."""

    by: str
    why: str
    exit_code: int | None
    ended: list[list[Any]]
    left: list[list[Any]]
    seconds: float


Message = (
    Order
    | Stop
    | Note
    | Attach
    | Attached
    | StandbyReport
    | Started
    | KnownProcesses
    | Refused
    | Stopping
    | Ended
)

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Order,
        Stop,
        Note,
        Attach,
        Attached,
        StandbyReport,
        Started,
        KnownProcesses,
        Refused,
        Stopping,
        Ended,
    )
}


# What a field may hold; one name means the same in every message.
_FITS: dict[str, Callable[[Any], bool]] = {
    "argv": lambda value: validation.texts(value) and value != [],
    "env": validation.environment,
    "cwd": validation.text,
    "tmp": validation.text,
    "folder": validation.text,
    "log": validation.text,
    "keep_log": validation.text,
    "locks": validation.texts,
    "record": validation.fields,
    "keep": validation.seconds,
    "luggage": validation.fields,
    "spare": validation.seconds,
    "warm": lambda value: isinstance(value, bool),
    "only": lambda value: value is None or validation.fields(value),
    "grace": validation.seconds,
    "patience": validation.seconds,
    "leader": validation.pair,
    "outer": validation.pair,
    "inner": validation.pair,
    "known": validation.pairs,
    "errno": validation.whole,
    "text": validation.text,
    "by": validation.text,
    "why": lambda value: value in list(Why),
    "exit_code": lambda value: value is None or validation.whole(value),
    "ended": validation.ends,
    "left": validation.ends,
    "seconds": validation.seconds,
}


def encode(message: Message) -> bytes:
    """One line, with its newline."""
    fields = {"message": type(message).__name__, **message._asdict()}
    return json.dumps(fields).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """The message of one line; None when it is not one that this version knows."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("message")]
        known: Message = kind(**{name: value for name, value in fields.items() if name in kind._fields})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    right = all(_FITS[name](value) for name, value in known._asdict().items())
    return known if right else None


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages completed by ``data``; a line of more than `LONGEST_LINE` bytes is dropped as a whole."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: LONGEST_LINE + 1]  # one byte too many: its end must not pass for a line
        decoded = (decode(line) for line in lines if len(line) <= LONGEST_LINE)
        return [message for message in decoded if message is not None]
