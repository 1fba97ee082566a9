"""The HTTP API: /health, /version, /metrics, and behind the key /v1/models, and what suits the model's task."""

from __future__ import annotations

import contextlib
import hmac
import json
import select
import ssl
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any

from . import log, pooling
from .dev_routes import DevRoutes
from .load import EngineDeadError, EngineState, StuckError
from .reply import Reply

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Sequence

    from . import dev_routes
    from .load import Answer, Load
    from .options import Options

_DEFAULT_TOKENS = 16
_KEEP_ALIVE_S = 5.0  # VLLM_HTTP_TIMEOUT_KEEP_ALIVE
_GENERATE = ("/v1/completions", "/v1/chat/completions")
_QUIET = ("warning", "error", "critical")


class Server(ThreadingHTTPServer):
    """Listens on a socket that was bound long before; a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 2048

    def __init__(
        self,
        bound: socket.socket,
        args: argparse.Namespace,
        load: Load,
        options: Options,
        engines: Sequence[int],
    ) -> None:
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        if args.ssl_certfile:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
            self.socket = context.wrap_socket(bound, server_side=True, do_handshake_on_connect=False)
        self.load = load
        self.options = options
        self.log_requests = args.enable_log_requests
        self.key = args.api_key
        self.names = args.served_model_name or [args.model]
        self.routes = DevRoutes(args, options, engines, self.names)
        self.max_model_len = args.max_model_len
        self.log_access = not args.disable_uvicorn_access_log and args.uvicorn_log_level not in _QUIET
        self.not_logged = (args.disable_access_log_for_endpoints or "").split(",")
        self.idle: set[socket.socket] = set()  # connections between two requests
        self.server_activate()

    def stop(self) -> None:
        """Accept no more, and close idle connections, as uvicorn does; answers under way go on."""
        self.shutdown()
        self.socket.close()
        for connection in tuple(self.idle):
            with contextlib.suppress(OSError):
                connection.shutdown(SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _has_answered = False
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        load = self.server.load
        if not self._allowed(path):
            return
        if path == "/health":
            self._send(200 if load.state is EngineState.ALIVE else 503, b"")
        elif path == "/metrics" and self.server.options.metrics_drip:
            self._drip()
        elif path == "/metrics":
            self._send(200, load.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/version":
            self._send_json(200, {"version": self.server.options.version})
        elif path == "/v1/models":
            cards = [self._model_card(name) for name in self.server.names]
            self._send_json(200, {"object": "list", "data": cards})
        else:
            self._send_answer(self.server.routes.get(path))

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._allowed(path):
            return
        options = self.server.options
        routes = _GENERATE if options.task == "generate" else pooling.ROUTES[options.task]
        if path not in routes and path in pooling.APIS and options.is_before(16):
            said = f"The model does not support {pooling.APIS[path]} API"
            self._send_json(200, _error(400, "BadRequestError", said))
            return
        if path not in routes:
            self._send_answer(self.server.routes.post(path, json.loads(body or b"{}")))
            return
        if self.server.log_requests:
            log.line(f"Received request: {path} {body.decode()}", "logger.py:46")
        if options.task != "generate":
            self._send_json(200, pooling.answer(path, json.loads(body)))
            return
        if "chat" in path and not options.chat_template:
            said = (
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
                "template if the tokenizer does not define one."
            )
            self._send_error_json(400, "BadRequestError", said)
            return
        try:
            asked = json.loads(body)
            prompt = _prompt(asked, chat="chat" in path)
            count = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or _DEFAULT_TOKENS)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._send_error_json(400, "BadRequestError", f"{type(error).__name__}: {error}")
            return
        name = asked.get("model", self.server.names[0])
        limit = self.server.max_model_len
        if name not in self.server.names:
            self._send_error_json(404, "NotFoundError", f"The model `{name}` does not exist.", param="model")
        elif limit is not None and len(prompt) + count > limit:
            said = f"This model's maximum context length is {limit} tokens. However, you requested {count} output tokens"
            self._send_error_json(400, "BadRequestError", said, param="max_tokens")
        else:
            self._answer(Reply("chat" in path, name, len(prompt), count, options), asked)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:  # until the client goes away
            self.wfile.write(b"v")
            time.sleep(0.05)

    def _answer(self, reply: Reply, asked: dict[str, Any]) -> None:
        with self.server.load.answer(reply.prompt_tokens) as answer:
            try:
                if asked.get("stream"):
                    self._stream(reply, answer, asked.get("stream_options") or {})
                else:
                    self._send_json(200, reply.whole("".join(answer.words(reply.tokens))))
            except EngineDeadError as error:
                self._send_error_json(500, "InternalServerError", str(error))
            except StuckError:
                while self.rfile.read1(4096):  # type: ignore[attr-defined]  # until the client goes away
                    pass

    def _stream(self, reply: Reply, answer: Answer, wanted: dict[str, bool]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        reply.counts_on = wanted.get("continuous_usage_stats", False)
        try:
            for event in reply.parts(answer.words(reply.tokens)):
                self._event(event)
                if self._is_gone():
                    return
            if wanted.get("include_usage"):
                self._event(reply.only_usage())
        except EngineDeadError as error:
            self._event(_error(500, "InternalServerError", str(error)))
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _is_gone(self) -> bool:
        """Whether the client has closed the connection: nothing else comes of it while it waits for an answer."""
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        self.close_connection = True
        return True

    def _event(self, content: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(content)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _allowed(self, path: str) -> bool:
        key = self.server.key
        given = self.headers.get("Authorization", "")
        if (
            not key
            or not path.startswith("/v1")
            or hmac.compare_digest(given.encode(), f"Bearer {key}".encode())
        ):
            return True
        self._send_json(401, {"error": "Unauthorized"})
        return False

    def _model_card(self, name: str) -> dict[str, Any]:
        limit = self.server.max_model_len or 4096
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "parent": None if name == self.server.names[0] else self.server.names[0],
            "max_model_len": limit,
        }

    def _send_answer(self, answer: dev_routes.Answer | None) -> None:
        code, content = answer or (404, {"detail": "Not Found"})
        if isinstance(content, str):
            self._send(code, content.encode(), "text/plain")
        else:
            self._send_json(code, content)

    def _send_error_json(self, code: int, kind: str, message: str, param: str | None = None) -> None:
        self._send_json(code, _error(code, kind, message, param))

    def _send_json(self, code: int, content: dict[str, Any]) -> None:
        self._send(code, json.dumps(content).encode(), "application/json")

    def _send(self, code: int, body: bytes, kind: str | None = None) -> None:
        self.send_response(code)
        if kind is not None:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Say that the connection ends where the client asked for that, as uvicorn does."""
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def log_request(self, code: int | str = "-", *_size: int | str) -> None:
        """Log as uvicorn does."""
        if self.server.log_access and self.path.partition("?")[0] not in self.server.not_logged:
            host, port = self.client_address[:2]
            status = f"{int(code)} {HTTPStatus(int(code)).phrase}"
            before = f"{log.prefix()} " if log.coloured else ""
            log.write(1, f'{before}INFO:     {host}:{port} - "{self.requestline}" {status}\n')

    def handle_one_request(self) -> None:
        """Count the connection as idle until a request line has come; close it as uvicorn does where none comes."""
        self.server.idle.add(self.connection)
        try:
            if self._has_answered and not select.select([self.connection], [], [], _KEEP_ALIVE_S)[0]:
                self.close_connection = True
                return
            self._has_answered = True
            super().handle_one_request()
        finally:
            self.server.idle.discard(self.connection)

    def parse_request(self) -> bool:
        """A request line has come."""
        self.server.idle.discard(self.connection)
        return super().parse_request()

    def handle(self) -> None:
        """Serve one connection until either end closes it."""
        with contextlib.suppress(OSError):
            super().handle()


def _error(code: int, kind: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _prompt(asked: dict[str, Any], *, chat: bool) -> list[str]:
    if chat:
        return [word for message in asked["messages"] for word in str(message["content"]).split()]
    return str(asked["prompt"]).split()
