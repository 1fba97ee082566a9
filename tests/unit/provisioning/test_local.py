"""What a start on this machine says of its vLLM, and how long its server may take to end."""

from __future__ import annotations

import pytest

from vllm_magic.engine import executable
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.flags.flag_table import FlagTable
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.guard.ladder import GRACE, PATIENCE
from vllm_magic.provisioning import local

CLEANUP = "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS"


@pytest.mark.parametrize(
    ("spec", "environ", "more"),
    [
        (ServerSpec("m"), {}, 0.0),
        (ServerSpec("m", ("--shutdown-timeout", "8")), {}, 8.0),
        (ServerSpec("m"), {CLEANUP: "20"}, 20.0),
        (ServerSpec("m", ("--shutdown-timeout", "8"), env=((CLEANUP, "30"),)), {CLEANUP: "20"}, 38.0),
    ],
)
def test_how_long_a_server_may_take_to_end(spec, environ, more):
    """vLLM may be told to give requests, its engine and its workers more time."""
    assert local.stop_times(spec, environ) == (GRACE + more, PATIENCE + more)


@pytest.mark.parametrize("known", ["by its flags", "by its metadata"])
def test_the_note_on_a_version_is_shown_once(monkeypatch, known):
    monkeypatch.setattr(local, "_shown_notes", set())
    table = FlagTable("0.9.2", ()) if known == "by its flags" else None
    monkeypatch.setattr(flag_table, "load", lambda _: table)
    monkeypatch.setattr(executable, "version", lambda _: "0.9.2")
    assert local._version_note("/venv/bin/vllm").startswith("vLLM 0.9.2 is old")
    assert local._version_note("/venv/bin/vllm") == ""


def test_of_a_tested_version_nothing_is_said(monkeypatch):
    monkeypatch.setattr(flag_table, "load", lambda _: None)
    monkeypatch.setattr(executable, "version", lambda _: "0.32.0")
    assert local._version_note("/venv/bin/vllm") == ""
