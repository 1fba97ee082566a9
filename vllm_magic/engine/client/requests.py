"""The requests to a ready server, as methods that `server.Server` inherits."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload
from weakref import WeakSet

from vllm_magic import arguments
from vllm_magic.engine.client import generate, pooling
from vllm_magic.engine.client.connection import SILENCE_LIMIT
from vllm_magic.engine.client.generate import Stream
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import openai

    from vllm_magic.engine.client.connection import Connection
    from vllm_magic.engine.client.generate import Answer, ChatMessage
    from vllm_magic.engine.client.pooling import Classified


class OpenClients:
    """The openai package's clients of one server that are still in use."""

    def __init__(self) -> None:
        self._clients: WeakSet[openai.OpenAI] = WeakSet()

    def add(self, client: openai.OpenAI) -> None:
        """Add a client that `close` will close."""
        self._clients.add(client)

    def close(self) -> None:
        """Close the clients. Called when the server has ended."""
        for client in list(self._clients):
            # httpx may raise any error if another thread is in the middle of a request.
            with suppress(Exception):
                client.close()
        self._clients.clear()


class RequestMethods:
    """Requests to a server. Each method waits for the answer; an interrupt ends the request on the server too.

    All methods raise `RequestFailed` if the server is not ready, refuses the request, or ends the answer early. ``extra`` is any
    other field of vLLM's own request: ``top_p=0.9``, ``seed=1``, ``chat_template_kwargs={...}``.

    Args:
        connect: returns a connection to the server; raises `RequestFailed` if the server is not ready.
        clients: the clients of the openai package; `client` adds each new one.
    """

    def __init__(self, connect: Callable[[], Connection], clients: OpenClients) -> None:
        self._connect = connect
        self._clients = clients

    def client(self) -> openai.OpenAI:
        """Return a new client of the openai package for this server; close it when done.

        It is also closed at the end of the server. A later request with it raises `RequestFailed`.

        Raises:
            VllmMagicError: the openai package is not installed.
        """
        client = self._connect().openai_client(self._verify)
        self._clients.add(client)
        return client

    def async_client(self) -> openai.AsyncOpenAI:
        """Return the same for asyncio. This client is not closed at the end of the server."""
        return self._connect().async_openai_client(self._verify)

    def _verify(self) -> None:
        self._connect().verify()

    @overload
    def chat(
        self,
        messages: str | Sequence[ChatMessage],
        *,
        stream: Literal[False] = False,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        json_schema: Any = None,
        history: list[ChatMessage] | None = None,
        timeout: float | None = SILENCE_LIMIT,
        **extra: Any,
    ) -> Answer: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[ChatMessage],
        *,
        stream: Literal[True],
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        json_schema: Any = None,
        history: list[ChatMessage] | None = None,
        timeout: float | None = SILENCE_LIMIT,
        **extra: Any,
    ) -> Stream: ...

    def chat(
        self,
        messages: str | Sequence[ChatMessage],
        *,
        stream: bool = False,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        json_schema: Any = None,
        history: list[ChatMessage] | None = None,
        timeout: float | None = SILENCE_LIMIT,
        **extra: Any,
    ) -> Answer | Stream:
        """Send one turn of a conversation, and return the answer.

        Args:
            messages: the user's text, or a list of OpenAI's messages.
            stream: whether to return a `Stream`, an iterable of text, at once, instead of the whole `Answer`.
            system: the system message; it replaces that of the history.
            max_tokens: the largest number of generated tokens; None for as many as the model has room for.
            temperature: 0 for the likeliest token each time; None for the model's own default.
            json_schema: a JSON schema, or a pydantic model class, that the answer will fit; see `Answer.parsed`.
            history: the earlier messages; the new messages and the answer are added to this list.
            timeout: seconds for the answer to begin, and then between two events; None for no limit.
            **extra: other fields of the request.

        Raises:
            InvalidOption: an argument is not valid.
            NoChatTemplate: the model has no chat template: use `complete`.
        """
        if history is not None and not isinstance(history, list):
            raise InvalidOption(
                "history is a list, to which the messages and the answer are added: history=[]."
            )
        limit, stream = arguments.limit("timeout", timeout), arguments.yes_or_no("stream", stream)
        sent = generate.conversation(messages, system, history)
        body = generate.body(
            max_tokens=max_tokens, temperature=temperature, json_schema=json_schema, extra=extra
        )
        began = time.monotonic()
        events = self._connect().stream("/v1/chat/completions", {**body, "messages": sent}, limit)
        done = None if history is None else partial(generate.remember, history, sent)
        return _answered(Stream(events, began, json_schema, done), stream=stream)

    @overload
    def complete(
        self,
        prompt: str,
        *,
        stream: Literal[False] = False,
        max_tokens: int | None = None,
        temperature: float | None = None,
        json_schema: Any = None,
        timeout: float | None = SILENCE_LIMIT,
        **extra: Any,
    ) -> Answer: ...

    @overload
    def complete(
        self,
        prompt: str,
        *,
        stream: Literal[True],
        max_tokens: int | None = None,
        temperature: float | None = None,
        json_schema: Any = None,
        timeout: float | None = SILENCE_LIMIT,
        **extra: Any,
    ) -> Stream: ...

    def complete(
        self,
        prompt: str,
        *,
        stream: bool = False,
        max_tokens: int | None = None,
        temperature: float | None = None,
        json_schema: Any = None,
        timeout: float | None = SILENCE_LIMIT,
        **extra: Any,
    ) -> Answer | Stream:
        """Return the continuation of a text. Arguments as for `chat`; without ``max_tokens``, vLLM stops after 16 tokens."""
        if not isinstance(prompt, str):
            raise InvalidOption("One prompt at a time, as text. server.client() takes several.")
        limit, stream = arguments.limit("timeout", timeout), arguments.yes_or_no("stream", stream)
        body = generate.body(
            max_tokens=max_tokens, temperature=temperature, json_schema=json_schema, extra=extra
        )
        began = time.monotonic()
        events = self._connect().stream("/v1/completions", {**body, "prompt": prompt}, limit)
        return _answered(Stream(events, began, json_schema), stream=stream)

    def embed(self, texts: str | Sequence[str], **extra: Any) -> list[list[float]]:
        """Return the embedding of each text, from an embedding model."""
        several = _several(texts)
        return pooling.embed(self._connect(), several, extra)

    def score(self, query: str, texts: str | Sequence[str], **extra: Any) -> list[float]:
        """Return a score for each text, from a reranking or embedding model: a higher score is a better answer."""
        query, several = arguments.text("query", query, "one text"), _several(texts)
        return pooling.score(self._connect(), query, several, extra)

    def classify(self, texts: str | Sequence[str], **extra: Any) -> list[Classified]:
        """Return the class of each text, from a classification model."""
        several = _several(texts)
        return pooling.classify(self._connect(), several, extra)


def _answered(pieces: Stream, *, stream: bool) -> Answer | Stream:
    """Return the stream itself if ``stream`` is True; else read it to its end, and return the whole answer."""
    if stream:
        return pieces
    with pieces:
        for _ in pieces:
            pass
    return pieces.answer


def _several(texts: str | Sequence[str]) -> list[str]:
    several = [texts] if isinstance(texts, str) else arguments.texts("texts", texts)
    if not several:
        raise InvalidOption("No text was given.")
    return several
