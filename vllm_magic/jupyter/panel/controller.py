"""The controller: the one thread of a panel. It owns the panel's state, and it alone sends to the front end.

Clicks arrive in the threads in which the kernel receives messages, update requests come from the sampler's thread, and
background work runs in threads of its own. All of these threads only put functions into the inbox, so the controller
needs no lock. While no view is open, the thread waits for a message and does nothing else.
"""

from __future__ import annotations

import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.panel import background_work, form, snapshot
from vllm_magic.jupyter.panel.chats import Chats
from vllm_magic.jupyter.panel.form_state import FormState
from vllm_magic.jupyter.panel.messages import Message, RequestKind
from vllm_magic.jupyter.panel.open_views import OpenViews
from vllm_magic.jupyter.panel.selection import Selection
from vllm_magic.jupyter.panel.server_list import ServerList
from vllm_magic.server.server import run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.panel.background_work import Work
    from vllm_magic.jupyter.panel.chat import Chat
    from vllm_magic.jupyter.panel.messages import FormFields, Front
    from vllm_magic.manager.manager import Manager

UPDATE_INTERVAL = (
    1.5  # seconds after which the views are updated; mostly the sampler requests an update before that
)
PROCESSES = "processes"  # the tab; the processes are read only while a view shows it


class Controller:
    """Runs the panel's thread until `close`.

    Args:
        manager: the kernel's manager.
        front: the views; only the controller's thread uses them.
        work: the background work.
        is_busy: returns whether a cell runs now.
    """

    def __init__(self, manager: Manager, front: Front, work: Work, is_busy: Callable[[], bool]) -> None:
        self._manager = manager
        self._front = front
        self._work = work
        self._is_busy = is_busy
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._update_queued = False
        # Only the controller's thread uses what follows.
        self._open_views = OpenViews()
        self._unwatch: Callable[[], None] | None = None
        self._due = 0.0
        self._form_state = FormState()
        self._notice: dict[str, str] | None = None
        self._asked: set[RequestKind] = set()  # the background work that is under way
        self._chats = Chats(manager, self._more)
        self._selection = Selection(manager, front, self._chats, work.fields_of)
        self._server_list = ServerList(manager)
        self._drawn: dict[str, Any] = {}
        self._suggestions: list[str] = []
        self._thread = threading.Thread(target=self._run, name="vllm-magic panel", daemon=True)
        self._thread.start()

    def post(self, message: Message) -> None:
        """Queue a request of a view. Any thread may call this; it returns at once."""
        self._inbox.put(partial(self._handle, message))

    def close(self) -> None:
        """End the thread, and wait `UPDATE_INTERVAL` seconds at most for its end."""
        self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(UPDATE_INTERVAL)

    def _run(self) -> None:
        while True:
            try:
                action = self._inbox.get(
                    timeout=max(0.0, self._due - time.monotonic()) if self._open_views else None
                )
            except queue.Empty:
                action = self._update
            if action is None:
                break
            self._run_safely(action)
        self._chats.abort_all()
        self._open_views.leave()
        self._watch()

    def _run_safely(self, action: Callable[[], None]) -> None:
        """Run the action; show an exception as a notice, and keep the thread running."""
        try:
            action()
        except VllmMagicError as error:
            self._notify(str(error), wrong=True)
        except Exception as error:  # noqa: BLE001 - a panel that stopped silently would go on showing old values
            self._notify(
                f"A fault of vllm_magic: {type(error).__name__}: {error}. Please report it.", wrong=True
            )

    def _handle(self, message: Message) -> None:
        self._open_views.note(message)
        self._watch()
        if message.ask is RequestKind.HERE:
            return
        self._front.send({"kind": "got", "ask": message.ask.value})
        actions: dict[RequestKind, Callable[[Message], None]] = {
            RequestKind.HELLO: self._welcome,
            RequestKind.BYE: lambda _: None,
            RequestKind.CHOOSE: lambda message: self._choose(message.name),
            RequestKind.CLEAR: self._clear,
            RequestKind.FORM: self._read,
            RequestKind.START: self._start,
            RequestKind.STOP: self._stop,
            RequestKind.SAY: self._send_prompt,
            RequestKind.ABORT: lambda message: self._chats.of(message.name).abort(),
            RequestKind.FORGET: lambda message: self._selection.send_chat(self._chats.forget(message.name)),
            RequestKind.DOCTOR: lambda _: self._do(RequestKind.DOCTOR, self._work.doctor),
            RequestKind.REAP: lambda message: self._do(
                RequestKind.REAP, partial(self._work.reap, message.pids)
            ),
        }
        self._run_safely(partial(actions[message.ask], message))
        self._update()

    # The open views, and their updates.

    def _welcome(self, _: Message) -> None:
        self._suggestions = form.suggestions()
        self._selection.send()

    def _watch(self) -> None:
        """Subscribe to the sampler's update requests while a view is open; else unsubscribe."""
        if self._open_views and self._unwatch is None:
            self._unwatch = self._manager.watch(self._request_update)
        elif not self._open_views and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _request_update(self) -> None:
        """Queue an update, unless one is queued already. Any thread may call this."""
        if not self._update_queued:
            self._update_queued = True
            self._inbox.put(self._update)

    def _update(self) -> None:
        self._update_queued = False
        self._due = time.monotonic() + UPDATE_INTERVAL
        if not self._is_busy():  # while a cell runs, messages of open views may have to wait
            self._open_views.expire()
            self._watch()
        if not self._open_views:
            return
        self._follow_choice()
        self._assess_again()
        self._draw()
        self._tick()
        self._selection.send_more(processes=self._open_views.any_shows(PROCESSES))

    def _draw(self) -> None:
        drawn = self._picture()
        if drawn != self._drawn:
            self._drawn = drawn
            self._front.show(drawn)

    def _picture(self) -> dict[str, Any]:
        listed, server = self._server_list.servers(), self._selection.server
        # One status of each server, so that no two parts of the panel show different moments of it.
        status = {one: one.status for one in (*listed, *([server] if server else []))}
        chosen = status[server] if server else None
        claims = {} if chosen and not chosen.state.over else self._form_state.claims
        owners = self._manager.attribution
        return {
            "servers": [snapshot.line(status[one]) for one in listed],
            "chosen": snapshot.server(chosen, form.masked(self._selection.fields)) if chosen else None,
            "gpus": snapshot.gpus(self._manager.latest, owners, self._selection.name or "", claims),
            "form": self._form_state.picture(self._suggestions),
            "notice": self._notice,
            "spare": snapshot.spare(self._manager.spares.status()),
            "asked": sorted(ask.value for ask in self._asked),
            "beside": self._open_views.beside,
        }

    def _tick(self) -> None:
        living = list(self._manager.servers().values())
        chosen = self._selection.server
        if chosen and chosen not in living:
            living.append(chosen)
        status = [one.status for one in living]
        starting = [snapshot.progress(one) for one in status if one.state.value == "starting"]
        self._front.send(
            {
                "kind": "tick",
                "now": round(time.time(), 2),
                "busy": self._is_busy(),
                "starting": starting,
                "points": snapshot.points(living),
            }
        )

    # The chosen server.

    def _choose(self, name: str) -> None:
        self._selection.name = name
        self._notice = None
        self._form_state.empty()
        self._selection.send()

    def _clear(self, message: Message) -> None:
        self._server_list.clear(self._manager.get_even_past(message.name))
        if message.name == self._selection.name:
            self._choose("")

    def _follow_choice(self) -> None:
        self._selection.follow()
        server = self._selection.server
        if server is not None and server.state.over and not self._form_state.fields.model:
            self._assess(self._selection.fields)  # the user may start it again, perhaps with other flags
        if server is not None and server.error is not None:
            run_of(server).unreported_failure()  # the panel shows the error, so no cell has to report it

    # The requests of the views.

    def _read(self, message: Message) -> None:
        self._notice = None
        self._assess(self._form_state.write(message))

    def _assess(self, fields: FormFields) -> None:
        now = self._manager.latest
        self._form_state.begin_assessment(fields, now)
        self._do(None, partial(self._work.assess, fields, now))

    def _assess_again(self) -> None:
        server = self._selection.server
        shown = server is None or server.state.over  # else the form shows the values of the running server
        if shown and self._form_state.is_outdated(self._manager.latest):
            self._assess(self._form_state.fields)

    def _start(self, message: Message) -> None:
        self._do(RequestKind.START, partial(self._work.start, self._form_state.write(message)))

    def _stop(self, message: Message) -> None:
        self._notice = None
        server = self._manager.get(message.name)
        self._chats.abort(server)  # an answer that the stop cuts off would look like a fault
        run_of(server).begin_stop(self._work.grace())

    def _send_prompt(self, message: Message) -> None:
        chat = self._chats.of(message.name)
        chat.send(message.text)
        self._selection.send_chat(chat)

    def _more(self, chat: Chat) -> None:
        """Queue the sending of a turn's new text. Called in the turn's thread."""
        self._inbox.put(partial(self._send_turn, chat))

    def _send_turn(self, chat: Chat) -> None:
        if chat.turns and self._chats.is_current(chat):
            self._selection.send_chat(chat, at=len(chat.turns) - 1)

    def _notify(self, text: str, *, wrong: bool = False) -> None:
        self._notice = {"text": text, "kind": "wrong" if wrong else "info"}

    def _do(self, ask: RequestKind | None, work: Callable[[], background_work.Done]) -> None:
        """Run the work in a thread of its own, unless work of the same kind is under way."""
        if ask is not None and ask in self._asked:
            return
        if ask is not None:
            self._asked.add(ask)
            self._notice = None

        def run() -> None:
            self._inbox.put(partial(self._finish, ask, background_work.run(work)))

        try:
            threading.Thread(target=run, name="vllm-magic panel work", daemon=True).start()
        except RuntimeError as error:  # can't start new thread
            self._finish(ask, background_work.Done(f"{error}. End some threads, and try again.", wrong=True))

    def _finish(self, ask: RequestKind | None, done: background_work.Done) -> None:
        if ask is not None:
            self._asked.discard(ask)
        else:
            self._form_state.finish_assessment(done)
        if done.text:
            self._notify(done.text, wrong=done.wrong)
        if done.message is not None:
            self._front.send(done.message)
        if done.chosen is not None:
            self._selection.name = done.chosen
            self._form_state.empty()
        self._update()
