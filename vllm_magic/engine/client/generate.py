"""Requests for text, the pieces of an answer as they arrive, and the whole answer."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic import arguments
from vllm_magic.engine.client.connection import readable
from vllm_magic.engine.startup.log import printable
from vllm_magic.errors import InvalidOption, RequestFailed
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from typing_extensions import Self

    from vllm_magic.engine.client.connection import Events

MOST_TOKENS = 2**53  # a larger count is invalid; a float can hold all whole numbers up to this one
ChatMessage = dict[str, Any]  # a message of OpenAI's chat format: {"role": "user", "content": "..."}


class PieceKind(str, Enum):
    """The part of the answer to which a piece belongs."""

    TEXT = "text"
    REASONING = "reasoning"  # the thoughts of a reasoning model before its answer; needs --reasoning-parser
    REFUSAL = "refusal"


class Piece(NamedTuple):
    """A part of an answer that arrived at once."""

    kind: PieceKind
    text: str


@dataclass(frozen=True)
class Answer(Viewable):
    """The text that a server has generated.

    Attributes:
        text: the answer itself.
        reasoning: the model's thoughts before the answer, if the server sends them separately.
        refusal: the model's refusal, in place of an answer.
        finish_reason: "stop"; "length" if the answer was cut at the token limit; None if the stream was closed early.
        prompt_tokens: the number of tokens of the prompt; None if the server did not report it.
        completion_tokens: the number of generated tokens, with reasoning; None if the server did not report it.
        seconds: seconds from the request to the last token.
        first_token: seconds from the request to the first token; None if no token came.
        schema: the JSON schema or pydantic model that was asked for, used by `parsed`; or None.
    """

    text: str
    reasoning: str
    refusal: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    first_token: float | None
    schema: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second after the first token, like the "TPOT" of ``vllm bench serve``; None for fewer than two tokens."""
        if self.first_token is None or not self.completion_tokens:
            return None
        took = self.seconds - self.first_token
        return (self.completion_tokens - 1) / took if self.completion_tokens > 1 and took > 0 else None

    def view(self) -> View:
        """Return the text as it is, and below it the line of `summary`."""
        return View(lines=(*printable(self.text or self.refusal).split("\n"), f"({self.summary()})"))

    def summary(self, note: str = "") -> str:
        """Return in one line, after a note, how long the answer is, and how fast it came."""
        parts = [note]
        if self.completion_tokens is not None:
            parts.append(f"{self.prompt_tokens} tokens in, {self.completion_tokens} out")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        if self.first_token is not None:
            parts.append(f"the first after {self.first_token:.2f} s")
        if self.finish_reason == "length":
            parts.append("cut at the limit of tokens")
        return " · ".join(filter(None, parts)) or "no answer"

    @property
    def parsed(self) -> Any:
        """The text parsed as JSON, or as an instance of the pydantic model that was asked for.

        Raises:
            RequestFailed: the text does not fit the schema, for example because it was cut.
        """
        try:
            if hasattr(self.schema, "model_validate_json"):
                return self.schema.model_validate_json(self.text)
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            hint = "It was cut: allow more tokens" if self.finish_reason == "length" else "Ask again"
            raise RequestFailed(f"The answer does not fit the schema ({error}). {hint}.") from None


class Stream:
    """An answer as it arrives: ``for text in stream``, once.

    Leaving that loop, or a ``with stream:`` block, closes the connection, and the server ends the request.

    Args:
        events: the events of the answer.
        began: when the request was sent (`time.monotonic`).
        schema: see `Answer`.
        done: called with the answer when the stream is closed.
    """

    def __init__(
        self,
        events: Events,
        began: float,
        schema: Any = None,
        done: Callable[[Answer], None] | None = None,
    ) -> None:
        self._events = events
        self._began = began
        self._schema = schema
        self._done = done
        self._texts: dict[PieceKind, list[str]] = {kind: [] for kind in PieceKind}
        self._usage: Mapping[str, Any] = {}
        self._finish_reason: str | None = None
        self._first: float | None = None
        self._last = began
        # A stream that is dropped without being closed ends its request too.
        self._hang_up = weakref.finalize(self, events.close)
        self._hang_up.atexit = False

    def __iter__(self) -> Iterator[str]:
        """Yield the text of the answer, piece by piece."""
        with closing(self.pieces()) as pieces:
            for piece in pieces:
                if piece.kind is PieceKind.TEXT:
                    yield piece.text

    def pieces(self) -> Generator[Piece, None, None]:
        """Yield the pieces of the answer, with reasoning and refusals.

        Raises:
            RequestFailed: the server ended the stream before the answer was complete.
        """
        try:
            if self._hang_up.alive:
                for event in self._events:
                    with readable():
                        pieces = self._take(event)
                    yield from pieces
                self._check_whole()
        except RequestFailed:
            self._done = None  # an incomplete answer must not get into the history
            raise
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the request on the server, if it is not over yet. A second call does nothing."""
        if self._hang_up.alive:
            self._hang_up()
            if self._done is not None:
                self._done(self.answer)

    def abort(self) -> None:
        """End the request from another thread; the thread that reads the pieces gets an error."""
        if self._hang_up.alive:
            self._events.abort()

    @property
    def answer(self) -> Answer:
        """The answer so far; after the loop, the whole answer."""
        return Answer(
            text="".join(self._texts[PieceKind.TEXT]),
            reasoning="".join(self._texts[PieceKind.REASONING]),
            refusal="".join(self._texts[PieceKind.REFUSAL]),
            finish_reason=self._finish_reason,
            prompt_tokens=_tokens(self._usage.get("prompt_tokens")),
            completion_tokens=_tokens(self._usage.get("completion_tokens")),
            seconds=self._last - self._began,
            first_token=None if self._first is None else self._first - self._began,
            schema=self._schema,
        )

    def _check_whole(self) -> None:
        if self._finish_reason is None:
            raise RequestFailed("The answer ended before it was complete. See %vllm logs.")

    def _take(self, event: Mapping[str, Any]) -> list[Piece]:
        """Add an event to the answer, and return its pieces."""
        usage = event.get("usage")
        self._usage = usage if usage and isinstance(usage, Mapping) else self._usage
        pieces: list[Piece] = []
        for choice in event["choices"]:
            reason = choice.get("finish_reason")
            self._finish_reason = reason if reason and isinstance(reason, str) else self._finish_reason
            pieces += _pieces(choice)
        if pieces:
            self._last = time.monotonic()
            self._first = self._first or self._last
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
        return pieces


def body(
    *,
    max_tokens: int | None,
    temperature: float | None,
    json_schema: Any,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the part of the body that all requests for text share.

    Raises:
        InvalidOption: ``n`` is not 1, or ``json_schema`` is no schema.
    """
    if extra.get("n", 1) != 1:
        raise InvalidOption("Only one answer at a time is supported: leave n out, or use server.client().")
    return {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "response_format": None if json_schema is None else _format(json_schema),
        **extra,
        "stream": True,  # always, so that an interrupt can end the request, and the first token can be timed
        # With the usage in each event, an interrupted answer has its usage too.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def conversation(
    said: str | Sequence[ChatMessage], system: str | None, history: Sequence[ChatMessage] | None
) -> list[ChatMessage]:
    """Return the messages to send: the history, then the new messages.

    Args:
        said: the text of a user's message, or new messages.
        system: the system message, which replaces all system messages of the history; or None.
        history: the earlier messages, or None.

    Raises:
        InvalidOption: a message is not a dict, or the system message is not a text.
    """
    now = [{"role": "user", "content": said}] if isinstance(said, str) else _messages("messages", said)
    before = _messages("history", history or ())
    if system is None:
        return [*before, *now]
    system = arguments.text("system", system, "one text")
    others = [message for message in before if message.get("role") != "system"]
    return [{"role": "system", "content": system}, *others, *now]


def remember(history: list[ChatMessage], messages: Sequence[ChatMessage], answer: Answer) -> None:
    """Replace the history by these messages and their answer. An answer without text does not change the history."""
    if answer.text:
        history[:] = [*messages, {"role": "assistant", "content": answer.text}]


def transcript(messages: Sequence[ChatMessage]) -> str:
    """Return the messages as plain text, for a model without roles."""
    return "\n\n".join(str(message["content"]) for message in messages)


def _tokens(count: Any) -> int | None:
    """Return the number of tokens that the server reports; None if it is not valid."""
    return count if type(count) is int and 0 <= count <= MOST_TOKENS else None


def _messages(option: str, given: object) -> list[ChatMessage]:
    several = [given] if isinstance(given, Mapping) else list(given) if isinstance(given, Iterable) else None
    found = [message for message in several or () if isinstance(message, Mapping)]
    if several is not None and len(found) == len(several):
        return found  # type: ignore[return-value]  # values that JSON does not have are refused before sending
    raise InvalidOption(
        f'{option}: a text, or a list of messages, each a dict: [{{"role": "user", "content": "..."}}].'
    )


def _pieces(choice: Mapping[str, Any]) -> Iterator[Piece]:
    """Yield the pieces of one event, of a chat or a completion.

    vLLM's field for reasoning is ``reasoning`` (entrypoints/generate/base/protocol.py, DeltaMessage); before 0.12 it was
    ``reasoning_content``.
    """
    delta = choice.get("delta") or {}
    for kind, text in (
        (PieceKind.REASONING, delta.get("reasoning") or delta.get("reasoning_content")),
        (PieceKind.TEXT, delta.get("content") or choice.get("text")),
        (PieceKind.REFUSAL, delta.get("refusal")),
    ):
        if text:
            # A half of a surrogate pair cannot be shown.
            yield Piece(kind, text.encode("utf-8", "replace").decode())


def _format(schema: Any) -> dict[str, Any]:
    """Return the field ``response_format`` for a JSON schema or a pydantic model class."""
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if not isinstance(schema, dict):
        raise InvalidOption("json_schema must be a JSON schema (a dict) or a pydantic model class.")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
