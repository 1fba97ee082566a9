"""The chat of a panel with one server; each turn is streamed in a thread of its own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.client import generate
from vllm_magic.engine.client.generate import PieceKind
from vllm_magic.engine.startup.log import printable
from vllm_magic.errors import NoChatTemplate, RequestFailed, VllmMagicError
from vllm_magic.jupyter.display.answer import line
from vllm_magic.jupyter.display.chat_cell import COMPLETION

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.client.generate import Message, Stream
    from vllm_magic.server.server import Server

PAUSE = 0.1  # seconds between two messages with new text of an answer
UNTEMPLATED = "The model has no chat template: it continues the text."


@dataclass
class Turn:
    """The user's text and the model's answer. The turn's thread writes the fields, other threads read them.

    Attributes:
        prompt: the user's text.
        thought: the reasoning text of a reasoning model so far.
        answer: the text of the answer so far.
        note: the line below the answer.
        over: whether the answer has ended.
        failed: whether ``note`` is an error message.
    """

    prompt: str
    thought: str = ""
    answer: str = ""
    note: str = ""
    over: bool = False
    failed: bool = False


class Chat:
    """The chat with one server; its turns run one after the other.

    One thread calls the methods; each turn has a thread of its own.

    Args:
        server: the server that answers.
        more: called in the turn's thread whenever the turn has new text.

    Attributes:
        turns: the turns so far.
    """

    def __init__(self, server: Server, more: Callable[[Chat], None]) -> None:
        self.server = server
        self.turns: list[Turn] = []
        self._more = more
        self._history: list[Message] = []
        self._stream: Stream | None = None
        self._aborted = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return bool(self.turns) and not self.turns[-1].over

    def send(self, text: str) -> None:
        """Begin a turn with this text; do nothing while another turn is under way."""
        if self.busy:
            return
        self.turns.append(Turn(text))
        self._aborted.clear()
        threading.Thread(
            target=self._answer, args=(self.turns[-1],), name="vllm-magic chat", daemon=True
        ).start()

    def abort(self) -> None:
        """Abort the answer that is under way, on the server too."""
        self._aborted.set()
        stream = self._stream
        if stream is not None:
            stream.abort()

    def _answer(self, turn: Turn) -> None:
        try:
            self._take(turn)
        except VllmMagicError as error:
            turn.failed = not self._aborted.is_set()
            turn.note = str(error) if turn.failed else "stopped"
        finally:
            self._stream = None
            turn.over = True
            self._more(self)

    def _take(self, turn: Turn) -> None:
        messages = generate.conversation(turn.prompt, None, self._history)
        stream, note = self._begin(messages)
        self._stream = stream
        try:
            self._read(stream, turn)
        except RequestFailed:
            if not self._aborted.is_set():
                raise
        finally:
            stream.close()
        generate.remember(self._history, messages, stream.answer)
        stopped = "stopped" if self._aborted.is_set() else ""
        turn.note = line(stream.answer, " ".join(filter(None, (note, stopped))))

    def _read(self, stream: Stream, turn: Turn) -> None:
        shown = 0.0
        for piece in stream.pieces():
            if self._aborted.is_set():
                return
            if piece.kind is PieceKind.REASONING:
                turn.thought += printable(piece.text)
            else:
                turn.answer += printable(piece.text)
            if time.monotonic() - shown >= PAUSE:
                shown = time.monotonic()
                self._more(self)

    def _begin(self, messages: list[Message]) -> tuple[Stream, str]:
        try:
            return self.server.chat(messages, stream=True), ""
        except NoChatTemplate:
            text = generate.transcript(messages)
            return self.server.complete(text, stream=True, max_tokens=COMPLETION), UNTEMPLATED
