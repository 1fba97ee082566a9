"""Requests to a server: to whom they are sent, what a traceback shows of them, and which answers are whole."""

from __future__ import annotations

import gc
import gzip
import json
import sys
import threading
import time
import warnings
from contextlib import closing, contextmanager

import pytest
from misbehaving import WAYS, Misbehaving

from vllm_magic.engine.client import connection as module
from vllm_magic.engine.client import generate, pooling
from vllm_magic.engine.client.connection import Connection
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.client.requests import OpenClients, RequestMethods
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.errors import RequestFailed

CLIENT = "vllm_magic/engine/client/"
KEY = "the-key-of-a-server"
LIMIT = 0.3  # seconds for an event
HANGS = 30.0  # seconds after which something hangs
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


def requests_to(port: int, verify=lambda: None) -> RequestMethods:
    """Return the methods that ask a server on this port."""
    return RequestMethods(lambda: connected(port, verify), OpenClients())


def connected(port: int, verify=lambda: None) -> Connection:
    return Connection("tiny", Endpoint("127.0.0.1", port, KEY), verify)


def sent(*events: str, head: bytes = EVENTS) -> bytes:
    """A stream of these events."""
    return b"".join([head, b"\r\n", *(f"data: {event}\n\n".encode() for event in events)])


def said(text: str = "hi", reason: str = '"stop"', usage: str = "null") -> str:
    return (
        f'{{"choices": [{{"delta": {{"content": "{text}"}}, "finish_reason": {reason}}}], "usage": {usage}}}'
    )


def in_time(call):
    """What the call raises; a failure where it hangs."""
    came = []

    def run() -> None:
        try:
            came.append(call())
        except RequestFailed as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANGS)
    assert came, "it hangs"
    return came[0]


class TestWhoGetsIt:
    @staticmethod
    def refuse() -> None:
        raise RequestFailed("tiny does not listen on its port any more")

    @pytest.mark.parametrize(
        "ask",
        [
            lambda asked: asked.chat("my secret"),
            lambda asked: asked.chat("my secret", stream=True),
            lambda asked: asked.complete("my secret"),
            lambda asked: asked.embed("my secret"),
            lambda asked: asked.score("my secret", "x"),
            lambda asked: asked.classify("my secret"),
            lambda asked: asked._connect().send("GET", "/v1/models"),
        ],
    )
    def test_nothing_is_sent_to_another_program(self, ask):
        with Misbehaving("silence") as other:
            with pytest.raises(RequestFailed, match="does not listen on its port any more"):
                ask(requests_to(other.port, self.refuse))
            time.sleep(0.1)
            assert other.heard == b""

    def test_nor_by_a_look(self):
        with Misbehaving("silence") as other:
            api = Api(Endpoint("127.0.0.1", other.port, KEY), self.refuse)
            for look in (api.metrics, api.is_sleeping, api.health, lambda: api.post("/sleep")):
                with pytest.raises(RequestFailed, match="any more"):
                    look()
            assert other.heard == b""

    @pytest.mark.parametrize("status", [302, 307, 308])
    def test_a_redirect_is_not_followed(self, status):
        with Misbehaving("silence") as other:
            there = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}/v1\r\nContent-Length: 0\r\n\r\n"
            with (
                Misbehaving(there.encode()) as server,
                pytest.raises(RequestFailed, match=f"answers {status}"),
            ):
                requests_to(server.port).chat("my secret")
            assert not other.met.is_set()


class TestTracebacks:
    @pytest.mark.parametrize("path", ["post", "stream"])
    def test_no_variable_shows_the_key(self, path):
        """An interrupt may come at any line, and IPython can show the variables of each frame."""
        line, shown = 0, []
        with Misbehaving(sent(said(), "[DONE]")) as server:
            asked = Connection("tiny", Endpoint("127.0.0.1", server.port, KEY), lambda: None)

            def ask() -> None:
                if path == "post":
                    asked.send("POST", "/x", {"prompt": "hello"})
                else:
                    with closing(asked.stream("/x", {"prompt": "hello"})) as events:
                        list(events)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # of a socket that was made a line before
                while (frames := interrupted(ask, line)) is not None:
                    shown += [
                        f"{frame.f_code.co_name}: {name}"
                        for frame in frames
                        for name, value in frame.f_locals.items()
                        if KEY in repr(value)
                    ]
                    line += 1
                gc.collect()
            assert KEY.encode() in server.heard
        assert line > 50
        assert set(shown) == set()


def interrupted(call, number: int):
    """The frames of our package that a traceback shows after an interrupt at this line of the run; None beyond its end."""
    rest = number

    def trace(frame, event, _):
        nonlocal rest
        if CLIENT not in frame.f_code.co_filename:
            return None
        if event == "line":
            rest -= 1
            if rest < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt as error:
        frames, at = [], error.__traceback__
        while at is not None:
            if CLIENT in at.tb_frame.f_code.co_filename:
                frames.append(at.tb_frame)
            at = at.tb_next
        return frames
    finally:
        sys.settrace(before)
    return None


class TestWholeAnswers:
    @pytest.mark.parametrize(
        ("events", "kept"),
        [
            ([said(reason="null")], "hi"),
            ([said()], "hi"),  # [DONE] did not come: there may have been more
            ([said(reason="null"), "[DONE]"], "hi"),
            (["[DONE]"], ""),
            ([], ""),
        ],
    )
    def test_one_that_ends_too_early(self, events, kept):
        history = []
        with Misbehaving(sent(*events)) as server:
            asked = requests_to(server.port)
            with pytest.raises(RequestFailed, match="ended before it was complete"):
                asked.chat("x", history=history)
            assert history == []
            stream = asked.chat("x", history=history, stream=True)
            with pytest.raises(RequestFailed, match="ended before it was complete"):
                list(stream)
            assert stream.answer.text == kept
            assert history == []

    def test_one_that_is_whole(self):
        history = []
        with Misbehaving(sent(said("a", "null"), ' {"choices": []}', said("b"), "[DONE]")) as server:
            assert requests_to(server.port).chat("x", history=history).text == "ab"
        assert history[-1]["content"] == "ab"

    def test_one_that_comes_a_byte_at_a_time(self, monkeypatch):
        """Line ends are split, too; and other line ends than "\\n" are in the text alone."""
        body = sent(said("a\u2028\x85b"), "[DONE]", head=EVENTS).replace(b"\n\n", b"\r\n\r\n")

        def bytewise():
            for number in range(len(body)):
                yield body[number : number + 1]

        monkeypatch.setitem(WAYS, "bytewise", bytewise)
        with Misbehaving("bytewise") as server:
            assert requests_to(server.port).chat("x").text == "a\u2028\x85b"

    def test_an_event_of_several_lines(self):
        body = EVENTS + b'\r\n: hello\nevent: x\nid: 1\ndata: {"a":\ndata:1}\n\n\ndata: [DONE]\n\n'
        with Misbehaving(body) as server, closing(connected(server.port).stream("/", {})) as events:
            assert list(events) == [{"a": 1}]


class TestOddAnswers:
    @pytest.mark.parametrize(
        "usage",
        ['"abc"', "[1]", "5", "true", '{"prompt_tokens": "x", "completion_tokens": "many"}', '{"completion_tokens": -1}',
         '{"prompt_tokens": NaN, "completion_tokens": Infinity}', f'{{"completion_tokens": {"9" * 400}}}',
         '{"prompt_tokens": true, "completion_tokens": [1]}'],
    )  # fmt: skip
    def test_counts_that_are_none(self, usage):
        with Misbehaving(sent(said("a", "null", usage), said("b", usage=usage), "[DONE]")) as server:
            answer = requests_to(server.port).chat("x")
        assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("ab", None, None)
        assert answer.tokens_per_second is None

    @pytest.mark.parametrize(
        "event",
        ["5", "null", "[1]", '"error"', '{"error": null}', '{"error": "boom"}', '{"error": {"code": "a", "message": "x"}}',
         '{"error": {"code": 1e999, "message": "x"}}', '{"choices": null}', '{"choices": [1]}',
         '{"choices": [{"delta": [1]}]}', '{"choices": [{"text": {"encode": 1}}]}', said(reason='{"a": 1}'),
         '{"choices": [{"delta": {"content": 7}}]}', "9" * 5000, "[" * 100_000],
    )  # fmt: skip
    def test_events(self, event):
        with Misbehaving(sent(event, "[DONE]")) as server, pytest.raises(RequestFailed) as caught:
            requests_to(server.port).chat("x")
        assert len(str(caught.value)) < 500
        assert caught.value.status in {None, 500}

    @pytest.mark.parametrize("charset", ["zlib", "rot13", "undefined", "idna", "\xff\xfe"])
    def test_a_stream_is_utf_8_whatever_it_says(self, charset):
        head = EVENTS.replace(b"stream\r\n", f"stream; charset={charset}\r\n".encode("latin-1"))
        with Misbehaving(sent(said("ä"), "[DONE]", head=head)) as server:
            assert requests_to(server.port).chat("x").text == "ä"

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "[]", "null", '"x"', "9" * 5000])
    def test_numbers_of_models_that_do_not_generate(self, number):
        data = (
            f'{{"data": [{{"index": {number}, "embedding": [1], "score": 1, "label": "a", "probs": [1]}}]}}'
        )
        with Misbehaving(JSON + data.encode()) as server:
            asked = connected(server.port)
            for call in (
                lambda: pooling.embed(asked, ["a"], {}),
                lambda: pooling.score(asked, "a", ["b"], {}),
                lambda: pooling.classify(asked, ["a"], {}),
            ):
                with pytest.raises(RequestFailed, match="cannot be read"):
                    call()


class TestErrorsWithAGoodStatus:
    """vLLM up to 0.15 answers 200 where a model does not have a route."""

    @staticmethod
    def refusal(message: str, code: int = 400) -> bytes:
        said = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}
        return JSON + json.dumps(said).encode()

    @pytest.mark.parametrize(
        ("ask", "api", "words"),
        [
            (lambda asked: asked.chat("a"), "Chat Completions", "The model of tiny generates no text"),
            (lambda asked: asked.complete("a"), "Completions", "The model of tiny generates no text"),
            (lambda asked: asked.embed("a"), "Embeddings", "The model of tiny gives no embeddings"),
            (lambda asked: asked.score("a", "b"), "Score", "The model of tiny gives no scores"),
            (lambda asked: asked.classify("a"), "Classification", "The model of tiny does not classify"),
        ],
    )
    def test_of_another_kind_of_model(self, ask, api, words):
        with (
            Misbehaving(self.refusal(f"The model does not support {api} API")) as server,
            pytest.raises(RequestFailed) as caught,
        ):
            ask(requests_to(server.port))
        assert str(caught.value).startswith(words)
        assert caught.value.status == 400

    def test_of_a_request(self):
        with (
            Misbehaving(self.refusal("it is too long", 413)) as server,
            pytest.raises(RequestFailed) as caught,
        ):
            requests_to(server.port).embed("a")
        assert (str(caught.value), caught.value.status) == ("tiny answers 413: it is too long.", 413)

    def test_json_that_is_no_error(self):
        with (
            Misbehaving(JSON + b'{"choices": []}') as server,
            pytest.raises(RequestFailed, match="its type is"),
        ):
            requests_to(server.port).chat("a")


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 256 tokens. However, you requested 300 output tokens",
        (  # vLLM 0.17
            "You passed 241 input tokens and requested 16 output tokens. However, the model's context length is only "
            "256 tokens, resulting in a maximum input length of 240 tokens."
        ),
    ],
)
def test_a_prompt_that_is_too_long(said):
    assert "greater --max-model-len" in str(module.refused("tiny", 400, said))


class TestWithoutEnd:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_stream(self, way):
        with Misbehaving(way) as server:
            failed = in_time(lambda: requests_to(server.port).chat("x", timeout=LIMIT))
            assert isinstance(failed, RequestFailed)
            assert "\n" not in str(failed)

    @pytest.mark.parametrize(
        "then",
        [b": keep-alive\n\n", b"event: x\n", b"\n", b"data: x\n", b"x", b"data: "],
        ids=["comments", "fields", "blank lines", "lines", "a line", "beginnings"],
    )
    @pytest.mark.parametrize("chunked", [True, False])
    def test_a_stream_without_an_event(self, monkeypatch, then, chunked):
        def drip():
            yield EVENTS + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
            while True:
                yield b"%x\r\n%b\r\n" % (len(then), then) if chunked else then
                time.sleep(0.02)

        monkeypatch.setitem(WAYS, "drip", drip)
        with Misbehaving("drip") as server:
            failed = in_time(lambda: requests_to(server.port).chat("x", timeout=LIMIT))
        assert "silent for too long" in str(failed)

    def test_trailers(self, monkeypatch):
        def drip():
            yield EVENTS + b"Transfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n0\r\n"
            while True:
                yield b"A: b\r\n"
                time.sleep(0.02)

        monkeypatch.setitem(WAYS, "drip", drip)
        with Misbehaving("drip") as server:
            assert "silent" in str(in_time(lambda: requests_to(server.port).chat("x", timeout=LIMIT)))

    def test_an_event_each_now_and_then_is_enough(self, monkeypatch):
        """The time is that of an event, and not of the answer."""

        def events():
            yield EVENTS + b"\r\n"
            for _ in range(8):
                time.sleep(0.2)
                yield f"data: {said('x', 'null')}\n\n".encode()
            yield f"data: {said('x')}\n\ndata: [DONE]\n\n".encode()

        monkeypatch.setitem(WAYS, "events", events)
        with Misbehaving("events") as server:
            assert requests_to(server.port).chat("x", timeout=1.2).text == "x" * 9

    @pytest.mark.parametrize("line", [b"x" * 2**16, b"data: " + b"x" * 1000 + b"\n"])
    def test_an_event_is_not_of_any_length(self, monkeypatch, line):
        monkeypatch.setattr(module, "LONGEST_EVENT", 2**20)

        def long():
            yield EVENTS + b"\r\ndata: "
            while True:
                yield line

        monkeypatch.setitem(WAYS, "long", long)
        with Misbehaving("long") as server:
            assert "one event has more" in str(in_time(lambda: requests_to(server.port).chat("x")))
            assert server.sent < 2**24

    @pytest.mark.parametrize("encoding", ["gzip", "br, zstd, gzip", "deflate"])
    def test_an_answer_that_is_encoded(self, encoding):
        body = gzip.compress(sent(said(), "[DONE]").partition(b"\r\n\r\n")[2])
        head = EVENTS + f"Content-Encoding: {encoding}\r\n\r\n".encode()
        with Misbehaving(head + body) as server:
            with pytest.raises(RequestFailed, match=f"its encoding is {encoding}"):
                requests_to(server.port).chat("x")
            assert b"Accept-Encoding: identity" in server.heard


@contextmanager
def reading(server: Misbehaving):
    """A thread that reads a stream, and the stream; what the thread got is in the list."""
    stream, came = requests_to(server.port).chat("x", stream=True), []

    def read() -> None:
        try:
            came.extend(iter(stream))
        except RequestFailed as error:
            came.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield stream, came
    thread.join(HANGS)
    assert not thread.is_alive()


def test_an_abort_from_another_thread(monkeypatch):
    def silence():
        yield EVENTS + b"\r\n" + f"data: {said('x', 'null')}\n\n".encode()
        while True:
            time.sleep(0.05)
            yield b""

    monkeypatch.setitem(WAYS, "begun", silence)
    with Misbehaving("begun") as server, reading(server) as (stream, came):
        deadline = time.monotonic() + HANGS
        while not came:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stream.abort()
    assert came[0] == "x"
    assert isinstance(came[1], RequestFailed)


def test_a_limit_that_a_socket_does_not_take():
    with Misbehaving(sent(said(), "[DONE]")) as server:
        assert requests_to(server.port).chat("x", timeout=float("inf")).text == "hi"
        assert generate.Answer("", "", "", None, None, 2**53, 2.0, 1.0).tokens_per_second
