"""The server that a panel shows, and what of it goes to the views besides the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.jupyter.panel import chats, snapshot
from vllm_magic.jupyter.panel.log_stream import LogStream
from vllm_magic.jupyter.panel.messages import Words
from vllm_magic.jupyter.panel.process_rows import ProcessRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.panel.chat import Chat
    from vllm_magic.jupyter.panel.chats import Chats
    from vllm_magic.jupyter.panel.messages import Front
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server


class Selection:
    """For one thread.

    Args:
        manager: the kernel's.
        front: where to send to.
        chats: of the panel.
        said: gives the words that would start a server once more.

    Attributes:
        name: None until somebody chooses, "" for the form of a new one.
        said: the words that would start it once more.
    """

    def __init__(self, manager: Manager, front: Front, chats: Chats, said: Callable[[Server], Words]) -> None:
        self.name: str | None = None
        self.said = Words()
        self._manager = manager
        self._front = front
        self._chats = chats
        self._words_of = said
        self._log_stream: LogStream | None = None
        self._rows = ProcessRows()

    @property
    def server(self) -> Server | None:
        """Itself; None while there is none."""
        if not self.name:
            return None
        return self._manager.servers().get(self.name) or self._manager.past().get(self.name)

    def follow(self) -> None:
        """Choose what there is where nobody has chosen, and send what has taken the place of the one that was shown."""
        if self.name is None:
            self.name = next(reversed(self._manager.servers()), None)
        if self.server is not (self._log_stream.server if self._log_stream else None):
            self.send()

    def send(self) -> None:
        """Send all that the picture does not have."""
        server = self.server
        self._log_stream = LogStream(server) if server else None
        self.said = self._words_of(server) if server else Words()
        self._rows = ProcessRows()
        if server is None or self._log_stream is None:
            return
        self._front.send({"kind": "curve", **snapshot.curve(server)})
        self._front.send(self._log_stream.whole())
        self.send_chat(self._chats.of(server.name))

    def send_more(self, *, processes: bool) -> None:
        """Send what has come since: of the log, and if somebody looks at them of the processes."""
        lines = self._log_stream.more() if self._log_stream else None
        if lines:
            self._front.send(lines)
        server = self.server
        rows = self._rows.more(server, self._manager.latest) if server and processes else None
        if rows:
            self._front.send(rows)

    def send_chat(self, chat: Chat, at: int = 0) -> None:
        """Send the turns from this one on, if the chat is with it."""
        if chat.server is self.server:
            self._front.send(chats.message(chat, at))
