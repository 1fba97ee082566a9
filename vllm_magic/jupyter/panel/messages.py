"""The messages between the views of the panel and the kernel.

From a view to the kernel, each with the id of the view as ``view``::

    {"ask": "hello"}                                the view was opened, or needs all data again
    {"ask": "here", "tab": "log"}                   the view is still open, and shows this tab
    {"ask": "bye"}                                  the view was closed
    {"ask": "choose", "name": NAME}                 show this server; "" shows the form for a new server
    {"ask": "clear", "name": NAME}                  remove this server, which has ended, from the list
    {"ask": "form", "fields": {model, flags, gpus}}  the values of the form have changed
    {"ask": "start", "fields": {model, flags, gpus}}
    {"ask": "stop", "name": NAME}                   stop the server, or cancel its start
    {"ask": "say", "name": NAME, "text": TEXT}      begin a turn of the chat
    {"ask": "abort", "name": NAME}                   stop generating
    {"ask": "forget", "name": NAME}                 begin a new chat
    {"ask": "doctor"}
    {"ask": "reap", "pids": [PID, ...]}             end these processes; [] releases what dead kernels left

From the kernel to the views: the trait ``picture``, which holds what the views draw and is replaced as a whole when
something in it changes, and messages for data that grows::

    {"kind": "tick", ...}       about once a second: the kernel lives; a point for each curve
    {"kind": "curve", ...}      the curve of the chosen server so far
    {"kind": "log", ...}        lines of the chosen server's log
    {"kind": "processes", ...}  the processes of the chosen server, while a view shows them
    {"kind": "chat", ...}       turns of the chat with the chosen server, as far as they have come
    {"kind": "doctor", ...}     the doctor's report
    {"kind": "got", "ask": ...} the kernel has received a request
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 100_000  # characters that are kept of a text from a view


class RequestKind(str, Enum):
    """The kind of a request."""

    HELLO = "hello"
    HERE = "here"
    BYE = "bye"
    CHOOSE = "choose"
    CLEAR = "clear"
    FORM = "form"
    START = "start"
    STOP = "stop"
    SAY = "say"
    ABORT = "abort"
    FORGET = "forget"
    DOCTOR = "doctor"
    REAP = "reap"


class Front(Protocol):
    """The views, as the kernel's side uses them."""

    def show(self, drawn: dict[str, Any]) -> None:
        """Replace the trait ``picture``."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to all views."""


@dataclass(frozen=True)
class FormFields:
    """The values of the form's fields; "" for an empty field."""

    model: str = ""
    flags: str = ""
    gpus: str = ""


@dataclass(frozen=True)
class Message:
    """One request of a view; the fields that this kind of request does not use are empty.

    Attributes:
        ask: the kind of the request.
        view: the id of the view.
        name: the name of a server.
        text: the text of a turn of the chat.
        tab: the tab that the view shows.
        fields: the values of the form.
        pids: the pids of processes to reap.
        beside: whether the request came on another thread than the one that runs cells, so it does not wait for a cell.
    """

    ask: RequestKind
    view: str = ""
    name: str = ""
    text: str = ""
    tab: str = ""
    fields: FormFields = FormFields()
    pids: tuple[int, ...] = ()
    beside: bool = False


def read(content: Any, *, beside: bool) -> Message | None:
    """Return the request that a view sent; None where the content is not a valid request."""
    if not isinstance(content, dict):
        return None
    try:
        ask = RequestKind(content.get("ask"))
    except ValueError:
        return None
    fields = content.get("fields")
    pids = content.get("pids")
    return Message(
        ask=ask,
        view=_text(content, "view"),
        name=_text(content, "name"),
        text=_text(content, "text"),
        tab=_text(content, "tab"),
        fields=_fields(fields) if isinstance(fields, dict) else FormFields(),
        pids=tuple(pid for pid in pids if isinstance(pid, int)) if isinstance(pids, list) else (),
        beside=beside,
    )


def _fields(fields: Mapping[str, Any]) -> FormFields:
    return FormFields(
        _text(fields, "model").strip(), _text(fields, "flags").strip(), _text(fields, "gpus").strip()
    )


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return value[:LONGEST] if isinstance(value, str) else ""
