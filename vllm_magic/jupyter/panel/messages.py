"""The messages between the views of the panel and the kernel.

From a view to the kernel: requests, each with the id of the view as ``view``::

    {"kind": "hello"}                                the view was opened, or needs all data again
    {"kind": "heartbeat", "tab": "log"}              the view is still open, and shows this tab
    {"kind": "bye"}                                  the view was closed
    {"kind": "choose", "name": NAME}                 show this server; "" shows the form for a new server
    {"kind": "remove", "name": NAME}                 remove this server, which has ended, from the list
    {"kind": "form", "fields": {model, flags, gpus}} the values of the form have changed
    {"kind": "start", "fields": {model, flags, gpus}}
    {"kind": "stop", "name": NAME}                   stop the server, or cancel its start
    {"kind": "prompt", "name": NAME, "text": TEXT}   begin a turn of the chat
    {"kind": "abort", "name": NAME}                  abort the answer that is under way
    {"kind": "new_chat", "name": NAME}               begin a new chat
    {"kind": "doctor"}                               examine the machine
    {"kind": "reap", "pids": [PID, ...]}             end these processes; [] releases what dead kernels left

From the kernel to the views: the trait ``view_state``, which holds all that the views draw, and is replaced as a whole when
a part of it changes; and messages with data that grows::

    {"kind": "tick", ...}        about once a second: the kernel lives; a point for each curve
    {"kind": "curve", ...}       the curve of the chosen server so far
    {"kind": "log", ...}         lines of the chosen server's log
    {"kind": "processes", ...}   the processes of the chosen server, while a view shows them
    {"kind": "chat", ...}        turns of the chat with the chosen server, with the text so far
    {"kind": "doctor", ...}      the report of the doctor
    {"kind": "received", "request": KIND}  the kernel has received a request of this kind
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_TEXT = 100_000  # characters of a text from a view; the rest is cut off


class RequestKind(str, Enum):
    """The kind of a request."""

    HELLO = "hello"
    HEARTBEAT = "heartbeat"
    BYE = "bye"
    CHOOSE = "choose"
    REMOVE = "remove"
    FORM = "form"
    START = "start"
    STOP = "stop"
    PROMPT = "prompt"
    ABORT = "abort"
    NEW_CHAT = "new_chat"
    DOCTOR = "doctor"
    REAP = "reap"


class ViewChannel(Protocol):
    """Sends to all views of the panel."""

    def set_view_state(self, state: dict[str, Any]) -> None:
        """Replace the trait ``view_state``."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""


@dataclass(frozen=True)
class FormFields:
    """The values of the form's fields; "" for an empty field."""

    model: str = ""
    flags: str = ""
    gpus: str = ""


@dataclass(frozen=True)
class Request:
    """A request of a view. Fields that its kind does not use are empty.

    Attributes:
        kind: the kind of the request.
        view: the id of the view.
        name: the name of a server.
        text: the text of a turn of the chat.
        tab: the tab that the view shows.
        fields: the values of the form.
        pids: the pids of processes to reap.
        concurrent: whether the request was received in a thread that runs no cells, so that it does not wait for the end of
            a cell.
    """

    kind: RequestKind
    view: str = ""
    name: str = ""
    text: str = ""
    tab: str = ""
    fields: FormFields = FormFields()
    pids: tuple[int, ...] = ()
    concurrent: bool = False


def read(content: Any, *, concurrent: bool) -> Request | None:
    """Return the request that a view sent; None if the content is not a valid request."""
    if not isinstance(content, dict):
        return None
    try:
        kind = RequestKind(content.get("kind"))
    except ValueError:
        return None
    fields = content.get("fields")
    pids = content.get("pids")
    return Request(
        kind=kind,
        view=_text(content, "view"),
        name=_text(content, "name"),
        text=_text(content, "text"),
        tab=_text(content, "tab"),
        fields=_fields(fields) if isinstance(fields, dict) else FormFields(),
        pids=tuple(pid for pid in pids if isinstance(pid, int)) if isinstance(pids, list) else (),
        concurrent=concurrent,
    )


def _fields(fields: Mapping[str, Any]) -> FormFields:
    return FormFields(
        _text(fields, "model").strip(), _text(fields, "flags").strip(), _text(fields, "gpus").strip()
    )


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""
