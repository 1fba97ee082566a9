"""The controller: the one thread of a panel. It owns the state of the panel, and only it sends to the front end.

Requests of the views arrive in the threads in which the kernel receives messages, update requests come from the thread of
the sampler, and background work runs in threads of its own. All these threads only put functions into the queue of the
controller, so the controller needs no lock. While no view is open, the thread waits for a request and does nothing else.
"""

from __future__ import annotations

import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from vllm_magic.jupyter.panel import background_work, form, view_state
from vllm_magic.jupyter.panel.background_work import WorkResult
from vllm_magic.jupyter.panel.chats import Chats
from vllm_magic.jupyter.panel.form_state import FormState
from vllm_magic.jupyter.panel.messages import Request, RequestKind
from vllm_magic.jupyter.panel.open_views import OpenViews
from vllm_magic.jupyter.panel.selection import Selection
from vllm_magic.jupyter.panel.server_list import ServerList
from vllm_magic.lifecycle import faults
from vllm_magic.server.server import ServerState, run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.panel.background_work import Work
    from vllm_magic.jupyter.panel.chat import Chat
    from vllm_magic.jupyter.panel.messages import FormFields, ViewChannel
    from vllm_magic.manager.manager import Manager

UPDATE_INTERVAL = (
    1.5  # seconds between two updates of the views, unless the sampler requests an earlier update
)
PROCESSES = "processes"  # the name of a tab; processes are read only while a view shows this tab


class Controller:
    """Runs the thread of the panel until `close`.

    Args:
        manager: the manager of the kernel.
        channel: sends to the views; only the controller's thread uses it.
        work: the background work.
        is_busy: returns whether a cell runs now.
    """

    def __init__(
        self, manager: Manager, channel: ViewChannel, work: Work, is_busy: Callable[[], bool]
    ) -> None:
        self._manager = manager
        self._channel = channel
        self._work = work
        self._is_busy = is_busy
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._update_queued = False
        # Only the controller's thread uses the attributes below.
        self._open_views = OpenViews()
        self._unwatch: Callable[[], None] | None = None
        self._next_update = 0.0  # by `time.monotonic`
        self._form_state = FormState()
        self._notice: dict[str, str] | None = None
        self._under_way: set[RequestKind] = set()  # the requests whose background work is under way
        self._chats = Chats(manager, self._queue_turn)
        self._selection = Selection(manager, channel, self._chats, work.fields_of)
        self._server_list = ServerList(manager)
        self._sent_state: dict[str, Any] = {}
        self._suggestions: list[str] = []
        self._thread = threading.Thread(target=self._run, name="vllm-magic panel", daemon=True)
        self._thread.start()

    def post(self, request: Request) -> None:
        """Queue a request of a view. Any thread may call this; it returns at once."""
        self._queue.put(partial(self._handle, request))

    def close(self) -> None:
        """End the thread, and wait for its end, at most `UPDATE_INTERVAL` seconds."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(UPDATE_INTERVAL)

    def _run(self) -> None:
        while True:
            timeout = max(0.0, self._next_update - time.monotonic()) if self._open_views else None
            try:
                action = self._queue.get(timeout=timeout)
            except queue.Empty:
                action = self._update
            if action is None:
                break
            self._run_safely(action)
        self._chats.abort_all()
        self._open_views.clear()
        self._watch_if_open()

    def _run_safely(self, action: Callable[[], None]) -> None:
        """Run the action. If it raises an exception, show that as a notice: the thread must go on."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a panel without its thread would go on showing old values
            self._notify(faults.text(error), wrong=True)

    def _handle(self, request: Request) -> None:
        self._open_views.note(request)
        self._watch_if_open()
        if request.kind is RequestKind.HEARTBEAT:
            return
        self._channel.send({"kind": "received", "request": request.kind.value})
        actions: dict[RequestKind, Callable[[Request], None]] = {
            RequestKind.HELLO: self._send_all,
            RequestKind.BYE: lambda _: None,
            RequestKind.CHOOSE: lambda request: self._choose(request.name),
            RequestKind.REMOVE: self._remove,
            RequestKind.FORM: self._edit_form,
            RequestKind.START: self._start,
            RequestKind.STOP: self._stop,
            RequestKind.PROMPT: self._send_prompt,
            RequestKind.ABORT: lambda request: self._chats.of(request.name).abort(),
            RequestKind.NEW_CHAT: lambda request: self._selection.send_chat(self._chats.renew(request.name)),
            RequestKind.DOCTOR: lambda _: self._begin_work(RequestKind.DOCTOR, self._work.doctor),
            RequestKind.REAP: lambda request: self._begin_work(
                RequestKind.REAP, partial(self._work.reap, request.pids)
            ),
        }
        self._run_safely(partial(actions[request.kind], request))
        self._update()

    # The open views, and their updates.

    def _send_all(self, _: Request) -> None:
        self._suggestions = form.suggestions()
        self._selection.send()

    def _watch_if_open(self) -> None:
        """Subscribe to the update requests of the sampler while a view is open; else unsubscribe."""
        if self._open_views and self._unwatch is None:
            self._unwatch = self._manager.watch(self._request_update)
        elif not self._open_views and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _request_update(self) -> None:
        """Queue an update, unless one is queued already. Any thread may call this."""
        if not self._update_queued:
            self._update_queued = True
            self._queue.put(self._update)

    def _update(self) -> None:
        """Bring the open views up to date."""
        self._update_queued = False
        self._next_update = time.monotonic() + UPDATE_INTERVAL
        if not self._is_busy():  # while a cell runs, the requests of open views may have to wait
            self._open_views.expire()
            self._watch_if_open()
        if not self._open_views:
            return
        self._follow_selection()
        self._assess_again()
        self._send_state()
        self._send_tick()
        self._selection.send_more(processes=self._open_views.any_shows(PROCESSES))

    def _send_state(self) -> None:
        state = self._view_state()
        if state != self._sent_state:
            self._sent_state = state
            self._channel.set_view_state(state)

    def _view_state(self) -> dict[str, Any]:
        listed, server = self._server_list.servers(), self._selection.server
        # The status of each server is read once, so that all parts of the panel show the same moment.
        status = {shown: shown.status for shown in (*listed, *([server] if server else []))}
        chosen = status[server] if server else None
        claims = {} if chosen and not chosen.state.over else self._form_state.claims
        owners = self._manager.attribution
        return {
            "servers": [view_state.list_entry(status[listed_server]) for listed_server in listed],
            "chosen": view_state.server(chosen, form.masked(self._selection.fields)) if chosen else None,
            "gpus": view_state.gpus(self._manager.latest, owners, self._selection.name or "", claims),
            "form": self._form_state.view_state(self._suggestions),
            "notice": self._notice,
            "spare": view_state.spare(self._manager.spares.status()),
            "under_way": sorted(kind.value for kind in self._under_way),
            "concurrent": self._open_views.concurrent,
        }

    def _send_tick(self) -> None:
        servers = list(self._manager.servers().values())
        chosen = self._selection.server
        if chosen and chosen not in servers:
            servers.append(chosen)
        statuses = [server.status for server in servers]
        starting = [
            view_state.progress(status) for status in statuses if status.state is ServerState.STARTING
        ]
        self._channel.send(
            {
                "kind": "tick",
                "now": round(time.time(), 2),
                "busy": self._is_busy(),
                "starting": starting,
                "points": view_state.points(servers),
            }
        )

    # The chosen server.

    def _choose(self, name: str) -> None:
        self._selection.name = name
        self._notice = None
        self._form_state.clear()
        self._selection.send()

    def _remove(self, request: Request) -> None:
        self._server_list.remove(self._manager.get_even_past(request.name))
        if request.name == self._selection.name:
            self._choose("")

    def _follow_selection(self) -> None:
        self._selection.update()
        server = self._selection.server
        if server is not None and server.state.over and not self._form_state.fields.model:
            self._assess(self._selection.fields)  # the user may start it again, perhaps with other flags
        if server is not None and server.error is not None:
            run_of(server).unreported_failure()  # the panel shows the error, so no cell has to report it

    # The requests of the views.

    def _edit_form(self, request: Request) -> None:
        self._notice = None
        self._assess(self._form_state.write(request))

    def _assess(self, fields: FormFields) -> None:
        now = self._manager.latest
        self._form_state.begin_assessment(fields, now)
        self._begin_work(None, partial(self._work.assess, fields, now))

    def _assess_again(self) -> None:
        """Assess the form again if the free memory has changed, and the form does not show a running server."""
        server = self._selection.server
        if (server is None or server.state.over) and self._form_state.is_outdated(self._manager.latest):
            self._assess(self._form_state.fields)

    def _start(self, request: Request) -> None:
        self._begin_work(RequestKind.START, partial(self._work.start, self._form_state.write(request)))

    def _stop(self, request: Request) -> None:
        self._notice = None
        server = self._manager.get(request.name)
        self._chats.abort(server)  # an answer that the stop cuts off would look like an error
        run_of(server).begin_stop(self._work.grace())

    def _send_prompt(self, request: Request) -> None:
        chat = self._chats.of(request.name)
        chat.send(request.text)
        self._selection.send_chat(chat)

    def _queue_turn(self, chat: Chat) -> None:
        """Queue the sending of the last turn. Called in the thread of the turn."""
        self._queue.put(partial(self._send_turn, chat))

    def _send_turn(self, chat: Chat) -> None:
        if chat.turns and self._chats.is_current(chat):
            self._selection.send_chat(chat, first=len(chat.turns) - 1)

    def _notify(self, text: str, *, wrong: bool = False) -> None:
        self._notice = {"text": text, "kind": "wrong" if wrong else "info"}

    def _begin_work(self, kind: RequestKind | None, work: Callable[[], WorkResult]) -> None:
        """Run the work in a thread of its own, unless work for a request of this kind is under way.

        Args:
            kind: the kind of the request; None for an assessment of the form.
            work: the work.
        """
        if kind is not None and kind in self._under_way:
            return
        if kind is not None:
            self._under_way.add(kind)
            self._notice = None

        def run() -> None:
            self._queue.put(partial(self._finish_work, kind, background_work.run(work)))

        try:
            threading.Thread(target=run, name="vllm-magic panel work", daemon=True).start()
        except RuntimeError as error:  # can't start new thread
            self._finish_work(kind, WorkResult(f"{error}. End some threads, and try again.", wrong=True))

    def _finish_work(self, kind: RequestKind | None, result: WorkResult) -> None:
        if kind is not None:
            self._under_way.discard(kind)
        else:
            self._form_state.finish_assessment(result)
        if result.text:
            self._notify(result.text, wrong=result.wrong)
        if result.message is not None:
            self._channel.send(result.message)
        if result.chosen is not None:
            self._selection.name = result.chosen
            self._form_state.clear()
        self._update()
