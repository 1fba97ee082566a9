"""The sessions of one process, where each visitor of an app has a thread of it, as in ``marimo run``.

Measured with marimo 0.25: an app that is run has one process for all visitors. Each has a session, which runs the cells in
a thread of its own. The session ends ``--session-ttl`` seconds (120) after the page was closed, at the end of the cell that
runs then, and its thread with it. In the editor each notebook has a process, whose end the guards see.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

from vllm_magic.errors import VllmMagicError
from vllm_magic.server.server import run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.server.server import Server


def current() -> threading.Thread | None:
    """Return the thread of the session that calls this; None where the process has no sessions.

    Threads that a session has started are not known to belong to it.
    """
    marimo = sys.modules.get("marimo")
    if marimo is None or not marimo.running_in_notebook() or marimo.app_meta().mode != "run":
        return None
    thread = threading.current_thread()
    return None if isinstance(thread, marimo.Thread) else thread


class Sessions:
    """Releases a server when the last session that has started it has ended. Safe to use from any thread.

    Its lock comes before the lock of a lifecycle.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: dict[threading.Thread, set[Server]] = {}
        self._at_end: dict[threading.Thread, list[Callable[[], None]]] = {}

    def hold(self, server: Server, session: threading.Thread | None) -> None:
        """Note that this session uses the server; with None, or for a server that is to be kept, do nothing."""
        if session is not None and server.spec.keep is None:
            with self._lock:
                self._follow(session)
                self._held[session].add(server)

    def at_end(self, session: threading.Thread, callback: Callable[[], None]) -> None:
        """Call this, in a thread of its own, when the session has ended."""
        with self._lock:
            self._follow(session)
            self._at_end[session].append(callback)

    def _follow(self, session: threading.Thread) -> None:
        if session in self._held:
            return
        self._held[session], self._at_end[session] = set(), []
        threading.Thread(target=self._wait, args=(session,), name="vllm-magic session", daemon=True).start()

    def _wait(self, session: threading.Thread) -> None:
        session.join()
        with self._lock:
            callbacks = self._at_end.pop(session)
            servers = self._held.pop(session).difference(*self._held.values())
            # With the lock: a session that starts the same server now either holds it already, or sees that it stops.
            for server in servers:
                # If the system has no thread for the stop, the end of this process ends the server.
                with contextlib.suppress(VllmMagicError):
                    if not server.state.over:
                        run_of(server).begin_stop()
        for callback in callbacks:
            callback()
