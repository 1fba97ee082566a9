"""Requests to one server, and what may come of them in words."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.client import exchange
from vllm_magic.errors import InvalidOption, NoChatTemplate, RequestFailed, VllmMagicError
from vllm_magic.masking import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import httpx
    import openai

    from vllm_magic.engine.client.exchange import Answer
    from vllm_magic.engine.endpoint import Endpoint

SILENCE_LIMIT = 600.0  # seconds for an answer, of a stream between two words of it; as in the openai package
# trust_env: a proxy from the environment has no business between a notebook and its own server.
# verify: the certificate of a server on this machine is made out to another name. (Where there is none, this spares
# httpx the reading of all authorities, 16 ms.)
_OWN: Any = {"trust_env": False, "verify": False}
UNREADABLE = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)  # JSON of another form, or deep
SUCCESS = range(200, 300)
MOST = 2**30  # bytes of an answer that is no stream: of many embeddings
REFUSAL_LIMIT = 5.0  # seconds for what a server says to a request that it refuses
REFUSAL_MOST = 2**16  # bytes of that
_QUOTED = 300  # characters of what the server says; it may quote the whole request

_PHRASES = {int(status): status.phrase for status in HTTPStatus}

# Of vLLM (renderers/hf.py), and of older versions of transformers.
_NO_TEMPLATE = ("must provide a chat template", "chat_template is not set")
# What is missing where vLLM has no such route: it serves only those that suit the model (entrypoints/pooling/factories.py).
_ROUTES = {
    "/v1/chat/completions": "generates no text. Use server.embed, server.score or server.classify",
    "/v1/completions": "generates no text. Use server.embed, server.score or server.classify",
    "/v1/embeddings": "gives no embeddings. Start an embedding model, or this one with --runner pooling",
    "/score": "gives no scores. Start a reranking or embedding model",
    "/classify": "does not classify. Start a classification model",
    "/v1/load_lora_adapter": "takes no adapters now: start it with --enable-lora",
    "/v1/unload_lora_adapter": "takes no adapters now: start it with --enable-lora",
}


class Connection:
    """Sends requests to one server. Safe to use from any thread.

    Each request has an HTTP client of its own (0.2 ms): closing that surely closes its connection, which is how vLLM
    is told that nobody waits for the answer, and no idle connection is left for a server that stops.

    Args:
        name: of the server, for messages.
        endpoint: how it is reached.
    """

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self._name = name
        self._endpoint = endpoint

    def post(self, path: str, body: Mapping[str, Any], limit: float = SILENCE_LIMIT) -> Any:
        """The JSON that the server answers.

        Args:
            path: of the route.
            body: becomes JSON; what is None is left out, so that vLLM's own defaults hold.
            limit: seconds for the whole answer.

        Raises:
            RequestFailed: there is no such answer.
            InvalidOption: the body cannot be JSON.
        """
        with told(self._name):
            return self._ask("POST", path, body, limit).json()

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        limit: float = SILENCE_LIMIT,
    ) -> str:
        """The text that the server answers. Takes and raises what `post` does."""
        return self._ask(method, path, body, limit).text

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, limit: float) -> Answer:
        data = b"" if body is None else _packed(body)
        headers = self._headers | ({"Content-Type": "application/json"} if data else {})
        with told(self._name):
            answer = exchange.ask(
                method, self._endpoint.url + path, limit, body=data, headers=headers, most=MOST
            )
        self._check(answer.status, answer.text if not answer.ok else "", path)
        return answer

    def stream(self, path: str, body: Mapping[str, Any], limit: float = SILENCE_LIMIT) -> Events:
        """The events of an answer as they come; close it when done. It is the user's own, so it may take any time.

        Args:
            path: of the route.
            body: as for `post`.
            limit: seconds without a word from the server.

        Raises:
            RequestFailed: the request was refused.
            InvalidOption: the body cannot be JSON.
        """
        data = _packed(body)
        client = self._client(limit)
        try:
            with told(self._name):
                request = client.build_request(
                    "POST", path, content=data, headers={"Content-Type": "application/json"}
                )
                events = Events(self._name, client, client.send(request, stream=True))
            self._check(events.status, events.refusal(), path)
        except BaseException:
            client.close()
            raise
        return events

    def openai_client(self, check: Callable[[], object]) -> openai.OpenAI:
        """The openai package's client.

        Args:
            check: called before each request; what it raises is raised in place of a request. Once the server has
                ended, its port may be another program's, and each request carries the key.

        Raises:
            VllmMagicError: it is not installed.
        """
        package = _openai()
        made: openai.OpenAI = package.OpenAI(
            base_url=f"{self._endpoint.url}/v1",
            api_key=self._endpoint.api_key,
            http_client=_checked(package.DefaultHttpxClient, check),
        )
        return made

    def async_openai_client(self, check: Callable[[], object]) -> openai.AsyncOpenAI:
        """The openai package's client for asyncio. Takes and raises what `openai_client` does."""
        package = _openai()
        made: openai.AsyncOpenAI = package.AsyncOpenAI(
            base_url=f"{self._endpoint.url}/v1",
            api_key=self._endpoint.api_key,
            http_client=_checked(package.DefaultAsyncHttpxClient, check),
        )
        return made

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": Secret(f"Bearer {self._endpoint.api_key}")}

    def _client(self, limit: float) -> httpx.Client:
        import httpx

        return httpx.Client(
            base_url=self._endpoint.url,
            headers=self._headers,
            timeout=httpx.Timeout(limit, connect=min(limit, exchange.CONNECT_LIMIT)),
            **_OWN,
        )

    def _check(self, status: int, text: str, path: str) -> None:
        if status not in SUCCESS:
            raise refused(self._name, status, _message(text), path)


class Events:
    """The events of one answer (server-sent events), each as JSON. Closing it ends the request on the server.

    Args:
        name: of the server, for messages.
        client: of this request alone.
        answer: whose body is not read yet.

    Attributes:
        status: of the answer.
    """

    def __init__(self, name: str, client: httpx.Client, answer: httpx.Response) -> None:
        self._name = name
        self._client = client
        self._answer = answer
        answer.encoding = "utf-8"  # as server-sent events are, whatever the head says: Python has codecs that are none of text
        self.status = answer.status_code

    def refusal(self) -> str:
        """The beginning of the body where the status is one of failure, as far as it comes in time; else ""."""
        import httpx

        text = b""
        if self.status not in SUCCESS:
            ending = threading.Timer(REFUSAL_LIMIT, self.abort)
            ending.start()
            try:
                with suppress(httpx.HTTPError):
                    for piece in self._answer.iter_raw():  # compressed or not: it may be a bomb
                        text += piece
                        if len(text) > REFUSAL_MOST:
                            break
            finally:
                ending.cancel()
        return text.decode(errors="replace")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each event.

        Raises:
            RequestFailed: the server broke off.
        """
        from httpx_sse import EventSource

        with told(self._name):
            for event in EventSource(self._answer).iter_sse():
                if event.data == "[DONE]":
                    return
                content = json.loads(event.data)
                if "error" in content:  # the engine died, say; the status was sent long before
                    code = content["error"].get("code")
                    raise refused(self._name, code or 500, _message(event.data))
                yield content

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self.abort()  # the server hears of it also where a forked child has a copy of the connection
        self._client.close()

    def abort(self) -> None:
        """End the request from another thread: who waits there for the next event hears that the server broke off."""
        stream = self._answer.extensions.get("network_stream")
        connected = stream.get_extra_info("socket") if stream is not None else None
        if connected is not None:
            with suppress(OSError):  # it is over already
                connected.shutdown(socket.SHUT_RDWR)  # close(2) would leave the other thread in its read


def refused(name: str, status: int, message: str, path: str = "") -> RequestFailed:
    """What the server's refusal means.

    Args:
        name: of the server.
        status: of HTTP.
        message: the server's own.
        path: of the route, "" in the middle of an answer.
    """
    if any(words in message for words in _NO_TEMPLATE):
        return NoChatTemplate(
            f"The model of {name} has no chat template. Use server.complete, or start it with --chat-template FILE",
            status,
        )
    missing = status == HTTPStatus.NOT_FOUND
    if missing and path in _ROUTES and "Not Found" in message:
        return RequestFailed(f"The model of {name} {_ROUTES[path]}.", status)
    hint = ""
    if "maximum context length" in message:  # renderers/params.py
        hint = "Shorten it, ask for fewer tokens, or start the server with a greater --max-model-len."
    elif missing and "does not exist" in message:
        hint = f"Leave the model out for the one that {name} serves."
    elif status == HTTPStatus.UNAUTHORIZED:
        hint = "server.api_key is the key that this server was started with."
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = f"%vllm logs {name} tells why; if its engine is dead: %vllm restart {name}."
    said = message[:_QUOTED].strip().rstrip(".") or _PHRASES.get(status, "it says nothing")
    return RequestFailed(f"{name} answers {status}: {said}. {hint}".strip(), status)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Tell what is wrong with a connection in words."""
    import httpx
    from httpx_sse import SSEError

    look = f"%vllm shows its state, %vllm logs {name} the end of its log"
    try:
        yield
    except httpx.ConnectError as error:
        raise RequestFailed(f"{name} cannot be reached: {error}. {look}.") from None
    except httpx.TimeoutException:
        raise RequestFailed(
            f"{name} was silent for too long. {look}; timeout=SECONDS waits longer."
        ) from None
    except httpx.TransportError as error:
        raise RequestFailed(f"{name} broke off: {error}. {look}.") from None
    except exchange.UnreachableError as error:
        raise RequestFailed(f"{name} cannot be reached: {error}. {look}.") from None
    except exchange.TooLateError:
        raise RequestFailed(
            f"{name} has not answered in time. {look}; timeout=SECONDS waits longer."
        ) from None
    except exchange.NoAnswerError as error:
        raise RequestFailed(f"{name} broke off: {error}. {look}.") from None
    except (SSEError, httpx.DecodingError, *UNREADABLE) as error:
        raise RequestFailed(f"{name} answers what cannot be read: {error}. {look}.") from None


@contextmanager
def readable() -> Iterator[None]:
    """What is taken out of an answer here is said to make no sense, if it does not."""
    try:
        yield
    except UNREADABLE as error:
        raise RequestFailed(f"The server answers what cannot be read: {error}. See %vllm logs.") from None


def _packed(body: Mapping[str, Any]) -> bytes:
    said = {name: value for name, value in body.items() if value is not None}
    try:
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"The request cannot be written as JSON: {error}.") from None


def _message(text: str) -> str:
    """The words of an error: vLLM's `ErrorResponse`, FastAPI's ``{"detail": ...}``, or anything."""
    try:
        content = json.loads(text)
        error = content.get("error", content.get("detail", text))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except UNREADABLE:
        return text


def _checked(kind: type[Any], check: Callable[[], object]) -> Any:
    """An HTTP client of this kind that calls ``check`` before each request.

    The openai package builds a request outside the code that tries again after any error.
    """

    class Checked(kind):  # type: ignore[misc]
        def build_request(self, *args: Any, **options: Any) -> Any:
            check()
            return super().build_request(*args, **options)

    return Checked(**_OWN)


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise VllmMagicError("The openai package is not installed here: %pip install openai") from None
    return openai
