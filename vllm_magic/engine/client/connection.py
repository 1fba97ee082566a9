"""Requests to one server, with messages for a person about every error."""

from __future__ import annotations

import json
import re
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

SILENCE_LIMIT = 600.0  # seconds for an answer, or between two events of a stream; as in the openai package
# trust_env: requests to the notebook's own server must not go through a proxy from the environment.
# verify: the certificate of a server on this machine is issued to another name. (For a server without TLS, this also saves
# 16 ms, in which httpx would read all certificate authorities.)
# follow_redirects: a redirect would send the prompt to another address.
_CLIENT_OPTIONS: Any = {"trust_env": False, "verify": False, "follow_redirects": False}
# The errors of reading JSON of an unexpected form, with invalid numbers, or nested too deeply.
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
SUCCESS = range(200, 300)
MOST = 2**30  # bytes of an answer that is not streamed, such as many embeddings
REFUSAL_LIMIT = 5.0  # seconds for the text of a refusal
REFUSAL_MOST = 2**16  # bytes of the text of a refusal
# Bytes of one event of a stream: the log probabilities of a long prompt take some 10 MB.
LONGEST_EVENT = 2**26
_QUOTED = 300  # characters that are quoted of the server's text, which may contain the whole request
_SILENT = "was silent for too long"
_TOO_LONG = f"one event has more than {LONGEST_EVENT // 2**20} MiB"

_PHRASES = {int(status): status.phrase for status in HTTPStatus}

# renderers/params.py; vLLM 0.17 has no "maximum" in it.
_TOO_LONG_PROMPT = re.compile(r"maximum context length|model's context length is only")
# Of vLLM (renderers/hf.py), and of older versions of transformers.
_NO_TEMPLATE = ("must provide a chat template", "chat_template is not set")
# Messages for missing routes: vLLM has only the routes that suit the model (entrypoints/pooling/factories.py).
_UNSUPPORTED = "The model does not support"  # vLLM up to 0.17 has all routes for each model
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

    Each request has its own connection. Closing the connection tells vLLM to abort the request, and a server that stops does
    not wait for idle connections.

    Args:
        name: the name of the server, for messages.
        endpoint: the address and the key of the server.
        verify: called when a connection is made, before anything is sent; it raises `RequestFailed` if another program
            listens at the address, since each request carries the key and the prompt.
    """

    def __init__(self, name: str, endpoint: Endpoint, verify: Callable[[], object]) -> None:
        self._name = name
        self._endpoint = endpoint
        self.verify = verify

    def post(self, path: str, body: Mapping[str, Any], limit: float = SILENCE_LIMIT) -> Any:
        """Send a request, and return the JSON of the answer.

        Args:
            path: the path of the route.
            body: the body, which is sent as JSON; fields that are None are left out, so that vLLM's defaults apply.
            limit: seconds for the whole answer.

        Raises:
            RequestFailed: the request failed, or the answer is not JSON.
            InvalidOption: the body cannot be written as JSON.
        """
        answer = self._ask("POST", path, body, limit)
        with request_errors(self._name):
            content = answer.json()
            self._check_content(content, answer.text, path)
            return content

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        limit: float = SILENCE_LIMIT,
    ) -> str:
        """Send a request, and return the text of the answer. Arguments and errors as for `post`."""
        return self._ask(method, path, body, limit).text

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, limit: float) -> HttpResponse:
        """Send a request, and return the answer if its status says success. Arguments and errors as for `post`."""
        data = b"" if body is None else _packed(body)
        headers = self._headers | ({"Content-Type": "application/json"} if data else {})
        with request_errors(self._name):
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
        """Send a request, and return the events of the answer as they arrive. The caller closes them.

        The whole answer has no limit of time.

        Args:
            path: the path of the route.
            body: as for `post`.
            limit: seconds for the head of the answer, and then for each event.

        Raises:
            RequestFailed: the request was refused.
            InvalidOption: the body cannot be written as JSON.
        """
        data = _packed(body)
        headers = self._headers | {"Content-Type": "application/json"}
        with request_errors(self._name, _SILENT):
            sent = Exchange(
                "POST",
                self._endpoint.url + path,
                limit,
                body=data,
                headers=headers,
                connected=self.verify,
            )
        try:
            failed = sent.status not in SUCCESS or _is_json(sent)
            said = (sent.beginning(REFUSAL_LIMIT, REFUSAL_MOST) if failed else b"").decode(errors="replace")
            self._check(sent.status, said, path)
            with request_errors(self._name):
                if failed:
                    self._check_content(json.loads(said), said, path)
                _check_stream(sent)
        except BaseException:
            sent.close()
            raise
        return Events(self._name, sent, limit)

    def openai_client(self, check: Callable[[], object]) -> openai.OpenAI:
        """Return a client of the openai package.

        Args:
            check: called before each request, and again after connecting and before anything is sent. Its errors are
                raised instead of sending the request. After the end of the server, another program may use its port, and
                each request carries the key.

        Raises:
            VllmMagicError: the openai package is not installed.
        """
        package = _openai()
        made: openai.OpenAI = package.OpenAI(
            base_url=f"{self._endpoint.url}/v1",
            api_key=self._endpoint.api_key,
            http_client=_checked(package.DefaultHttpxClient, check, _hook),
        )
        return made

    def async_openai_client(self, check: Callable[[], object]) -> openai.AsyncOpenAI:
        """Return a client of the openai package for asyncio. Arguments and errors as for `openai_client`."""
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

    def _check_content(self, content: Any, text: str, path: str) -> None:
        """Raise the error that an answer contains although its status says success, as some answers of vLLM up to 0.15 do."""
        if isinstance(content, dict) and isinstance(content.get("error"), dict):
            raise refused(self._name, _status(content["error"]), _message(text), path)


class Events:
    """The events of one answer (server-sent events), each as JSON. `close` ends the request on the server.

    Comments, with which a server keeps a connection open, do not count as events.

    Args:
        name: the name of the server, for messages.
        answer: the answer; its body has not been read.
        limit: seconds for each event.
    """

    def __init__(self, name: str, answer: Exchange, limit: float) -> None:
        self._name = name
        self._answer = answer
        self._limit = limit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each event.

        Raises:
            RequestFailed: the connection ended early, or the server was silent for too long.
        """
        with request_errors(self._name, _SILENT):
            for data in self._events():
                if data == b"[DONE]":
                    return
                content = json.loads(data)
                if "error" in content:  # as after a death of the engine; the status was sent long before
                    status = _status(content["error"])
                    raise refused(self._name, status, _message(data.decode(errors="replace")))
                yield content
            raise exchange.NoAnswerError("the answer ended before it was complete")

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._answer.close()

    def abort(self) -> None:
        """End the request from another thread; the thread that waits for the next event gets `RequestFailed`."""
        self._answer.abort()

    def _events(self) -> Iterator[bytes]:
        """Yield the data of each event. The limit of time applies to each event."""
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
        """Yield the whole lines of the body, without their line ends."""
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


def _status(error: Mapping[str, Any]) -> int:
    """Return the HTTP status that an error in the content of an answer names."""
    code = error.get("code")
    return code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR.value


def _kind(answer: Exchange) -> str:
    """Return the type of an answer's body, without its parameters."""
    return answer.header("Content-Type").partition(";")[0].strip().lower()


def _is_json(answer: Exchange) -> bool:
    return _kind(answer) == "application/json"


def _check_stream(answer: Exchange) -> None:
    """Check that the body of an answer is a stream of events.

    Raises:
        ValueError: it has another type, or is compressed.
    """
    if (encoding := answer.header("Content-Encoding").strip().lower()) not in {"", "identity"}:
        raise ValueError(f"its encoding is {encoding[:_QUOTED]}, which was not asked for")
    kind = answer.header("Content-Type")
    if _kind(answer) != "text/event-stream":
        raise ValueError(f"its type is {kind[:_QUOTED] or 'missing'}, and not text/event-stream")


def refused(name: str, status: int, message: str, path: str = "") -> RequestFailed:
    """Return the error for a refusal of the server.

    Args:
        name: the name of the server.
        status: the HTTP status.
        message: the server's message.
        path: the path of the route; "" for an error in the middle of an answer.
    """
    if any(words in message for words in _NO_TEMPLATE):
        return NoChatTemplate(
            f"The model of {name} has no chat template. Use server.complete, or start it with --chat-template FILE",
            status,
        )
    missing = status == HTTPStatus.NOT_FOUND
    if path in _ROUTES and ((missing and "Not Found" in message) or _UNSUPPORTED in message):
        return RequestFailed(f"The model of {name} {_ROUTES[path]}.", status)
    hint = ""
    if _TOO_LONG_PROMPT.search(message):
        hint = "Shorten it, ask for fewer tokens, or start the server with a greater --max-model-len."
    elif missing and "does not exist" in message:
        hint = f"Leave the model out for the one that {name} serves."
    elif status == HTTPStatus.UNAUTHORIZED:
        hint = "server.api_key is the key that this server was started with."
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = f"%vllm logs {name} shows why; if its engine is dead: %vllm restart {name}."
    said = message[:_QUOTED].strip().rstrip(".") or _PHRASES.get(status, "no message")
    return RequestFailed(f"{name} answers {status}: {said}. {hint}".strip(), status)


@contextmanager
def request_errors(name: str, late: str = "has not answered in time") -> Iterator[None]:
    """Turn the errors of a connection into `RequestFailed`.

    Args:
        name: the name of the server.
        late: the words for a request that took too long.
    """
    hint = f"%vllm shows its state, and %vllm logs {name} the end of its log"
    try:
        yield
    except exchange.UnreachableError as error:
        raise RequestFailed(f"{name} cannot be reached: {error}. {hint}.") from None
    except exchange.TooLateError:
        raise RequestFailed(f"{name} {late}. {hint}; timeout=SECONDS waits longer.") from None
    except exchange.NoAnswerError as error:
        raise RequestFailed(f"{name} gave no complete answer: {error}. {hint}.") from None
    except UNREADABLE as error:
        raise RequestFailed(f"The answer of {name} cannot be read: {error}. {hint}.") from None


@contextmanager
def readable() -> Iterator[None]:
    """Turn the errors of reading an answer into `RequestFailed`."""
    try:
        yield
    except UNREADABLE as error:
        raise RequestFailed(f"The answer of the server cannot be read: {error}. See %vllm logs.") from None


def _packed(body: Mapping[str, Any]) -> bytes:
    said = {name: value for name, value in body.items() if value is not None}
    try:
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return SecretBytes(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"The request cannot be written as JSON: {error}.") from None


def _message(text: str) -> str:
    """Return the message of an error: from vLLM's `ErrorResponse`, or FastAPI's ``{"detail": ...}``; else the text."""
    try:
        content = json.loads(text)
        error = content.get("error", content.get("detail", text))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except UNREADABLE:
        return text


def _checked(
    kind: type[Any], check: Callable[[], object], hook: Callable[[Callable[[], object]], object]
) -> Any:
    """Return an HTTP client that calls ``check`` before each request, and again after connecting.

    The openai package builds a request outside of its code that retries after errors. The "trace" extension of httpcore is
    called after connecting, or choosing an open connection, and before sending.
    """

    class Checked(kind):  # type: ignore[misc]
        def build_request(self, *args: Any, **options: Any) -> Any:
            check()
            request = super().build_request(*args, **options)
            request.extensions = {**request.extensions, "trace": hook(check)}
            return request

    return Checked(**_CLIENT_OPTIONS)


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
