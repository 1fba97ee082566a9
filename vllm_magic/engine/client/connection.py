"""Requests to one server, and what may come of them in words."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.client import exchange
from vllm_magic.engine.client.exchange import Exchange
from vllm_magic.errors import InvalidOption, NoChatTemplate, RequestFailed, VllmMagicError
from vllm_magic.masking import Secret, SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    import openai

    from vllm_magic.engine.client.exchange import HttpResponse
    from vllm_magic.engine.endpoint import Endpoint

SILENCE_LIMIT = 600.0  # seconds for an answer, of a stream between two events of it; as in the openai package
# trust_env: a proxy from the environment has no business between a notebook and its own server.
# verify: the certificate of a server on this machine is made out to another name. (Where there is none, this spares
# httpx the reading of all authorities, 16 ms.)
# follow_redirects: the address that the answer names would get the prompt.
_OWN: Any = {"trust_env": False, "verify": False, "follow_redirects": False}
UNREADABLE = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)  # JSON of another form, with numbers that are none, or deep
SUCCESS = range(200, 300)
MOST = 2**30  # bytes of an answer that is no stream: of many embeddings
REFUSAL_LIMIT = 5.0  # seconds for what a server says to a request that it refuses
REFUSAL_MOST = 2**16  # bytes of that
LONGEST_EVENT = (
    2**26
)  # bytes of one event of a stream; one with the log probabilities of a long prompt has some 10 MB
_QUOTED = 300  # characters of what the server says; it may quote the whole request
_SILENT = "was silent for too long"
_TOO_LONG = f"one event has more than {LONGEST_EVENT // 2**20} MiB"

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

    Each request has a connection of its own: closing that is how vLLM is told that nobody waits for the answer, and no
    idle connection is left for a server that stops.

    Args:
        name: of the server, for messages.
        endpoint: how it is reached.
        verify: called when a connection is made, and before anything is sent; raises `RequestFailed` where another
            program than the server listens there. Each request carries the key and the prompt.
    """

    def __init__(self, name: str, endpoint: Endpoint, verify: Callable[[], object] = lambda: None) -> None:
        self._name = name
        self._endpoint = endpoint
        self.verify = verify

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

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, limit: float) -> HttpResponse:
        data = b"" if body is None else _packed(body)
        headers = self._headers | ({"Content-Type": "application/json"} if data else {})
        with told(self._name):
            answer = exchange.ask(
                method,
                self._endpoint.url + path,
                limit,
                body=data,
                headers=headers,
                most=MOST,
                connected=self.verify,
            )
        self._check(answer.status, answer.text if not answer.ok else "", path)
        return answer

    def stream(self, path: str, body: Mapping[str, Any], limit: float = SILENCE_LIMIT) -> Events:
        """The events of an answer as they come; close it when done. It is the user's own, so it may take any time.

        Args:
            path: of the route.
            body: as for `post`.
            limit: seconds for the head of the answer, and then for each event of it.

        Raises:
            RequestFailed: the request was refused.
            InvalidOption: the body cannot be JSON.
        """
        data = _packed(body)
        headers = self._headers | {"Content-Type": "application/json"}
        with told(self._name, _SILENT):
            sent = Exchange(
                "POST",
                self._endpoint.url + path,
                limit,
                body=data,
                headers=headers,
                connected=self.verify,
            )
        try:
            failed = sent.status not in SUCCESS
            said = sent.beginning(REFUSAL_LIMIT, REFUSAL_MOST) if failed else b""
            self._check(sent.status, said.decode(errors="replace"), path)
            with told(self._name):
                _check_stream(sent)
        except BaseException:
            sent.close()
            raise
        return Events(self._name, sent, limit)

    def openai_client(self, check: Callable[[], object]) -> openai.OpenAI:
        """The openai package's client.

        Args:
            check: called before each request, and again on its connection before anything is sent; what it raises is
                raised in place of a request. Once the server has ended, its port may be another program's, and each
                request carries the key.

        Raises:
            VllmMagicError: it is not installed.
        """
        package = _openai()
        made: openai.OpenAI = package.OpenAI(
            base_url=f"{self._endpoint.url}/v1",
            api_key=self._endpoint.api_key,
            http_client=_checked(package.DefaultHttpxClient, check, _hook),
        )
        return made

    def async_openai_client(self, check: Callable[[], object]) -> openai.AsyncOpenAI:
        """The openai package's client for asyncio. Takes and raises what `openai_client` does."""
        package = _openai()
        made: openai.AsyncOpenAI = package.AsyncOpenAI(
            base_url=f"{self._endpoint.url}/v1",
            api_key=self._endpoint.api_key,
            http_client=_checked(package.DefaultAsyncHttpxClient, check, _async_hook),
        )
        return made

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": Secret(f"Bearer {self._endpoint.api_key}")}

    def _check(self, status: int, text: str, path: str) -> None:
        if status not in SUCCESS:
            raise refused(self._name, status, _message(text), path)


class Events:
    """The events of one answer (server-sent events), each as JSON. Closing it ends the request on the server.

    Comments, with which a server keeps a connection open, are no events.

    Args:
        name: of the server, for messages.
        answer: whose body is not read yet.
        limit: seconds for each event.
    """

    def __init__(self, name: str, answer: Exchange, limit: float) -> None:
        self._name = name
        self._answer = answer
        self._limit = limit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each event.

        Raises:
            RequestFailed: the server broke off, or was silent for too long.
        """
        with told(self._name, _SILENT):
            for data in self._events():
                if data == b"[DONE]":
                    return
                content = json.loads(data)
                if "error" in content:  # the engine died, say; the status was sent long before
                    code = content["error"].get("code")
                    status = code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR.value
                    raise refused(self._name, status, _message(data.decode(errors="replace")))
                yield content
            raise exchange.NoAnswerError("the answer ended before it was complete")

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._answer.close()

    def abort(self) -> None:
        """End the request from another thread: who waits there for the next event hears that the server broke off."""
        self._answer.abort()

    def _events(self) -> Iterator[bytes]:
        """The data of each event; each gets the whole limit of time."""
        data: list[bytes] = []
        size = 0
        self._answer.renew(self._limit)
        for line in self._lines():
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").removeprefix(b" "))
                size += len(line)
                if size > LONGEST_EVENT:
                    raise exchange.NoAnswerError(_TOO_LONG)
            elif not line and data:
                yield b"\n".join(data)
                data, size = [], 0
                self._answer.renew(self._limit)

    def _lines(self) -> Iterator[bytes]:
        """The whole lines of the body, without their ends."""
        begun: list[bytes] = []
        size = 0
        while piece := self._answer.more():
            first, *others = piece.split(b"\n")
            begun.append(first)
            size += len(first)
            if size > LONGEST_EVENT:
                raise exchange.NoAnswerError(_TOO_LONG)
            for following in others:
                yield b"".join(begun).removesuffix(b"\r")
                begun, size = [following], len(following)


def _check_stream(answer: Exchange) -> None:
    """Raise `ValueError` where the body of an answer is no stream of events as it is."""
    if (encoding := answer.header("Content-Encoding").strip().lower()) not in {"", "identity"}:
        raise ValueError(f"its encoding is {encoding[:_QUOTED]}, which was not asked for")
    kind = answer.header("Content-Type")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        raise ValueError(f"its type is {kind[:_QUOTED] or 'not told'}, and not text/event-stream")


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
def told(name: str, late: str = "has not answered in time") -> Iterator[None]:
    """Tell what is wrong with a connection in words; ``late`` where the time was up."""
    look = f"%vllm shows its state, %vllm logs {name} the end of its log"
    try:
        yield
    except exchange.UnreachableError as error:
        raise RequestFailed(f"{name} cannot be reached: {error}. {look}.") from None
    except exchange.TooLateError:
        raise RequestFailed(f"{name} {late}. {look}; timeout=SECONDS waits longer.") from None
    except exchange.NoAnswerError as error:
        raise RequestFailed(f"{name} broke off: {error}. {look}.") from None
    except UNREADABLE as error:
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
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return SecretBytes(text.encode())
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


def _checked(
    kind: type[Any], check: Callable[[], object], hook: Callable[[Callable[[], object]], object]
) -> Any:
    """An HTTP client of this kind that calls ``check`` before each request, and again on its connection.

    The openai package builds a request outside the code that tries again after any error. The "trace" extension of
    httpcore is called between connecting, or taking a connection that was kept, and sending.
    """

    class Checked(kind):  # type: ignore[misc]
        def build_request(self, *args: Any, **options: Any) -> Any:
            check()
            request = super().build_request(*args, **options)
            request.extensions = {**request.extensions, "trace": hook(check)}
            return request

    return Checked(**_OWN)


def _hook(check: Callable[[], object]) -> Callable[[str, object], None]:
    def before_sending(event: str, _: object) -> None:
        if event.endswith(".send_request_headers.started"):
            check()

    return before_sending


def _async_hook(check: Callable[[], object]) -> Callable[[str, object], Coroutine[None, None, None]]:
    before_sending = _hook(check)

    async def awaited(event: str, said: object) -> None:
        before_sending(event, said)

    return awaited


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise VllmMagicError("The openai package is not installed here: %pip install openai") from None
    return openai
