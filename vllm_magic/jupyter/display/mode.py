"""Choose how an output that changes is shown.

A message ``update_display_data`` replaces an existing output. Notebooks and nbclient obey the message. jupyter console,
qtconsole, Spyder and ``execute_interactive`` of jupyter_client ignore it: they would keep showing the first state. The front
end is recognized by its request to run the cell:

- The messages of jupyter_client, on which every front end in Python is built, have ids of the form SESSION_PID_NUMBER
  (``Session.msg_id``). The ids of front ends in JavaScript are random.
- A program that runs cells while nobody watches (nbclient, and so papermill, nbconvert and Voilà) sends ``allow_stdin: false``.

For all other front ends, it is not known whether they obey updates: the user can set ``%config VllmMagics.display``.
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import InteractiveShell

AUTO = "auto"


class DisplayMode(str, Enum):
    """The way in which an output that changes is shown."""

    UPDATE = "update"  # one output, replaced by each later state
    APPEND = "append"  # text to which more text is added
    FINAL = "final"  # one output at the end
    TERMINAL = "terminal"  # text; a line of progress is overwritten


SETTINGS = (AUTO, DisplayMode.UPDATE.value, DisplayMode.APPEND.value)


def choose(shell: InteractiveShell, setting: str) -> DisplayMode:
    """Return the mode for the command that runs now.

    Args:
        shell: the shell in which the command runs.
        setting: a value of `SETTINGS`.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        appends = setting == DisplayMode.APPEND.value or not sys.stdout.isatty()
        return DisplayMode.APPEND if appends else DisplayMode.TERMINAL
    return for_request(kernel.get_parent("shell")) if setting == AUTO else DisplayMode(setting)


def for_request(request: Mapping[str, Any]) -> DisplayMode:
    """Return the mode for the front end that sent this request to run a cell."""
    header: Mapping[str, Any] = request.get("header", {})
    session, message = str(header.get("session", "")), str(header.get("msg_id", ""))
    if not session or not re.fullmatch(re.escape(session) + r"_\d+_\d+", message):
        return DisplayMode.UPDATE
    return DisplayMode.APPEND if request.get("content", {}).get("allow_stdin") else DisplayMode.FINAL
