"""A flag that vLLM does not have is said before the start; whatever vLLM might take is left to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import stand_in
from by_hand import free_port, until

import vllm_magic
from vllm_magic.children import flag_reading
from vllm_magic.engine import command
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.start_checks import checks
from vllm_magic.errors import InvalidOption


@pytest.fixture
def vllm(tmp_path, monkeypatch) -> str:
    """The stand-in, installed as vLLM is, whose flags are known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    path = str(stand_in.install_environment(tmp_path / "environment"))
    until(lambda: flag_reading.table(path), "the table is not built")
    yield path
    flag_reading.end()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--max-modell-len", " Did you mean --max-model-len?"),
        ("--max_modell_len=1", " Did you mean --max-model-len?"),
        ("--max-len", " Did you mean --max-model-len?"),  # not --max-log-len, which is more alike
        ("--enforce-eagre", " Did you mean --enforce-eager?"),
        ("--zzz", ""),
    ],
)
def test_the_start_is_refused(manager, spec, vllm, traces, flag, said):
    with pytest.raises(InvalidOption) as refused:
        manager.start(spec("tiny", "--seed", "1", flag, executable=vllm))
    name = flag.partition("=")[0]
    assert str(refused.value) == f"vLLM 0.32.0 has no flag {name}.{said} force=True starts it all the same."
    assert manager.servers() == {}
    traces.check()


def test_the_start_of_a_program_is_refused(home, vllm):
    with pytest.raises(ValueError, match="Did you mean --max-model-len"):
        vllm_magic.start("tiny", "--max-modell-len", "1", executable=vllm)


@pytest.mark.parametrize("fields", [{"force": True}, {"env": {"PYTHONPATH": ""}}], ids=str)
def test_it_is_not_refused(spec, vllm, fields):
    """By who insists, and where it is not known that the same vLLM is meant."""
    checks.check(spec("tiny", "--strange", executable=vllm, **fields), os.environ, vllm)


def test_nor_where_the_flags_are_not_known(spec, vllm, executable):
    checks.check(spec("tiny", "--strange"), os.environ, executable)
    with open(vllm, "a") as script:
        script.write("\n")
    checks.check(spec("tiny", "--strange", executable=vllm), os.environ, vllm)


def test_the_first_start_has_them_read(manager, spec, tmp_path, monkeypatch, traces):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    path = str(stand_in.install_environment(tmp_path / "environment"))
    manager.start(spec(executable=path), timeout=60)
    until(lambda: flag_table.load(path), "the table is not built")
    manager.stop_all()
    flag_reading.end()
    traces.check()


def test_a_server_that_is_ready_is_not_refused(manager, spec, vllm, traces):
    """What is right is served, however it is written."""
    words = (
        "--max_model_len=64",
        "--no-enforce-eager",
        "-O.level=3",
        "--hf-overrides.a.b",
        "1",
        "--dtype",
        "auto",
    )
    server = manager.start(spec("tiny", *words, executable=vllm), timeout=60).server
    assert server.state == "ready"
    assert server.stop().verified
    traces.check()


def test_what_is_not_written_out_is_read_all_the_same(manager, spec, vllm, traces):
    """The stand-in takes whole flags alone, so that it starts shows that they were written out."""
    key, port = "a-key-of-my-own", free_port()
    words = ("--api-k", key, "--por", str(port), "--hos=127.0.0.2", "--pipeline-p", "1")
    server = manager.start(spec("tiny", *words, executable=vllm), timeout=60).server
    assert (server.url, server.api_key) == (f"http://127.0.0.2:{port}", key)
    assert server.complete("hello", max_tokens=1).text
    shown = (f"/proc/{server.pid}/cmdline", server.log_path.parent / "record.json")
    assert not any(key in Path(path).read_text() for path in shown)
    assert key not in repr(server.spec)
    assert server.stop().verified
    traces.check()


QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")


def test_looks_at_a_server_are_not_logged_where_the_flag_is_known(manager, spec, vllm, monkeypatch):
    def argv(*args: str, **env: str) -> tuple[str, ...]:
        return command.build(spec("tiny", *args, executable=vllm, env=env)).argv

    assert argv("--seed", "1")[3:7] == ("--seed", "1", *QUIET)
    for said in ((QUIET[0], "/v1/models"), (f"{QUIET[0]}=",), ("--disable_access_log_for_endpoints", "")):
        assert argv(*said)[3 : 3 + len(said)] == said
        assert QUIET[1] not in argv(*said)
    assert QUIET[0] not in argv(PYTHONPATH="/elsewhere")  # there another vLLM may be
    server = manager.start(spec("tiny", executable=vllm), timeout=60).server
    assert server.metrics(window=0.0).finished == 0
    assert "GET /" not in server.log_path.read_text()
