"""A real HTTP server with answers that the test gives, and a client for it."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vllm_magic.engine.client.health import Api
from vllm_magic.engine.endpoint import Endpoint


class Handler(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, str]]

    def do_GET(self):
        status, text = self.answers.get(self.path, (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(answers, context=None, host="127.0.0.1"):
    """Run a server that gives these answers by path; yield a client for it."""
    kind = type("Kind", (Handler,), {"answers": answers})
    server_kind = (
        type("Server", (ThreadingHTTPServer,), {"address_family": socket.AF_INET6}) if ":" in host else None
    )
    with (server_kind or ThreadingHTTPServer)((host, 0), kind) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        endpoint = Endpoint(host, server.server_address[1], "key", secure=context is not None)
        try:
            yield Api(endpoint, lambda: None)
        finally:
            server.shutdown()
