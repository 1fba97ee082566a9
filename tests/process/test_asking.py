"""What a server can be asked: answers, streams and what cancels them, refusals in words."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import json
import os
import signal
import threading
import time
import weakref

import openai
import pydantic
import pytest

from vllm_magic.engine.client.connection import Connection, refused
from vllm_magic.engine.client.generate import PieceKind
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.client.metrics import Activity
from vllm_magic.engine.client.pooling import Classified
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.errors import InvalidOption, NoChatTemplate, RequestFailed, VllmMagicError

LIMIT = 20.0
SLOW = {"token_s": 0.05}


@pytest.fixture
def serve(manager, spec):
    """Starts a stand-in: ``serve("--flag", says="...")``."""

    def begin(*args: str, name: str = "", **faults):
        return manager.start(spec("tiny", *args, name=name, faults=faults)).server

    return begin


def activity(server) -> Activity:
    return Api(server._run.command.endpoint, lambda: None).activity()


def until_idle(server) -> None:
    """Wait until no request runs or waits."""
    deadline = time.monotonic() + LIMIT
    while activity(server).in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def requests(server) -> list[dict]:
    """What it was asked; it must run with --enable-log-requests."""
    lines = [line.partition("Received request: ")[2] for line in server.log_path.read_text().splitlines()]
    return [json.loads(line.partition(" ")[2]) for line in lines if line]


def test_a_turn(serve):
    answer = serve(says="The **sea** is blue.").chat("What is the sea?")
    assert (answer.text, str(answer)) == ("The **sea** is blue.",) * 2
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("stop", 4, 4)
    assert 0 < answer.first_token <= answer.seconds
    assert answer.tokens_per_second > 0
    assert (answer.reasoning, answer.refusal) == ("", "")


def test_what_is_sent(serve):
    server = serve("--enable-log-requests")
    server.chat("hello", system="Be brief.", max_tokens=3, temperature=0.0, top_p=0.5)
    server.chat([{"role": "user", "content": "hello"}], max_tokens=1)
    server.complete("Once", max_tokens=2, seed=7)
    first, second, third = requests(server)
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert (first["max_tokens"], first["temperature"], first["top_p"]) == (3, 0.0, 0.5)
    assert second["messages"] == [{"role": "user", "content": "hello"}]
    assert {"system", "temperature", "response_format", "model"}.isdisjoint(second)
    assert (third["prompt"], third["max_tokens"], third["seed"]) == ("Once", 2, 7)


def test_a_stream(serve):
    server = serve(says="one two three")
    stream = server.chat("count", stream=True)
    assert list(stream) == ["one", " two", " three"]
    assert stream.answer.text == "one two three"
    assert stream.answer.finish_reason == "stop"
    assert list(stream) == []
    assert "".join(server.complete("count", stream=True, max_tokens=2)) == "one two"


def test_leaving_a_stream_ends_the_request(serve):
    server = serve(**SLOW)
    for way in ("break", "with", "close", "forget"):
        stream = server.chat("go on", stream=True, max_tokens=1000)
        if way == "break":
            for _ in stream:
                break
        if way == "with":
            with stream:
                assert activity(server).in_flight == 1
        if way == "close":
            stream.close()
            stream.close()
        assert way == "forget" or stream.answer.finish_reason is None
        del stream
        until_idle(server)


def test_an_interrupt_ends_the_request(serve):
    """While it waits for the next token; SIGINT, as the kernel gets it."""
    server = serve(**SLOW)

    def interrupt() -> None:
        deadline = time.monotonic() + LIMIT
        while activity(server).in_flight == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        server.chat("go on", max_tokens=1000)
    thread.join()
    until_idle(server)


def test_half_an_answer_is_counted(serve):
    server = serve(**SLOW)
    stream = server.chat("go on", stream=True, max_tokens=1000)
    for number, _ in enumerate(stream, 1):
        if number == 3:
            break
    assert (stream.answer.text, stream.answer.completion_tokens) == (" word0 word1 word2", 3)


def test_a_history(serve):
    server = serve("--enable-log-requests", says="yes")
    history = []
    server.chat("one", history=history, system="Be kind.")
    server.chat("two", history=history)
    assert [message["content"] for message in history] == ["Be kind.", "one", "yes", "two", "yes"]
    assert requests(server)[1]["messages"] == history[:-1]
    for _ in server.chat("three", history=history, system="Be short.", stream=True):
        break
    assert [message["content"] for message in history][::6] == ["Be short.", "yes"]
    assert len(history) == 7


def test_what_was_never_answered_is_not_remembered(serve):
    history = []
    serve().chat("one", history=history, stream=True).close()
    assert history == []


def test_json(serve):
    class Person(pydantic.BaseModel):
        name: str
        age: int

    server = serve("--enable-log-requests", says='{"name": "Ada", "age": 36}')
    assert server.chat("Who?", json_schema={"type": "object"}).parsed == {"name": "Ada", "age": 36}
    assert server.chat("Who?", json_schema=Person).parsed == Person(name="Ada", age=36)
    plain, model = (one["response_format"] for one in requests(server))
    assert plain == {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert set(model["json_schema"]["schema"]["properties"]) == {"name", "age"}
    with pytest.raises(RequestFailed, match="allow more tokens"):
        _ = server.chat("Who?", json_schema=Person, max_tokens=1).parsed
    with pytest.raises(InvalidOption, match="json_schema"):
        server.chat("Who?", json_schema="object")


def test_reasoning_and_refusals(serve):
    server = serve(thinks="Let me see. ", says="It is 4.")
    stream = server.chat("2+2", stream=True)
    pieces = list(stream.pieces())
    assert [piece.kind for piece in pieces] == [PieceKind.REASONING] * 3 + [PieceKind.TEXT] * 3
    assert (stream.answer.reasoning, stream.answer.text) == ("Let me see. ", "It is 4.")
    answer = serve(name="no", refuses="I will not.").chat("2+2")
    assert (answer.text, answer.refusal) == ("", "I will not.")


def test_text_that_breaks_lines_elsewhere(serve):
    """Unicode has more line ends than server-sent events; and half a character is shown as "?"."""
    says = "a\u2028b\x85c\x0bd\r\ne \ud83d end"
    assert serve(says=says).chat("x").text == "a\u2028b\x85c\x0bd\r\ne ? end"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda server: server.chat("x", n=2), "leave n out"),
        (lambda server: server.complete(["a", "b"]), "One prompt"),
        (lambda server: server.embed([]), "No text"),
        (lambda server: server.chat("x", temperature=float("nan")), "JSON"),
        (lambda server: server.chat("x", stop=object()), "JSON"),
        (lambda server: server.chat("\ud83d"), "JSON"),
    ],
)
def test_what_cannot_be_asked(serve, ask, says):
    with pytest.raises(InvalidOption, match=says):
        ask(serve())


@pytest.mark.parametrize(
    ("faults", "ask", "says", "status"),
    [
        ({}, lambda one: one.chat("x", model="other"), "`other` does not exist. Leave the model out", 404),
        ({}, lambda one: one.chat("x", max_tokens=100), r"maximum context .*greater --max-model-len", 400),
        ({}, lambda one: one.chat([{"role": "user"}]), "answers 400: KeyError", 400),
        ({}, lambda one: one.embed("x"), "tiny gives no embeddings. Start an embedding model", 404),
        ({}, lambda one: one.score("x", "y"), "tiny gives no scores", 404),
        ({}, lambda one: one.classify("x"), "tiny does not classify", 404),
        ({"task": "embed"}, lambda one: one.chat("x"), "generates no text. Use server.embed", 404),
        ({"task": "embed"}, lambda one: one.complete("x"), "generates no text", 404),
    ],
)
def test_refusals_are_one_line_that_helps(serve, faults, ask, says, status):
    server = serve("--max-model-len", "64", **faults)
    with pytest.raises(RequestFailed, match=says) as caught:
        ask(server)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)
    until_idle(server)


def test_no_chat_template(serve):
    server = serve(chat_template=False)
    with pytest.raises(NoChatTemplate, match=r"Use server.complete, or start it with --chat-template FILE"):
        server.chat("x")
    assert server.complete("x", max_tokens=2).text == " word0 word1"


def test_other_words_on_chat_templates():
    error = refused("tiny", 400, "Refused request with untrusted chat template.")
    assert type(error) is RequestFailed
    assert str(error) == "tiny answers 400: Refused request with untrusted chat template."
    assert isinstance(refused("tiny", 400, "Cannot: tokenizer.chat_template is not set and"), NoChatTemplate)


def test_a_server_that_is_not_ready(manager, spec):
    server = manager.start(spec("tiny", faults={"import_s": 60.0}), wait=False).server
    with pytest.raises(RequestFailed, match=r"tiny is still starting: .* Wait for it"):
        server.chat("x")
    with pytest.raises(RequestFailed, match="still starting"):
        server.client()
    server.stop(grace=0)
    with pytest.raises(
        RequestFailed,
        match=r"tiny takes no requests any more: it is released. Start it again: vllm_magic\.start\(\.\.\.\)",
    ):
        server.chat("x")


def test_an_engine_that_dies_in_the_middle(serve):
    server = serve(token_s=0.05, dead_exit_s=5.0)
    (engine,) = [one.identity.pid for one in server.processes() if "EngineCor" in one.name]
    stream = server.chat("x", stream=True, max_tokens=1000)
    text = iter(stream)
    assert [next(text), next(text)] == [" word0", " word1"]
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(RequestFailed, match=r"EngineCore encountered an issue.*vllm_magic\.start\(\.\.\.\)"):
        list(text)
    assert stream.answer.text.startswith(" word0 word1")


def test_nobody_there(serve):
    connection = Connection("tiny", Endpoint("127.0.0.1", 9, "key"), lambda: None)
    with pytest.raises(RequestFailed, match="tiny cannot be reached") as caught:
        connection.post("/score", {})
    assert caught.value.status is None
    with pytest.raises(RequestFailed, match="cannot be reached"):
        connection.stream("/v1/completions", {})


def test_a_wrong_key_and_a_long_silence(serve):
    server = serve(token_s=30.0)
    wrong = Connection("tiny", Endpoint("127.0.0.1", server.port, "wrong"), lambda: None)
    with pytest.raises(RequestFailed, match=r"answers 401: Unauthorized. server.api_key"):
        wrong.stream("/v1/completions", {"prompt": "x"})
    with pytest.raises(RequestFailed, match="silent for too long"):
        server.chat("x", timeout=0.2)


def test_a_server_that_goes_away_in_the_middle(serve):
    server = serve(**SLOW)
    text = iter(server.chat("x", stream=True, max_tokens=1000))
    next(text)
    server.stop(grace=0)
    with pytest.raises(RequestFailed, match=r"tiny gave no complete answer|EngineCore encountered"):
        list(text)


def test_what_models_that_do_not_generate_are_for(serve):
    embedding = serve(task="embed")
    assert embedding.embed(["a", "bcd"]) == [[1.0, 0.5], [3.0, 0.5]]
    assert embedding.embed("ab") == [[2.0, 0.5]]
    assert embedding.score("q", ["a", "bcd"]) == [0.5, 0.25]
    classifier = serve(name="classifier", task="classify")
    assert classifier.classify(["a", "a longer text"]) == [
        Classified("short", (1.0, 0.0)),
        Classified("long", (0.25, 0.75)),
    ]


def test_a_proxy_is_not_asked(serve, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = serve(says="yes")
    assert server.chat("x").text == "yes"
    with server.client() as client:
        assert client.models.list().data[0].id == "tiny"


def test_the_openai_package(serve):
    server = serve(says="yes")
    messages = [{"role": "user", "content": "x"}]
    with server.client() as client:
        assert isinstance(client, openai.OpenAI)
        said = client.chat.completions.create(model=server.model, messages=messages)
        assert said.choices[0].message.content == "yes"

    async def ask() -> str:
        async with server.async_client() as client:
            said = await client.chat.completions.create(model=server.model, messages=messages)
            return said.choices[0].message.content

    assert asyncio.run(ask()) == "yes"


def test_the_clients_of_a_server_end_with_it(serve):
    """Its port may be another program's by then, and the key goes with each request."""
    server = serve(says="yes")
    client, unused, other = server.client(), server.client(), server.async_client()
    assert client.models.list().data[0].id == "tiny"
    assert not client.is_closed()
    server.stop()
    assert client.is_closed()
    assert unused.is_closed()
    plain = f"{server.name} takes no requests any more: it is released"
    with pytest.raises(RequestFailed, match=plain):
        client.models.list()
    with pytest.raises(RequestFailed, match=plain):
        server.client()

    async def ask() -> None:
        async with other:
            await other.models.list()

    with pytest.raises(RequestFailed, match=plain):
        asyncio.run(ask())


def test_a_client_is_not_kept(serve):
    server = serve()
    gone = weakref.ref(server.client())
    gc.collect()
    assert gone() is None


def test_without_the_openai_package(serve, monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name == "openai":
            raise ImportError(name)
        return real(name, *args)

    server = serve()
    monkeypatch.setattr(builtins, "__import__", without)
    for make in (server.client, server.async_client):
        with pytest.raises(VllmMagicError, match="%pip install openai"):
            make()


def test_several_at_once(serve):
    """From any thread."""
    server = serve(says="yes")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(server.chat("x").text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["yes"] * 8


@contextlib.contextmanager
def answering(kind: str, body: bytes):
    """An HTTP server that answers this to everything."""
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield Connection("tiny", Endpoint("127.0.0.1", server.server_address[1], "key"), lambda: None)
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=utf-8", b"data: {}\n\ndata: [DONE]\n\n"),
        ("text/event-stream", b"data: {not json\n\n"),
        ("text/event-stream", b'data: "error"\n\n'),
        ("text/event-stream", b'data: {"error": "so"}\n\n'),
    ],
)
def test_what_is_no_vllm(kind, body):
    with (
        answering(kind, body) as connection,
        pytest.raises(RequestFailed, match="The answer of tiny cannot be read"),
        contextlib.closing(connection.stream("/v1/completions", {})) as events,
    ):
        list(events)


def test_keep_alive_comments_are_no_pieces():
    """``--sse-keep-alive-interval``."""
    with answering("text/event-stream", b': keep-alive\n\ndata: {"a": 1}\n\ndata: [DONE]\n\n') as connection:
        events = connection.stream("/v1/completions", {})
        assert list(events) == [{"a": 1}]
        events.close()
