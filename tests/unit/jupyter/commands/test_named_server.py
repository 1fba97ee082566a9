"""The name of a server where a model is expected."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands import named_server, start_arguments
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.recovery import kept_servers

SMALL = ServerSpec("org/model", ("--max-model-len", "64"), name="small")
OLD = ServerSpec("org/other", name="old")
SAME = ServerSpec("tiny", ("--seed", "7"), name="tiny")


def server(spec: ServerSpec, state: ServerState) -> SimpleNamespace:
    return SimpleNamespace(spec=spec, name=spec.name, model=spec.model, state=state)


@pytest.fixture
def servers(tmp_path, monkeypatch) -> SimpleNamespace:
    """Return a manager with two servers that run and one that has ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept_servers, "entries", list)
    there = {"small": server(SMALL, ServerState.READY), "tiny": server(SAME, ServerState.READY)}
    return SimpleNamespace(servers=lambda: there, past=lambda: {"old": server(OLD, ServerState.RELEASED)})


def find(servers, *words: str, **options) -> ServerSpec | None:
    arguments = start_arguments.separate(words, start_arguments.OPTIONS_OF_SWITCH)
    return named_server.find(servers, arguments, "switch", **options)


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        (["small"], SMALL),
        (["old"], OLD),
        (["small", "--timeout", "60", "--no-return"], SMALL),
        (["org/model"], None),
        (["another"], None),
        ([], None),
        (["--seed", "7"], None),
        (["small", "--force"], None),
        (["tiny"], None),
        (["tiny", "--seed", "8"], None),
        (["vllm", "serve", "small"], None),
    ],
)
def test_which_server(servers, words, spec):
    assert find(servers, *words) is spec


def test_a_server_with_the_name_of_its_model(servers):
    assert find(servers, "tiny", or_model=False) is SAME
    assert find(servers, "tiny", "--seed", "8", or_model=False) is None


def test_a_folder_of_this_name_is_a_model(servers, tmp_path):
    (tmp_path / "small").mkdir()
    assert find(servers, "small") is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seed", "7"], "%vllm switch org/model --seed 7 --name small"),
        (["--gpus", "0", "-tp", "2"], "%vllm switch org/model --gpus=0 -tp 2 --name small"),
        (["--name", "large"], "%vllm switch org/model --name=large"),
    ],
)
def test_other_options_need_the_model(servers, words, line):
    with pytest.raises(InvalidOption) as refused:
        find(servers, "small", *words)
    assert str(refused.value) == (
        "small is the name of a server, which keeps its own options. Write %vllm switch small without options, "
        f"or give its model: {line}"
    )


def test_a_kept_server_is_attached(servers, monkeypatch):
    record = SimpleNamespace(name="kept", model="org/model")
    monkeypatch.setattr(kept_servers, "entries", lambda: [SimpleNamespace(record=record)])
    with pytest.raises(InvalidOption, match=r"outlived its kernel: %vllm attach kept takes it over\.$"):
        find(servers, "kept")
