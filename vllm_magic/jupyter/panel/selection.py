"""The server that a panel shows, and the data about it that is not in the trait ``view_state``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.jupyter.panel import chats, view_state
from vllm_magic.jupyter.panel.log_stream import LogStream
from vllm_magic.jupyter.panel.messages import FormFields
from vllm_magic.jupyter.panel.process_rows import ProcessRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.panel.chat import Chat
    from vllm_magic.jupyter.panel.chats import Chats
    from vllm_magic.jupyter.panel.messages import ViewChannel
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server


class Selection:
    """The chosen server. Only the controller's thread uses it.

    Args:
        manager: the manager of the kernel.
        channel: sends to the views.
        chats: the chats of the panel.
        fields_of: returns the form values that would start a server again.

    Attributes:
        name: the name of the chosen server; None until one is chosen, "" for the form of a new server.
        fields: the form values that would start the chosen server again.
    """

    def __init__(
        self, manager: Manager, channel: ViewChannel, chats: Chats, fields_of: Callable[[Server], FormFields]
    ) -> None:
        self.name: str | None = None
        self.fields = FormFields()
        self._manager = manager
        self._channel = channel
        self._chats = chats
        self._fields_of = fields_of
        self._log_stream: LogStream | None = None
        self._process_rows = ProcessRows()

    @property
    def server(self) -> Server | None:
        """The chosen server; None if there is none."""
        if not self.name:
            return None
        return self._manager.servers().get(self.name) or self._manager.past().get(self.name)

    def update(self) -> None:
        """Choose the latest server if none is chosen, and send the data of a newly chosen server."""
        if self.name is None:
            self.name = next(reversed(self._manager.servers()), None)
        if self.server is not (self._log_stream.server if self._log_stream else None):
            self.send()

    def send(self) -> None:
        """Send all data about the chosen server that ``view_state`` does not have."""
        server = self.server
        self._log_stream = LogStream(server) if server else None
        self.fields = self._fields_of(server) if server else FormFields()
        self._process_rows = ProcessRows()
        if server is None or self._log_stream is None:
            return
        self._channel.send({"kind": "curve", **view_state.curve(server)})
        self._channel.send(self._log_stream.whole())
        self.send_chat(self._chats.of(server.name))

    def send_more(self, *, processes: bool) -> None:
        """Send the new lines of the log and, if ``processes``, the processes if they have changed."""
        server, stream = self.server, self._log_stream
        lines = stream.more() if stream else None
        if lines:
            self._channel.send(lines)
        rows = self._process_rows.changed(server, self._manager.latest) if server and processes else None
        if rows:
            self._channel.send(rows)

    def send_chat(self, chat: Chat, first: int = 0) -> None:
        """Send the turns from index ``first`` on, if the chat is with the chosen server."""
        if chat.server is self.server:
            self._channel.send(chats.message(chat, first))
