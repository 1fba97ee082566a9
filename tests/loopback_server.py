"""An HTTP server on the loopback address, in threads of this process, whose answers a test can hold back."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class LoopbackServer:
    """Answers with a handler until it is closed.

    Args:
        handler: the class of the handler; its attribute ``served`` is this object.

    Attributes:
        address: ``127.0.0.1:PORT``.
        gate: an event for which handlers may wait; it is set at first.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.gate = threading.Event()
        self.gate.set()
        own = type("Handler", (handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), own)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering."""
        self.gate.set()
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
