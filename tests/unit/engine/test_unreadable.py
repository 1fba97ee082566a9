"""Answers, events and files that are no JSON, JSON of another form, or so deep that Python gives up: said in words."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from vllm_magic.cluster import placement, wire
from vllm_magic.engine import executable
from vllm_magic.engine.client import exchange, generate, lora, pooling
from vllm_magic.engine.client.connection import Connection, Events
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.models import download, model_files
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup import log
from vllm_magic.errors import InvalidOption, RequestFailed
from vllm_magic.jupyter.commands import settings
from vllm_magic.jupyter.display import chat_cell

DEEP = "[" * 100_000
TEXTS = [DEEP, '{"a":' * 100_000, "", "null", "[]", "5", "{}", '{"error": 5}', '{"error": []}', '{"choices": 5}',
         '{"choices": [5]}', '{"choices": [{"delta": 5}]}', '{"data": [5]}', '{"data": 5}', "\0", "9" * 10_000]  # fmt: skip
ENDPOINT = Endpoint("127.0.0.1", 1, "key")


def answering(monkeypatch, text: str, status: int = 200) -> None:
    """Every client gets this answer."""
    monkeypatch.setattr(exchange, "ask", lambda *_, **__: exchange.HttpResponse(status, text.encode()))


@pytest.fixture(params=TEXTS, ids=lambda text: text[:20] or "nothing")
def text(request) -> str:
    return request.param


def test_the_deep_ones_are():
    for text in TEXTS[:2]:
        with pytest.raises(RecursionError):
            json.loads(text)


def test_an_answer(monkeypatch, text):
    answering(monkeypatch, text)
    try:
        Connection("tiny", ENDPOINT, lambda: None).post("/score", {})
    except RequestFailed as error:
        assert len(str(error)) < 500  # noqa: PT017 - some of them can be read


def test_a_refusal(monkeypatch, text):
    answering(monkeypatch, text, status=500)
    with pytest.raises(RequestFailed, match="tiny answers 500") as raised:
        Connection("tiny", ENDPOINT, lambda: None).post("/score", {})
    assert len(str(raised.value)) < 1000


def events_of(text: str) -> Events:
    """The events of a stream with this body."""
    pieces = iter([text.encode(), b""])
    answer = SimpleNamespace(more=lambda: next(pieces), renew=lambda _: None, close=lambda: None)
    return Events("tiny", answer, 1.0)


def test_events(text):
    try:
        list(generate.Stream(events_of(f"data: {text}\n\ndata: [DONE]\n\n"), 0.0))
    except RequestFailed as error:
        assert len(str(error)) < 500  # noqa: PT017 - some of them can be read


def test_a_pooling_model(monkeypatch, text):
    answering(monkeypatch, text)
    connection = Connection("tiny", ENDPOINT, lambda: None)
    for call in (pooling.embed, pooling.classify):
        with pytest.raises(RequestFailed):
            call(connection, ["a"], {})
    with pytest.raises(RequestFailed):
        pooling.score(connection, "a", ["b"], {})


def test_the_models(monkeypatch, text):
    answering(monkeypatch, text)
    try:
        assert lora.names(Connection("tiny", ENDPOINT, lambda: None)) == []
    except RequestFailed as error:
        assert "cannot be read" in str(error)  # noqa: PT017 - some of them can be read


ODD = ['"abc"', "[]", "[1]", "5", "{}", "null", "true", "1e999", '{"completion_tokens": "7", "prompt_tokens": []}',
       '{"completion_tokens": 1e999, "prompt_tokens": true}', '{"completion_tokens": -1, "prompt_tokens": ' + "9" * 4000 + "}",
       '{"completion_tokens": {}, "prompt_tokens": null}']  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_counts_are_none(odd):
    event = f'{{"choices": [{{"delta": {{"content": "hi"}}, "finish_reason": {odd}}}], "usage": {odd}}}'
    stream = generate.Stream(
        events_of(
            f"data: {event}\n\ndata: {event}\n\n"
            'data: {"choices": [{"finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
        ),
        0.0,
    )
    assert "".join(stream) == "hihi"
    answer = stream.answer
    assert (answer.prompt_tokens, answer.completion_tokens, answer.tokens_per_second) == (None, None, None)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "9" * 4000, '"x"', "[]", "null"])
def test_an_index_that_is_none(monkeypatch, number):
    one = f'{{"index": {number}, "embedding": [{number}], "score": {number}, "label": "a", "probs": [{number}]}}'
    answering(monkeypatch, f'{{"data": [{one}]}}')
    connection = Connection("tiny", ENDPOINT, lambda: None)
    for ask in (
        lambda: pooling.embed(connection, ["x"], {}),
        lambda: pooling.score(connection, "q", ["x"], {}),
        lambda: pooling.classify(connection, ["x"], {}),
    ):
        with pytest.raises(RequestFailed, match="cannot be read"):
            ask()


def test_whether_it_sleeps(monkeypatch, text):
    answering(monkeypatch, text)
    assert Api(ENDPOINT, lambda: None).is_sleeping() is None


def test_an_answer_in_json(text):
    answer = generate.Answer(text, "", "", "stop", None, None, 0.0, None)
    try:
        assert answer.parsed == json.loads(text)
    except RequestFailed as error:
        assert "does not fit" in str(error)  # noqa: PT017 - some of them can be read


def test_a_schema(text):
    try:
        assert chat_cell._schema(text, {}) == json.loads(text)
    except InvalidOption as error:
        assert len(str(error)) < 500  # noqa: PT017 - some of them can be read


def test_a_line_of_a_job(text):
    assert wire.parse(wire.LINE + text) is None


def test_files(tmp_path, text):
    (tmp_path / placement.FILE_NAME).write_text(text)
    assert placement.read(tmp_path) == placement.Placement()
    (tmp_path / "index.json").write_text(text)
    download._load(tmp_path / "index.json")


class TestPipes:
    """A pipe in place of a file would be waited for, for ever."""

    @pytest.fixture
    def pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe", 0o700)
        return tmp_path / "pipe"

    def test_a_program(self, pipe):
        assert executable.interpreter(str(pipe)) is None
        assert executable.shebang(str(pipe)) is None

    def test_a_log(self, pipe):
        assert log.tail(pipe, 10) == []
        assert log.Follower(pipe).new_lines() == []

    def test_what_is_known_of_a_place(self, pipe):
        pipe.rename(pipe.with_name(placement.FILE_NAME))
        assert placement.read(pipe.parent) == placement.Placement()

    def test_an_index(self, pipe):
        assert download._load(pipe) is None

    def test_a_revision(self, tmp_path):
        refs = tmp_path / "models--a--b" / "refs"
        refs.mkdir(parents=True)
        os.mkfifo(refs / "main")
        spec = ServerSpec("a/b", ("--download-dir", str(tmp_path)))
        assert model_files.find(spec, {}) is None

    def test_profiles(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        settings.profiles_path().parent.mkdir()
        os.mkfifo(settings.profiles_path())
        with pytest.raises(InvalidOption, match="cannot be read: it is no regular file"):
            settings.profile("big")
