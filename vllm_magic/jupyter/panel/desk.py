"""The one thread of a panel. It owns what the panel knows, and it alone sends to the front end.

Clicks arrive in whatever thread the kernel takes messages in, looks come from the sampler's, and longer work is done in
threads of its own: all of them only put something into the inbox. So there is no lock here. Without a view the thread
waits for one, and looks at nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.panel import errands, form, picture, process_rows
from vllm_magic.jupyter.panel.chat import Chat
from vllm_magic.jupyter.panel.following import Following
from vllm_magic.jupyter.panel.messages import Ask, Message, Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.jupyter.panel.errands import Work
    from vllm_magic.manager import Manager
    from vllm_magic.server import Server

LOOK = 1.5  # seconds after which it looks by itself; mostly the sampler asks it to before that
EXPIRY = 20.0  # seconds without a word from a view after which it is taken for closed; it says one every 5 s
STEP = 2**28  # bytes of free memory that make a difference to what is said of the form
PROCESSES = "processes"  # the tab that costs a look at them
SHARE = 0.01  # of a core, that such looks may take: at all processes of the machine, which may be thousands


class Front(Protocol):
    """The front end's side."""

    def show(self, drawn: dict[str, Any]) -> None:
        """Replace the picture."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to all views."""


@dataclass
class _View:
    seen: float
    tab: str


class Desk:
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
        self._views: dict[str, _View] = {}
        self._unwatch: Callable[[], None] | None = None
        self._due = 0.0
        self._beside = False  # whether requests are heard while a cell runs
        self._chosen: str | None = None  # None until somebody chooses, "" for the form of a new one
        self._words = Words()  # of the form; views get them without keys
        self._writer = ""  # the view that they are from
        self._said = Words()  # what would start the chosen server once more
        self._judged = form.Judgement()
        self._judging = 0  # judgements under way
        self._judged_by: tuple[int | None, ...] = ()  # the free memory of each GPU
        self._notice: dict[str, str] | None = None
        self._asked: set[Ask] = set()  # of what is under way
        self._following: Following | None = None
        self._chats: dict[Server, Chat] = {}
        self._drawn: dict[str, Any] = {}
        self._rows: dict[str, Any] = {}
        self._rows_due = 0.0
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
                    timeout=max(0.0, self._due - time.monotonic()) if self._views else None
                )
            except queue.Empty:
                deed = self._look
            if deed is None:
                break
            self._risk(deed)
        for chat in self._chats.values():
            chat.hush()
        self._views.clear()
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
        self._beside = message.beside  # the first ones of a view are not: its subshell is made meanwhile
        if message.ask is not Ask.BYE:
            self._views[message.view] = _View(time.monotonic(), message.tab or self._tab(message.view))
        self._watch()
        if message.ask is Ask.HERE:
            return
        self._front.send({"kind": "got", "ask": message.ask.value})
        deeds: dict[Ask, Callable[[Message], None]] = {
            Ask.HELLO: self._welcome,
            Ask.BYE: self._part,
            Ask.CHOOSE: lambda said: self._choose(said.name),
            Ask.FORM: self._read,
            Ask.START: self._start,
            Ask.STOP: self._stop,
            Ask.SAY: self._say,
            Ask.HUSH: lambda said: self._chat(said.name).hush(),
            Ask.FORGET: self._forget,
            Ask.DOCTOR: lambda _: self._do(Ask.DOCTOR, self._work.doctor),
            Ask.REAP: lambda said: self._do(Ask.REAP, partial(self._work.reap, said.pids)),
        }
        self._risk(partial(deeds[message.ask], message))
        self._look()

    def _tab(self, view: str) -> str:
        there = self._views.get(view)
        return there.tab if there else ""

    # Views, and looking while there are any.

    def _welcome(self, _: Message) -> None:
        self._suggestions = form.suggestions()
        self._send_chosen()

    def _part(self, message: Message) -> None:
        self._views.pop(message.view, None)
        self._watch()

    def _watch(self) -> None:
        """Have the sampler ask for looks while there are views."""
        if self._views and self._unwatch is None:
            self._unwatch = self._manager.watch(self._want_look)
        elif not self._views and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _want_look(self) -> None:
        """Called in any thread; looks that pile up are one."""
        if not self._look_waits:
            self._look_waits = True
            self._inbox.put(self._look)

    def _look(self) -> None:
        self._look_waits = False
        now = time.monotonic()
        self._due = now + LOOK
        if not self._is_busy():  # else views may be there, and not be heard
            self._views = {name: view for name, view in self._views.items() if now - view.seen < EXPIRY}
            self._watch()
        if not self._views:
            return
        self._follow_choice()
        self._judge_again()
        self._draw()
        self._tick()
        self._follow_log()
        self._show_processes()

    def _draw(self) -> None:
        drawn = self._picture()
        if drawn != self._drawn:
            self._drawn = drawn
            self._front.show(drawn)

    def _picture(self) -> dict[str, Any]:
        living = self._manager.servers()
        chosen = self._server()
        listed = {**living, **({chosen.name: chosen} if chosen else {})}
        claims = {} if chosen and not chosen.state.over else self._judged.claims
        owners = self._manager.attribution
        return {
            "servers": [picture.line(one) for one in listed.values()],
            "chosen": picture.server(chosen, form.shown(self._said)) if chosen else None,
            "gpus": picture.gpus(self._manager.latest, owners, self._chosen or "", claims),
            "form": {
                **asdict(form.shown(self._words)),
                "view": self._writer,
                "text": self._judged.text,
                "wrong": self._judged.wrong,
                "models": self._suggestions,
            },
            "notice": self._notice,
            "asked": sorted(ask.value for ask in self._asked),
            "beside": self._beside,
        }

    def _tick(self) -> None:
        living = list(self._manager.servers().values())
        chosen = self._server()
        if chosen and chosen not in living:
            living.append(chosen)
        starting = [picture.progress(one) for one in living if one.state.value == "starting"]
        self._front.send(
            {
                "kind": "tick",
                "now": round(time.time(), 2),
                "busy": self._is_busy(),
                "starting": starting,
                "points": picture.points(living),
            }
        )

    # The chosen server.

    def _server(self) -> Server | None:
        if not self._chosen:
            return None
        return self._manager.servers().get(self._chosen) or self._manager.past().get(self._chosen)

    def _choose(self, name: str) -> None:
        self._chosen = name
        self._notice = None
        self._empty_form()
        self._send_chosen()

    def _empty_form(self) -> None:
        self._words, self._writer = Words(), ""
        self._judged = form.Judgement()

    def _follow_choice(self) -> None:
        """Show what there is where nobody has chosen, and what has taken the place of the one that was shown."""
        if self._chosen is None:
            self._chosen = next(reversed(self._manager.servers()), None)
        server = self._server()
        if server is not (self._following.server if self._following else None):
            self._send_chosen()
        if server is not None and server.state.over and not self._words.model:
            self._judge(self._said)  # to be started again, perhaps with other flags
        if server is not None and server.error is not None:
            server.last_words()  # it is said here

    def _send_chosen(self) -> None:
        """All of the chosen server that the picture does not have."""
        server = self._server()
        self._following = Following(server) if server else None
        self._said = self._work.said(server) if server else Words()
        self._rows = {}
        self._rows_due = 0.0
        if server is None or self._following is None:
            return
        self._front.send({"kind": "curve", **picture.curve(server)})
        self._front.send(self._following.whole())
        self._send_chat(self._chat(server.name))

    def _follow_log(self) -> None:
        more = self._following.more() if self._following else None
        if more:
            self._front.send(more)

    def _show_processes(self) -> None:
        server = self._server()
        if server is None or not any(view.tab == PROCESSES for view in self._views.values()):
            return
        if time.monotonic() < self._rows_due:
            return
        began = time.thread_time()
        rows = process_rows.message(server, self._manager.latest)
        self._rows_due = time.monotonic() + (time.thread_time() - began) / SHARE
        if rows != self._rows:
            self._rows = rows
            self._front.send(rows)

    # What is asked for.

    def _read(self, message: Message) -> None:
        self._notice = None
        self._judge(self._written(message))

    def _written(self, message: Message) -> Words:
        words = form.meant(message.words, self._words)
        self._writer = message.view
        return words

    def _judge(self, words: Words) -> None:
        self._words = words
        self._judged_by = self._free()
        self._judging += 1
        self._do(None, partial(self._work.judge, words, self._manager.latest))

    def _judge_again(self) -> None:
        """Where there is another amount of free memory now: that of a server that was just released is there again."""
        server = self._server()
        shown = server is None or server.state.over  # else the form shows what runs
        if shown and self._words.model and not self._judging and self._free() != self._judged_by:
            self._judge(self._words)

    def _free(self) -> tuple[int | None, ...]:
        """The free memory of each GPU, as coarsely as a judgement goes by it."""
        seen = self._manager.latest
        return tuple(None if gpu.free is None else gpu.free // STEP for gpu in (seen.gpus if seen else ()))

    def _start(self, message: Message) -> None:
        self._words = self._written(message)
        self._do(Ask.START, partial(self._work.start, self._words))

    def _stop(self, message: Message) -> None:
        self._notice = None
        server = self._manager.get(message.name)
        if server in self._chats:
            self._chats[server].hush()  # an answer that breaks off would look like a fault
        server.begin_stop(self._work.grace())

    def _say(self, message: Message) -> None:
        chat = self._chat(message.name)
        chat.say(message.text)
        self._send_chat(chat)

    def _forget(self, message: Message) -> None:
        old = self._chat(message.name)
        old.hush()
        del self._chats[old.server]
        self._send_chat(self._chat(message.name))

    def _chat(self, name: str) -> Chat:
        server = self._manager.get_even_past(name)
        if server not in self._chats:
            known = set(self._manager.past().values()) | set(self._manager.servers().values())
            self._chats = {one: chat for one, chat in self._chats.items() if one in known}
            self._chats[server] = Chat(server, self._more)
        return self._chats[server]

    def _more(self, chat: Chat) -> None:
        """Called in the thread of a turn."""
        self._inbox.put(partial(self._send_turn, chat))

    def _send_turn(self, chat: Chat) -> None:
        if chat.turns and chat is self._chats.get(chat.server) and chat.server is self._server():
            at = len(chat.turns) - 1
            self._front.send(
                {"kind": "chat", "name": chat.server.name, "at": at, "turns": [asdict(chat.turns[at])]}
            )

    def _send_chat(self, chat: Chat) -> None:
        if chat.server is not self._server():
            return
        turns = [asdict(turn) for turn in chat.turns]
        self._front.send({"kind": "chat", "name": chat.server.name, "at": 0, "turns": turns})

    def _tell(self, text: str, *, wrong: bool = False) -> None:
        self._notice = {"text": text, "kind": "wrong" if wrong else "told"}

    def _do(self, ask: Ask | None, work: Callable[[], errands.Done]) -> None:
        """Have the work done in a thread of its own; each kind once at a time."""
        if ask is not None and ask in self._asked:
            return
        if ask is not None:
            self._asked.add(ask)
            self._notice = None

        def run() -> None:
            self._inbox.put(partial(self._take_done, ask, errands.run(work)))

        threading.Thread(target=run, name="vllm-magic panel work", daemon=True).start()

    def _take_done(self, ask: Ask | None, done: errands.Done) -> None:
        if ask is not None:
            self._asked.discard(ask)
        else:
            self._judging -= 1
        if done.text:
            self._tell(done.text, wrong=done.wrong)
        if done.judged is not None and done.judged_of == self._words:
            self._judged = done.judged
        if done.message is not None:
            self._front.send(done.message)
        if done.chosen is not None:
            self._chosen = done.chosen
            self._empty_form()
        self._look()
