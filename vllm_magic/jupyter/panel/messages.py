"""What a view of the panel says to the kernel, and what the kernel says to the views.

To the kernel, each with the ``view``'s own id::

    {"ask": "hello"}                                a view was opened, or wants to know everything again
    {"ask": "here", "tab": "log"}                   it is still there, and shows this tab
    {"ask": "bye"}                                  it was closed
    {"ask": "choose", "name": NAME}                 show this server; "" for the form of a new one
    {"ask": "clear", "name": NAME}                  take it, which is over, from the list
    {"ask": "form", "words": {model, flags, gpus}}  the form was changed
    {"ask": "start", "words": {model, flags, gpus}}
    {"ask": "stop", "name": NAME}                   a start that is under way is cancelled so, too
    {"ask": "say", "name": NAME, "text": TEXT}      a turn of the chat
    {"ask": "hush", "name": NAME}                   stop generating
    {"ask": "forget", "name": NAME}                 begin the chat anew
    {"ask": "doctor"}
    {"ask": "reap", "pids": [PID, ...]}             [] releases what dead kernels left

To the views: the trait ``picture``, replaced as a whole when something in it has changed, and messages for what grows::

    {"kind": "tick", ...}       once a second: it says that the kernel lives; a point for each curve
    {"kind": "curve", ...}      the curve of the chosen server so far
    {"kind": "log", ...}        lines of the chosen server's log
    {"kind": "processes", ...}  of the chosen server, while somebody looks at them
    {"kind": "chat", ...}       a turn of the chat with the chosen server, or more of it
    {"kind": "doctor", ...}     what the doctor found
    {"kind": "got", "ask": ...} a request has arrived
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 100_000  # characters of a text that a view sends


class Ask(str, Enum):
    """What a view wants."""

    HELLO = "hello"
    HERE = "here"
    BYE = "bye"
    CHOOSE = "choose"
    CLEAR = "clear"
    FORM = "form"
    START = "start"
    STOP = "stop"
    SAY = "say"
    HUSH = "hush"
    FORGET = "forget"
    DOCTOR = "doctor"
    REAP = "reap"


class Front(Protocol):
    """The views, as the kernel's side sees them."""

    def show(self, drawn: dict[str, Any]) -> None:
        """Replace the picture."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to all views."""


@dataclass(frozen=True)
class Words:
    """What stands in the form; "" where nothing does."""

    model: str = ""
    flags: str = ""
    gpus: str = ""


@dataclass(frozen=True)
class Message:
    """One request; fields that it has no use for are empty.

    Attributes:
        ask: what is wanted.
        view: who wants it.
        name: of a server.
        text: of a turn of the chat.
        tab: that the view shows.
        words: of the form.
        pids: of processes to reap.
        beside: whether it came on another thread than the one that runs cells: then it does not wait for a cell.
    """

    ask: Ask
    view: str = ""
    name: str = ""
    text: str = ""
    tab: str = ""
    words: Words = Words()
    pids: tuple[int, ...] = ()
    beside: bool = False


def read(content: Any, *, beside: bool) -> Message | None:
    """A message from what a view sent; None for anything else."""
    if not isinstance(content, dict):
        return None
    try:
        ask = Ask(content.get("ask"))
    except ValueError:
        return None
    words = content.get("words")
    pids = content.get("pids")
    return Message(
        ask=ask,
        view=_text(content, "view"),
        name=_text(content, "name"),
        text=_text(content, "text"),
        tab=_text(content, "tab"),
        words=_words(words) if isinstance(words, dict) else Words(),
        pids=tuple(pid for pid in pids if isinstance(pid, int)) if isinstance(pids, list) else (),
        beside=beside,
    )


def _words(words: Mapping[str, Any]) -> Words:
    return Words(_text(words, "model").strip(), _text(words, "flags").strip(), _text(words, "gpus").strip())


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return value[:LONGEST] if isinstance(value, str) else ""
