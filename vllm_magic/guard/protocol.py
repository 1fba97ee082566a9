"""What the kernel and the guard pair say to each other: JSON, one message a line, over one socketpair.

The kernel speaks first::

    Order     what to run: argv, environment, working directory, and the private folder to clear at the end
    Note      remember which shared memory the server maps now (sent once, when the server is ready)
    Stop      end the server: SIGTERM, and SIGKILL after ``grace`` seconds, or after ``patience`` seconds
              if SIGTERM had no effect at all

The guards answer::

    Started   the leader runs; who is who
    Refused   the leader could not be executed (errno and its text); the guards end
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
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_LINE = 8 * 2**20  # bytes; an environment can be large, but not endless


class Why(str, Enum):
    """What made a guard release its server."""

    ASKED = "asked"
    LEADER_ENDED = "leader ended"
    KERNEL_GONE = "kernel gone"
    GUARD_GONE = "guard gone"
    GUARD_SIGNALLED = "guard signalled"


class How(str, Enum):
    """The last signal that a process got from us before it ended."""

    ITSELF = "by itself"
    SIGTERM = "SIGTERM"
    SIGKILL = "SIGKILL"


class Order(NamedTuple):
    """``tmp`` and ``folder`` are removed at the end, ``log`` is moved to ``keep_log`` before.

    ``locks`` are files to hold a shared flock on while the release is under way, one for each GPU.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    tmp: str
    folder: str
    log: str
    keep_log: str
    locks: list[str]


class Stop(NamedTuple):
    """Times in seconds."""

    grace: float
    patience: float


class Note(NamedTuple):
    """No content."""


class Started(NamedTuple):
    """Identities as [pid, start time in clock ticks]; the leader's pid is the session id too."""

    leader: list[int]
    outer: list[int]
    inner: list[int]


class Refused(NamedTuple):
    """The errno of execve(2) and its text."""

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


Message = Order | Stop | Note | Started | Refused | Stopping | Ended

_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Order, Stop, Note, Started, Refused, Stopping, Ended)
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    # JSON as Python reads it has NaN and Infinity, and whole numbers that no float can hold.
    return (_is_whole(value) or isinstance(value, float)) and 0 <= value <= sys.float_info.max


def _is_identity(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_id, value))  # noqa: PLR2004


def _is_id(value: Any) -> bool:
    return _is_whole(value) and 0 <= value < 2**63


def _are_ends(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and _is_identity(row[:2]) and _are_texts(row[2:]) and len(row) == 4  # noqa: PLR2004
        for row in value
    )


# What a field may hold; one name means the same in every message.
_FITS: dict[str, Callable[[Any], bool]] = {
    "argv": lambda value: _are_texts(value) and value != [],
    "env": _is_environment,
    "cwd": _is_text,
    "tmp": _is_text,
    "folder": _is_text,
    "log": _is_text,
    "keep_log": _is_text,
    "locks": _are_texts,
    "grace": _is_time,
    "patience": _is_time,
    "leader": _is_identity,
    "outer": _is_identity,
    "inner": _is_identity,
    "errno": _is_whole,
    "text": _is_text,
    "by": _is_text,
    "why": lambda value: value in list(Why),
    "exit_code": lambda value: value is None or _is_whole(value),
    "ended": _are_ends,
    "left": _are_ends,
    "seconds": _is_time,
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
    fits = all(_FITS[name](value) for name, value in known._asdict().items())
    return known if fits else None


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
