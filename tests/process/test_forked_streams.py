"""A forked copy of a process that drops a stream leaves the stream of the process alone."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, sys, time
from vllm_magic.engine.client.connection import Connection
from vllm_magic.engine.client.generate import Stream
from vllm_magic.engine.endpoint import Endpoint

connection = Connection("tiny", Endpoint("127.0.0.1", int(sys.argv[1]), "the-key-of-a-server"), lambda: None)
stream = Stream(connection.stream("/v1/completions", {}), time.monotonic())
pieces = iter(stream)
print(next(pieces), flush=True)
child = os.fork()
if child == 0:
    pieces.close()
    if sys.argv[2] == "closes":
        stream.close()
    del pieces, stream
    gc.collect()
    os._exit(0)
os.waitpid(child, 0)
print("the child has ended", flush=True)
print(*pieces, stream.answer.finish_reason, flush=True)
"""


def event(text: str, reason: str) -> bytes:
    return f'data: {{"choices": [{{"text": "{text}", "finish_reason": {reason}}}]}}\n\n'.encode()


@pytest.mark.parametrize("child", ["closes", "drops"])
def test_the_process_reads_on(child):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = [sys.executable, "-c", PROGRAM, str(listener.getsockname()[1]), child]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(60)
                assert connection.recv(2**16).startswith(b"POST /v1/completions")
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event("one", "null")
                )
                assert process.stdout.readline() == "one\n"
                assert process.stdout.readline() == "the child has ended\n"
                connection.sendall(event("two", '"stop"') + b"data: [DONE]\n\n")
                assert process.stdout.readline() == "two stop\n"
            assert process.wait(60) == 0
