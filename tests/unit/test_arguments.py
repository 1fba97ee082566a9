"""What the Python API takes: what is plainly meant works, and everything else is one plain line, before anything starts."""

from __future__ import annotations

import math
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

import vllm_magic
from vllm_magic import api, arguments
from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption, RequestFailed
from vllm_magic.manager import switching  # noqa: F401 - with the manager, so that no test pays for the import
from vllm_magic.masking import SHOWN, Secret
from vllm_magic.server.server import Server

nan, inf = math.nan, math.inf


class Asked(Exception):
    """Raised in place of a start, with what is to be started."""

    def __init__(self, spec: ServerSpec, timeout: float | None = None) -> None:
        super().__init__("asked")
        self.spec = spec
        self.timeout = timeout


class NoManager:
    """Takes the manager's place: nothing starts in a test of this tier."""

    def start(self, spec, *, wait, timeout, report):
        raise Asked(spec, timeout)

    def fit(self, spec):
        raise Asked(spec)

    def stop(self, name):
        raise Asked(name)

    attach = stop


@pytest.fixture(autouse=True)
def _no_manager(monkeypatch):
    monkeypatch.setattr(api, "manager", NoManager())


def start(model="m", *args, **options) -> Asked:
    with pytest.raises(Asked) as caught:
        vllm_magic.start(model, *args, **options)
    return caught.value


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"gpus": 0}, "gpus", "0"),
        ({"gpus": [0, 1]}, "gpus", "0,1"),
        ({"gpus": (1,)}, "gpus", "1"),
        ({"gpus": range(2)}, "gpus", "0,1"),
        ({"gpus": ["GPU-5ab", "1"]}, "gpus", "GPU-5ab,1"),
        ({"gpus": " auto"}, "gpus", "auto"),
        ({"gpus": None}, "gpus", None),
        ({"port": "8000"}, "port", 8000),
        ({"port": 38000.0}, "port", 38000),
        ({"keep": "10m"}, "keep", 600.0),
        ({"ttl": "30m"}, "ttl", 1800.0),
        ({"ttl": "5"}, "ttl", 5.0),
        ({"ttl": timedelta(minutes=2)}, "ttl", 120.0),
        ({"ttl": Fraction(5, 2)}, "ttl", 2.5),
        ({"executable": Path("/x/vllm")}, "executable", "/x/vllm"),
        ({"executable": ""}, "executable", None),
        ({"name": ""}, "name", "m"),
        ({"cluster": ""}, "cluster", None),
        ({"force": 1}, "force", True),
        ({"env": {"B": 1, "A": Path("/a"), "C": 0.5}}, "env", (("A", "/a"), ("B", "1"), ("C", "0.5"))),
    ],
)
def test_what_is_plainly_meant_is_taken(options, field, value):
    found = getattr(start(**options).spec, field)
    assert (found, type(found)) == (value, type(value))


def test_a_path_is_a_folder_and_numbers_are_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert start(Path("a/b"), "-tp", 2, "--download-dir", Path("/d")).spec == ServerSpec(
        str(tmp_path / "a/b"), ("-tp", "2", "--download-dir", "/d")
    )
    assert start(timeout="5").timeout == 5.0
    assert start(timeout="1m").timeout == 60.0
    assert start(timeout=inf).timeout == inf


@pytest.mark.parametrize(
    "options",
    [
        *({"model": one} for one in (None, 1, b"m", True, ["m"], {}, "m\0", "m\ud800", Path("a\0b"))),
        *({"name": one} for one in (5, b"x", True, ["x"], Path("x"))),
        *(
            {"gpus": one}
            for one in (True, b"0", "", " ", [], [None], [0, True], [[0]], {0: 1}, -1, nan, 0.5, "0\0")
        ),
        *({"gpus": one} for one in (10**5000, object(), [b"0"], [-1])),
        *(
            {"port": one}
            for one in (True, 0, -1, 70000, 8000.5, nan, inf, 10**5000, "", "http", "8e3", b"80", [80])
        ),
        *(
            {key: one}
            for key in ("ttl", "keep")
            for one in (True, 0, -1, nan, inf, 10**400, "", "soon", b"5", [5])
        ),
        *(
            {"timeout": one}
            for one in (True, -5, nan, -inf, 10**400, "", "soon", "-1", b"5", [5], timedelta(-1))
        ),
        *({"executable": one} for one in (5, b"/x", ["/x"], True, "a\0b")),
        *({"cluster": one} for one in (5, True, b"http://h:1", ["http://h:1"], "http://h\0:1")),
        *(
            {"env": one}
            for one in (["A=1"], "A=1", b"A", 5, {1: "x"}, {1: "x", "a": "b"}, {b"A": "x"}, {"": "x"})
        ),
        *({"env": {name: "x"}} for name in ("A=B", "A\0", "\ud800", None)),
        *({"env": {"A": value}} for value in (None, True, b"x", ["x"], {}, object(), "\0", "\ud800")),
        *({"args": (one,)} for one in (None, True, b"--x", ["--x"], {"a": 1}, object(), "\0", "\ud800")),
        *({key: one} for key in ("wait", "force") for one in ("no", "", None, [], 2, nan)),
    ],
)
def test_what_cannot_be_meant_is_one_line(options):
    model, args = options.pop("model", "m"), options.pop("args", ())
    with pytest.raises(InvalidOption) as caught:
        vllm_magic.start(model, *args, **options)
    said = str(caught.value)
    assert said.endswith(".")
    assert len(said) < 250


def test_serve_takes_what_start_takes():
    with (
        pytest.raises(Asked) as caught,
        vllm_magic.serve(Path("/m"), "-tp", 2, gpus=[0], port="8000", timeout="1m"),
    ):
        pass
    assert caught.value.spec == ServerSpec("/m", ("-tp", "2"), gpus="0", port=8000)
    assert caught.value.timeout == 60.0
    for options in ({"gpus": b"0"}, {"timeout": nan}, {"env": "A"}, {"executable": 5}):
        with pytest.raises(InvalidOption), vllm_magic.serve("m", **options):
            pass


@pytest.mark.parametrize("ask", [vllm_magic.stop, vllm_magic.attach])
@pytest.mark.parametrize("name", [5, ["a"], b"a", True, {}, object()])
def test_the_name_of_a_server_is_a_text(ask, name):
    with pytest.raises(InvalidOption, match=r"^name=.*: The name of a server, as text\.$"):
        ask(name)


def test_fit_takes_what_start_takes():
    with pytest.raises(Asked) as caught:
        vllm_magic.fit("m", "-tp", 2, gpus=[0, 1], env={"A": 1})
    assert caught.value.spec == ServerSpec("m", ("-tp", "2"), gpus="0,1", env=(("A", "1"),))
    for options in ({"env": {"A": None}}, {"gpus": b"0"}, {"env": "A"}):
        with pytest.raises(InvalidOption):
            vllm_magic.fit("m", **options)
    with pytest.raises(InvalidOption):
        vllm_magic.fit(None)


class TestSecrets:
    KEY, TOKEN = "verysecretkeyverysecretkey01", "tok-abcdef-secretvalue"

    @pytest.mark.parametrize(
        "options",
        [
            {"env": ["MY_VALUE=tok-abcdef-secretvalue"]},
            {"env": {"tok-abcdef=tok-abcdef-secretvalue": 1}},
            {"env": {"MY_VALUE": [TOKEN]}},
            {"env": {"MY_VALUE": TOKEN.encode()}},
            {"port": TOKEN.encode()},
            {"ttl": {"MY_VALUE": TOKEN}},
            {"gpus": {"MY_VALUE": TOKEN}},
            {"executable": [TOKEN]},
            {"name": Secret(TOKEN), "port": Secret(TOKEN)},
        ],
    )
    def test_no_error_quotes_what_may_hold_one(self, options):
        with pytest.raises(InvalidOption) as caught:
            vllm_magic.start("m", "--api-key", self.KEY, **options)
        assert not any(part in str(caught.value) for part in (self.KEY, self.TOKEN, "secretvalue"))

    @pytest.mark.parametrize("flag", [("--api-key", KEY), (f"--api-key={KEY}",), ("--hf-token", KEY)])
    def test_no_variable_of_a_frame_shows_one(self, flag):
        """IPython's Verbose tracebacks show the variables of each frame: here of a start that is interrupted."""
        given = {"MY_VALUE": self.TOKEN}
        for call in (
            lambda: vllm_magic.start("m", "--seed", "1", *flag, env=given),
            lambda: vllm_magic.serve("m", "--seed", "1", *flag, env=given).__enter__(),
            lambda: vllm_magic.fit("m", "--seed", "1", *flag, env=given),
        ):
            with pytest.raises(Asked) as caught:
                call()
            spec = caught.value.spec
            assert dict(spec.env)["MY_VALUE"] == self.TOKEN
            assert self.KEY in dict(spec.env).values()
            trace, shown = caught.value.__traceback__, ""
            while trace := trace.tb_next:
                if "vllm_magic" in trace.tb_frame.f_globals["__name__"]:
                    shown += repr(trace.tb_frame.f_locals) + repr(spec.env)
            assert SHOWN in shown
            assert self.KEY not in shown
            assert self.TOKEN not in shown


@pytest.fixture
def server() -> Server:
    """One that has not begun: it refuses requests, but only those that can be meant."""
    endpoint = Endpoint("127.0.0.1", 1, "a-key-of-this-test")
    provisioner = SimpleNamespace(
        command=Command(("/x/vllm",), endpoint), stop_grace=1.0, stop_patience=1.0, from_the_start=True
    )
    made = Server(ServerSpec("m"), provisioner, None, lambda _: None, lambda _: None)
    made._run._supervisor.stop = lambda plan: setattr(made, "plan", plan)
    return made


@pytest.mark.parametrize(
    "ask",
    [
        *(lambda one, x=x: one.stop(grace=x) for x in (nan, -1, -inf, True, "soon", b"5", [5], 10**400)),
        *(lambda one, x=x: one._run.begin_stop(drain=x) for x in (nan, -1, -inf, True, "soon", b"5", [5])),
        *(lambda one, x=x: one.wait(x) for x in (nan, -1, True, "soon", b"5", [5])),
        *(lambda one, x=x: one._run.wait_over(x) for x in (nan, -1, True, "soon", [5])),
        *(lambda one, x=x: one.log(x) for x in (0, -1, None, 1.5, nan, "x", True, [1])),
        *(lambda one, x=x: one.metrics(x) for x in (nan, -1, inf, 10**7, None, "soon", True, [1])),
        *(lambda one, x=x: one.chat(x) for x in (5, None, b"hi", ["hi"], [5], True)),
        *(lambda one, x=x: one.chat("x", history=x) for x in ((), {}, "x", ["x"], 5)),
        *(lambda one, x=x: one.chat("x", system=x) for x in (5, b"x", ["x"], True)),
        *(lambda one, x=x: one.chat("x", timeout=x) for x in (0, -1, nan, "soon", True, [1])),
        *(lambda one, x=x: one.chat("x", stream=x) for x in ("no", None, 2)),
        *(lambda one, x=x: one.complete(x) for x in (5, None, b"hi", ["a"])),
        *(lambda one, x=x: one.complete("x", timeout=x) for x in (0, -1, nan, "soon")),
        *(lambda one, x=x: one.embed(x) for x in (5, None, [5], b"x", {"a": 1}, [None], [b"x"], [])),
        *(lambda one, x=x: one.classify(x) for x in (5, None, [5])),
        *(lambda one, x=x: one.score(x, ["a"]) for x in (5, None, ["a"])),
        *(lambda one, x=x: one.score("q", x) for x in (5, None, [5])),
        *(lambda one, x=x: one.load_lora(x, "/p") for x in (5, None, b"a")),
        *(lambda one, x=x: one.load_lora("a", x) for x in (5, None, b"a")),
        *(lambda one, x=x: one.unload_lora(x) for x in (5, None, b"a")),
        *(lambda one, x=x: one.loras(x) for x in (0, nan, "soon")),
        *(lambda one, x=x: one.sleep(x) for x in (0, 3, None, "1", [1], True, 1.0)),
        *(lambda one, x=x: one.bench(x) for x in (None, b"a", ["a"], {})),
    ],
)
def test_what_a_server_cannot_be_asked(server, ask):
    with pytest.raises(InvalidOption) as caught:
        ask(server)
    assert str(caught.value).endswith(".")
    assert server.state == "starting"


@pytest.mark.parametrize(
    "ask",
    [
        *(
            lambda one, x=x: one.chat("x", timeout=x)
            for x in (None, inf, 5, "30s", 10**9, timedelta(seconds=3))
        ),
        lambda one: one.chat({"role": "user", "content": "x"}),
        lambda one: one.chat(({"role": "user", "content": "x"},), history=[]),
        lambda one: one.complete("x", timeout=None),
        lambda one: one.embed(iter(["a", "b"])),
        lambda one: one.load_lora("a", Path("/p")),
        lambda one: one.loras(None),
        lambda one: one.metrics("2s"),
        lambda one: one.metrics(10**6),
        lambda one: one.bench("--num-prompts", 5),
    ],
)
def test_what_a_server_can_be_asked(server, ask):
    with pytest.raises(RequestFailed, match="still starting"):
        ask(server)


def test_times_of_a_stop(server):
    for grace, drain, expected in (("5", None, (5.0, 0.0)), (inf, "1m", (10**6, 60.0)), (0, 0, (0.0, 0.0))):
        server._run.begin_stop(grace, drain)
        assert (server.plan.grace, server.plan.drain) == expected
    assert not server._run.wait_over("0")
    assert server.log("3") == []
    assert server.log(10**30) == []


@pytest.mark.parametrize(("word", "says"), [("a\0b", "NUL character"), ("\ud800", "half a character")])
def test_words_that_no_command_line_can_have(word, says):
    with pytest.raises(InvalidOption, match=says):
        arguments.words(["--seed", word])
