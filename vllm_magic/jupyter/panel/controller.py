"""The one thread of a panel. It owns what the panel knows, and it alone sends to the front end.

Clicks arrive in whatever thread the kernel takes messages in, looks come from the sampler's, and longer work is done in
threads of its own: all of them only put something into the inbox. So there is no lock here. Without a view the thread
waits for one, and looks at nothing.
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
from vllm_magic.jupyter.panel.messages import Ask, Message
from vllm_magic.jupyter.panel.open_views import OpenViews
from vllm_magic.jupyter.panel.selection import Selection
from vllm_magic.jupyter.panel.server_list import ServerList

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.panel.background_work import Work
    from vllm_magic.jupyter.panel.chat import Chat
    from vllm_magic.jupyter.panel.messages import Front, Words
    from vllm_magic.manager.manager import Manager

LOOK = 1.5  # seconds after which it looks by itself; mostly the sampler asks it to before that
PROCESSES = "processes"  # the tab that costs a look at them


class Controller:
    """Runs until it is closed.

    Args:
        manager: the kernel's.
        front: where to draw; used from this thread alone.
        work: the longer work.
        is_busy: whether a cell runs now.
    """

    def __init__(self, manager: Manager, front: Front, work: Work, is_busy: Callable[[], bool]) -> None:
        self._manager = manager
        self._front = front
        self._work = work
        self._is_busy = is_busy
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._look_waits = False
        # All below belongs to the thread.
        self._open_views = OpenViews()
        self._unwatch: Callable[[], None] | None = None
        self._due = 0.0
        self._entry = FormState()
        self._notice: dict[str, str] | None = None
        self._asked: set[Ask] = set()  # of what is under way
        self._chats = Chats(manager, self._more)
        self._selection = Selection(manager, front, self._chats, work.said)
        self._server_list = ServerList(manager)
        self._drawn: dict[str, Any] = {}
        self._suggestions: list[str] = []
        self._thread = threading.Thread(target=self._run, name="vllm-magic panel", daemon=True)
        self._thread.start()

    def take(self, message: Message) -> None:
        """A view wants something; returns at once, in any thread."""
        self._inbox.put(partial(self._obey, message))

    def close(self) -> None:
        """End the thread, and wait for that as long as a look may take."""
        self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(LOOK)

    def _run(self) -> None:
        while True:
            try:
                deed = self._inbox.get(
                    timeout=max(0.0, self._due - time.monotonic()) if self._open_views else None
                )
            except queue.Empty:
                deed = self._look
            if deed is None:
                break
            self._risk(deed)
        self._chats.hush_all()
        self._open_views.leave()
        self._watch()

    def _risk(self, deed: Callable[[], None]) -> None:
        """Do it; a fault in it is told, and the panel goes on."""
        try:
            deed()
        except VllmMagicError as error:
            self._tell(str(error), wrong=True)
        except Exception as error:  # noqa: BLE001 - a panel that ends in silence would seem to show the truth
            self._tell(
                f"A fault of vllm_magic: {type(error).__name__}: {error}. Please report it.", wrong=True
            )

    def _obey(self, message: Message) -> None:
        self._open_views.hear(message)
        self._watch()
        if message.ask is Ask.HERE:
            return
        self._front.send({"kind": "got", "ask": message.ask.value})
        deeds: dict[Ask, Callable[[Message], None]] = {
            Ask.HELLO: self._welcome,
            Ask.BYE: lambda _: None,
            Ask.CHOOSE: lambda said: self._choose(said.name),
            Ask.CLEAR: self._clear,
            Ask.FORM: self._read,
            Ask.START: self._start,
            Ask.STOP: self._stop,
            Ask.SAY: self._say,
            Ask.HUSH: lambda said: self._chats.of(said.name).hush(),
            Ask.FORGET: lambda said: self._selection.send_chat(self._chats.forget(said.name)),
            Ask.DOCTOR: lambda _: self._do(Ask.DOCTOR, self._work.doctor),
            Ask.REAP: lambda said: self._do(Ask.REAP, partial(self._work.reap, said.pids)),
        }
        self._risk(partial(deeds[message.ask], message))
        self._look()

    # Views, and looking while there are any.

    def _welcome(self, _: Message) -> None:
        self._suggestions = form.suggestions()
        self._selection.send()

    def _watch(self) -> None:
        """Have the sampler ask for looks while there are views."""
        if self._open_views and self._unwatch is None:
            self._unwatch = self._manager.watch(self._want_look)
        elif not self._open_views and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _want_look(self) -> None:
        """Called in any thread; looks that pile up are one."""
        if not self._look_waits:
            self._look_waits = True
            self._inbox.put(self._look)

    def _look(self) -> None:
        self._look_waits = False
        self._due = time.monotonic() + LOOK
        if not self._is_busy():  # else views may be there, and not be heard
            self._open_views.expire()
            self._watch()
        if not self._open_views:
            return
        self._follow_choice()
        self._judge_again()
        self._draw()
        self._tick()
        self._selection.send_more(processes=self._open_views.looks_at(PROCESSES))

    def _draw(self) -> None:
        drawn = self._picture()
        if drawn != self._drawn:
            self._drawn = drawn
            self._front.show(drawn)

    def _picture(self) -> dict[str, Any]:
        chosen = self._selection.server
        claims = {} if chosen and not chosen.state.over else self._entry.claims
        owners = self._manager.attribution
        return {
            "servers": [snapshot.line(one) for one in self._server_list.servers()],
            "chosen": snapshot.server(chosen, form.shown(self._selection.said)) if chosen else None,
            "gpus": snapshot.gpus(self._manager.latest, owners, self._selection.name or "", claims),
            "form": self._entry.picture(self._suggestions),
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
        starting = [snapshot.progress(one) for one in living if one.state.value == "starting"]
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
        self._entry.empty()
        self._selection.send()

    def _clear(self, message: Message) -> None:
        self._server_list.clear(self._manager.get_even_past(message.name))
        if message.name == self._selection.name:
            self._choose("")

    def _follow_choice(self) -> None:
        self._selection.follow()
        server = self._selection.server
        if server is not None and server.state.over and not self._entry.words.model:
            self._judge(self._selection.said)  # to be started again, perhaps with other flags
        if server is not None and server.error is not None:
            server.last_words()  # it is said here

    # What is asked for.

    def _read(self, message: Message) -> None:
        self._notice = None
        self._judge(self._entry.write(message))

    def _judge(self, words: Words) -> None:
        now = self._manager.latest
        self._entry.judging(words, now)
        self._do(None, partial(self._work.judge, words, now))

    def _judge_again(self) -> None:
        server = self._selection.server
        shown = server is None or server.state.over  # else the form shows what runs
        if shown and self._entry.is_outdated(self._manager.latest):
            self._judge(self._entry.words)

    def _start(self, message: Message) -> None:
        self._do(Ask.START, partial(self._work.start, self._entry.write(message)))

    def _stop(self, message: Message) -> None:
        self._notice = None
        server = self._manager.get(message.name)
        self._chats.hush(server)  # an answer that breaks off would look like a fault
        server.begin_stop(self._work.grace())

    def _say(self, message: Message) -> None:
        chat = self._chats.of(message.name)
        chat.say(message.text)
        self._selection.send_chat(chat)

    def _more(self, chat: Chat) -> None:
        """Called in the thread of a turn."""
        self._inbox.put(partial(self._send_turn, chat))

    def _send_turn(self, chat: Chat) -> None:
        if chat.turns and self._chats.is_current(chat):
            self._selection.send_chat(chat, at=len(chat.turns) - 1)

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        self._notice = {"text": text, "kind": "wrong" if wrong else "told"}

    def _do(self, ask: Ask | None, work: Callable[[], background_work.Done]) -> None:
        """Have the work done in a thread of its own; each kind once at a time."""
        if ask is not None and ask in self._asked:
            return
        if ask is not None:
            self._asked.add(ask)
            self._notice = None

        def run() -> None:
            self._inbox.put(partial(self._take_done, ask, background_work.run(work)))

        try:
            threading.Thread(target=run, name="vllm-magic panel work", daemon=True).start()
        except RuntimeError as error:  # can't start new thread
            self._take_done(
                ask, background_work.Done(f"{error}. End some threads, and try again.", wrong=True)
            )

    def _take_done(self, ask: Ask | None, done: background_work.Done) -> None:
        if ask is not None:
            self._asked.discard(ask)
        else:
            self._entry.take(done)
        if done.text:
            self._tell(done.text, wrong=done.wrong)
        if done.message is not None:
            self._front.send(done.message)
        if done.chosen is not None:
            self._selection.name = done.chosen
            self._entry.empty()
        self._look()
