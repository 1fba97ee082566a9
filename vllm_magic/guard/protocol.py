"""The messages between the guard pair and the server's kernel or other processes: JSON, one message a line.

The kernel sends these over a socketpair, beginning with `LaunchRequest`::

    LaunchRequest   start a server: argv, environment, working directory, and the private folder to clear at the end. A
                    second request, with the same folder, turns a standby into a server
    ServerReady     the server is ready: record the shared memory that it maps now
    Stop            end the server: SIGTERM, and SIGKILL after ``grace`` seconds, or after ``patience`` seconds if
                    SIGTERM has no effect at all. During a release, these times begin when the message arrives, and they
                    count only if the release would take longer without them

Other processes of this user send these over the control socket in the private folder::

    Stop            the same
    Attach          make the sender the server's kernel, if the server is kept after the end of its kernel

The guards send these::

    StandbyReport   the leader is a standby, and waits for a launch request
    Started         the leader runs; the identities of the leader and the guards
    KnownProcesses  the living processes of the server; those that the guards have adopted may have lost its mark
    Refused         the leader could not be executed, or a standby could not become the server, and the guards end; or
                    the server cannot be attached
    Attached        the sender is the server's kernel now; the data that the first kernel left for it
    Stopping        a release has begun
    Ended           the processes that a guard ended, and those that did not end

A release is done at end-of-file on the socket: no guard lives any more. If an `Ended` with an empty ``left`` came before
it, all processes of the server have ended. Without an `Ended` the guards were killed, and the reader must release the
server itself. For the guards, end-of-file means that the kernel is gone.

Each message is a JSON object with its name in the field "message". Unknown messages and fields are ignored, so that a guard
and a kernel of different versions understand each other. A message with an invalid field is ignored too.
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
    """The reason for a release.

    Guards never send FAULT: the kernel reports it for a server that the kernel itself had to end after a fault. For a
    server without requests, IDLE is reported by the kernel; guards send it only for a standby that was not used.
    """

    ASKED = "asked"
    IDLE = "idle"
    LEADER_ENDED = "leader ended"
    KERNEL_GONE = "kernel gone"
    GUARD_GONE = "guard gone"
    GUARD_SIGNALLED = "guard signalled"
    FAULT = "fault of vllm_magic"


class How(str, Enum):
    """The last signal that vllm_magic sent to a process before the process ended."""

    ITSELF = "by itself"
    SIGTERM = "SIGTERM"
    SIGKILL = "SIGKILL"


class LaunchRequest(NamedTuple):
    """The server, or standby, that the guards run.

    Attributes:
        argv: the command line of the leader.
        env: the environment of the leader.
        cwd: the working directory of the leader.
        tmp: the server's TMPDIR, which is removed at the end.
        folder: the private folder, which is removed at the end.
        log: the path of the log.
        keep_log: the path to which the log is moved at the end.
        locks: the lock file of each GPU; a release holds a shared flock on them.
        record: the fields of the server's `record.Record`.
        keep: seconds for which the server waits for another kernel after the end of its kernel.
        handover: data for that kernel. The guards do not read it, and keep it in memory only.
        standby_limit: seconds for which the leader waits, as a standby, for another request; 0 for a server.
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
    handover: dict[str, Any] = {}  # noqa: RUF012 - never changed
    standby_limit: float = 0.0


class Stop(NamedTuple):
    """See `Ladder.run`: ``grace`` is the time from SIGTERM to SIGKILL, ``patience`` the same without any effect; in seconds."""

    grace: float
    patience: float


class ServerReady(NamedTuple):
    """The server is ready. This message has no fields."""


class Attach(NamedTuple):
    """``expected_spec`` is compared with the entry "spec" of `LaunchRequest.handover`; None accepts any spec."""

    expected_spec: dict[str, Any] | None


class Attached(NamedTuple):
    """``handover`` is that of the launch request."""

    handover: dict[str, Any]


class StandbyReport(NamedTuple):
    """``leader`` is that of `Started`; ``warm`` is true after the standby has imported vLLM."""

    leader: list[int]
    warm: bool


class Started(NamedTuple):
    """Identities as [pid, start time in clock ticks]; the leader's pid is the session id too."""

    leader: list[int]
    outer: list[int]
    inner: list[int]


class KnownProcesses(NamedTuple):
    """``known`` has [pid, start] of each process below the guards."""

    known: list[list[int]]


class Refused(NamedTuple):
    """The reason of a refusal.

    Attributes:
        errno: the errno of execve(2); EBUSY for a server whose kernel lives; ESTALE for another spec, and for a standby that
            cannot become the server; ETIMEDOUT for a standby that does not react; EAGAIN if the outer guard does not.
        text: the reason in words.
    """

    errno: int
    text: str


class Stopping(NamedTuple):
    """``why`` is a value of `Why`; ``grace`` is that of the `Stop` that was received, 0.0 without a `Stop`."""

    why: str
    grace: float = 0.0


class Ended(NamedTuple):
    """The report of a guard after a release.

    Attributes:
        by: the guard, "inner" or "outer".
        why: a value of `Why`.
        exit_code: the exit code of the leader; negative for a signal, None if unknown.
        ended: [pid, start, name, how] of each process that has ended; ``how`` is a value of `How`.
        left: the same of each process that has not ended.
        seconds: the time that the release took.
    """

    by: str
    why: str
    exit_code: int | None
    ended: list[list[Any]]
    left: list[list[Any]]
    seconds: float


Message = (
    LaunchRequest
    | Stop
    | ServerReady
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
        LaunchRequest,
        Stop,
        ServerReady,
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


# The check of each field, by its name. A name means the same in every message.
_CHECKS: dict[str, Callable[[Any], bool]] = {
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
    "handover": validation.fields,
    "standby_limit": validation.seconds,
    "warm": lambda value: isinstance(value, bool),
    "expected_spec": lambda value: value is None or validation.fields(value),
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
    "ended": validation.ended_processes,
    "left": validation.ended_processes,
    "seconds": validation.seconds,
}


def encode(message: Message) -> bytes:
    """Return the message as one line, with its newline."""
    fields = {"message": type(message).__name__, **message._asdict()}
    return json.dumps(fields).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """Return the message of a line; None if it is unknown or invalid."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("message")]
        known: Message = kind(**{name: value for name, value in fields.items() if name in kind._fields})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    valid = all(_CHECKS[name](value) for name, value in known._asdict().items())
    return known if valid else None


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that ``data`` completes. A line of more than `LONGEST_LINE` bytes is ignored."""
        *lines, rest = (self._rest + data).split(b"\n")
        # One byte more than allowed is kept, so that the line is ignored once its end arrives.
        self._rest = rest[: LONGEST_LINE + 1]
        decoded = (decode(line) for line in lines if len(line) <= LONGEST_LINE)
        return [message for message in decoded if message is not None]
