"""One request: every answer has an end in time and in bytes, whoever gives it."""

from __future__ import annotations

import threading
import time

import pytest
from http_answers import serving
from misbehaving import WAYS, Misbehaving

from vllm_magic.engine.client import connection, health
from vllm_magic.engine.client.connection import Connection
from vllm_magic.engine.client.exchange import Exchange, NoAnswerError, TooLateError, UnreachableError, ask
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.errors import ClusterUnreachable, RequestFailed

LIMIT = 0.3  # seconds for an answer
HANGS = 30.0  # seconds after which it hangs
TAKEN = 2**24  # bytes that may be read, and lie in the buffers of the connection


def in_time(call):
    """What a call returns, or raises; a failure where it hangs."""
    came = []

    def run() -> None:
        try:
            came.append((call(), None))
        except Exception as error:  # noqa: BLE001 - it is raised below
            came.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANGS)
    assert came, "it hangs"
    result, error = came[0]
    if error is not None:
        raise error
    return result


def endpoint(server: Misbehaving) -> Endpoint:
    return Endpoint("127.0.0.1", server.port, "key")


class TestWithoutEnd:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_request(self, way):
        with Misbehaving(way) as server:
            with pytest.raises(NoAnswerError):
                in_time(lambda: ask("GET", f"{server.url}/x", LIMIT))
            assert server.sent < TAKEN

    @pytest.mark.parametrize("way", ["a body, a byte at a time", "chunks without end", "headers without end"])
    def test_every_look_at_a_server(self, way, monkeypatch):
        monkeypatch.setattr(health, "ANSWER_LIMIT", LIMIT)
        with Misbehaving(way) as server:
            client = Api(endpoint(server), lambda: None)
            assert in_time(client.health) is None
            for look in (client.activity, client.metrics, client.is_sleeping):
                assert in_time(look) is None
            assert in_time(lambda: client.post("/sleep", limit=LIMIT)) is None

    @pytest.mark.parametrize("way", ["a body, a byte at a time", "headers, a byte at a time"])
    def test_a_small_answer_of_a_server(self, way):
        with Misbehaving(way) as server:
            asked = Connection("tiny", endpoint(server), lambda: None)
            with pytest.raises(RequestFailed, match="tiny has not answered in time"):
                in_time(lambda: asked.send("GET", "/v1/models", limit=LIMIT))
            with pytest.raises(RequestFailed, match="tiny has not answered in time"):
                in_time(lambda: asked.post("/v1/embeddings", {"input": []}, LIMIT))

    @pytest.mark.parametrize("length", ["Content-Length: 100000000\r\n", "Content-Encoding: gzip\r\n"])
    def test_a_refusal(self, length, monkeypatch):
        monkeypatch.setattr(connection, "REFUSAL_LIMIT", LIMIT)
        monkeypatch.setitem(WAYS, "refusal", lambda: _refusing(length.encode(), slowly=True))
        with Misbehaving("refusal") as server, pytest.raises(RequestFailed, match=r"tiny answers 400: xx"):
            in_time(lambda: Connection("tiny", endpoint(server), lambda: None).stream("/v1/completions", {}))
        monkeypatch.setitem(WAYS, "refusal", lambda: _refusing(length.encode(), slowly=False))
        with Misbehaving("refusal") as server:
            with pytest.raises(RequestFailed, match=r"tiny answers 400: xx"):
                in_time(
                    lambda: Connection("tiny", endpoint(server), lambda: None).stream("/v1/completions", {})
                )
            assert server.sent < TAKEN

    @pytest.mark.parametrize("way", ["a body, a byte at a time", "chunks without end", "silence"])
    def test_the_head_of_a_cluster(self, way, monkeypatch):
        from vllm_magic.cluster import rest, survey

        monkeypatch.setattr(rest, "RESPONSE_LIMIT", LIMIT)
        monkeypatch.setattr(rest, "LARGEST_RESPONSE", 2**20)
        with Misbehaving(way) as head, pytest.raises(ClusterUnreachable, match="does not answer"):
            in_time(lambda: survey.survey(head.url))

    def test_a_head_that_knows_every_job(self):
        from vllm_magic.cluster import teardown
        from vllm_magic.cluster.rest import Ray

        body = b'{"submission_id": "x", "status": "SUCCEEDED"}'
        with Misbehaving(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as head:
            assert len(in_time(lambda: teardown._known(Ray(head.url), "x"))) == teardown.MOST_HELPERS


def _refusing(header: bytes, *, slowly: bool):
    yield b"HTTP/1.1 400 Bad Request\r\n" + header + b"\r\n"
    while True:
        yield b"x" if slowly else b"x" * 2**16
        time.sleep(0.05 if slowly else 0)


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "body"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
            (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
            (b"HTTP/1.0 200 OK\r\n\r\n", b""),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        ],
    )
    def test_whole_ones(self, answer, body):
        with Misbehaving(answer) as server:
            assert ask("GET", server.url, HANGS) == (200, body)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nok\r\n0\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"",
        ],
    )
    def test_others_are_none(self, answer):
        with Misbehaving(answer) as server, pytest.raises(NoAnswerError) as caught:
            ask("GET", server.url, HANGS)
        assert str(caught.value)

    def test_a_redirect_is_not_followed(self):
        with serving({}) as other:
            answer = b"HTTP/1.1 302 Found\r\nLocation: %b/\r\nContent-Length: 0\r\n\r\n" % other._url.encode()
            with Misbehaving(answer) as server:
                assert ask("GET", server.url, HANGS).status == 302

    def test_json_that_is_nested_too_deeply(self):
        text = "[" * 200_000
        with serving({"/x": (200, text)}) as client:
            answer = ask("GET", f"{client._url}/x", HANGS)
            assert answer.ok
            with pytest.raises(ValueError, match="nested"):
                answer.json()

    def test_what_is_sent(self):
        with Misbehaving(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
            ask("PUT", f"{server.url}/a/b?c=d", HANGS, body=b"xyz", headers={"Authorization": "Bearer k"})
        head, _, body = server.heard.partition(b"\r\n\r\n")
        first, *headers = head.split(b"\r\n")
        assert (first, body) == (b"PUT /a/b?c=d HTTP/1.1", b"xyz")
        assert set(headers) == {
            b"Host: 127.0.0.1:%d" % server.port,
            b"Connection: close",
            b"Accept-Encoding: identity",
            b"Content-Length: 3",
            b"Authorization: Bearer k",
        }

    def test_a_key_that_is_no_header_is_not_quoted(self):
        with Misbehaving(b"") as server, pytest.raises(NoAnswerError) as caught:
            ask("GET", server.url, HANGS, headers={"Authorization": "Bearer secret\r\nX: y"})
        assert "secret" not in str(caught.value)
        assert not server.met.is_set()

    def test_a_body_that_is_not_taken(self):
        """More than the buffers hold."""
        with Misbehaving("silence") as server, pytest.raises(TooLateError):
            in_time(lambda: ask("POST", server.url, 2.0, body=b"x" * 2**25))

    def test_nobody_there(self):
        with Misbehaving(b"") as server:
            pass
        with pytest.raises(UnreachableError):
            ask("GET", server.url, HANGS)

    def test_a_stream_goes_on_for_as_long_as_it_talks(self):
        with Misbehaving("a body, a byte at a time") as server:
            exchange = Exchange("GET", server.url, LIMIT)
            began = time.monotonic()
            for _ in exchange.pieces(HANGS):
                if time.monotonic() > began + 4 * LIMIT:
                    break
            exchange.close()
