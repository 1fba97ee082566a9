"""The chat of a panel with one server; each turn is streamed in a thread of its own."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.client import generate
from vllm_magic.engine.client.generate import PieceKind
from vllm_magic.engine.startup.log import printable
from vllm_magic.errors import RequestFailed, VllmMagicError
from vllm_magic.jupyter.display.chat_cell import request_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.client.generate import ChatMessage, Stream
    from vllm_magic.server.server import Server

UPDATE_INTERVAL = 0.1  # seconds between two messages with new text of an answer
NO_TEMPLATE = "The model has no chat template: it continues the text."


@dataclass
class Turn:
    """The text of the user and the answer of the model. The turn's thread writes the fields, other threads read them.

    Attributes:
        prompt: the text of the user.
        reasoning: the reasoning text of the model so far; "" for a model that does not reason.
        answer: the text of the answer so far.
        note: the line below the answer.
        over: whether the answer has ended.
        failed: whether ``note`` is an error message.
    """

    prompt: str
    reasoning: str = ""
    answer: str = ""
    note: str = ""
    over: bool = False
    failed: bool = False


class Chat:
    """The chat with one server; its turns run one after the other.

    One thread calls the methods; each turn has a thread of its own.

    Args:
        server: the server that answers.
        on_text: called in the turn's thread whenever the turn has new text.

    Attributes:
        turns: the turns so far.
    """

    def __init__(self, server: Server, on_text: Callable[[Chat], None]) -> None:
        self.server = server
        self.turns: list[Turn] = []
        self._on_text = on_text
        self._history: list[ChatMessage] = []
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
        turn = Turn(text)
        self.turns.append(turn)
        self._aborted.clear()
        threading.Thread(target=self._run, args=(turn,), name="vllm-magic chat", daemon=True).start()

    def abort(self) -> None:
        """Abort the answer that is under way, on the server too."""
        self._aborted.set()
        stream = self._stream
        if stream is not None:
            stream.abort()

    def _run(self, turn: Turn) -> None:
        try:
            self._answer(turn)
        except VllmMagicError as error:
            turn.failed = not self._aborted.is_set()
            turn.note = str(error) if turn.failed else "stopped"
        finally:
            self._stream = None
            turn.over = True
            self._on_text(self)

    def _answer(self, turn: Turn) -> None:
        """Request the answer, show it in the turn as it comes, and add prompt and answer to the history."""
        messages = generate.conversation(turn.prompt, None, self._history)
        stream, has_template = request_answer(self.server, messages)
        self._stream = stream
        try:
            self._read(stream, turn)
        except RequestFailed:
            if not self._aborted.is_set():
                raise
        finally:
            stream.close()
        generate.remember(self._history, messages, stream.answer)
        notes = ("" if has_template else NO_TEMPLATE, "stopped" if self._aborted.is_set() else "")
        turn.note = stream.answer.summary(" ".join(filter(None, notes)))

    def _read(self, stream: Stream, turn: Turn) -> None:
        last_update = 0.0
        for piece in stream.pieces():
            if self._aborted.is_set():
                return
            if piece.kind is PieceKind.REASONING:
                turn.reasoning += printable(piece.text)
            else:
                turn.answer += printable(piece.text)
            if time.monotonic() - last_update >= UPDATE_INTERVAL:
                last_update = time.monotonic()
                self._on_text(self)
