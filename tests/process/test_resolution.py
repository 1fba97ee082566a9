"""uv is asked for a release that the tables do not have: what it is given, and what is said when it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.installation.test_resolution import FACTS, LOCK, TARGET
from vllm_magic.errors import NoVllmFits
from vllm_magic.installation import releases
from vllm_magic.installation.decision import decide
from vllm_magic.installation.resolution import known_releases, read


def fake_uv(folder: Path, body: str) -> str:
    """Make a uv that writes down its arguments, its requirement and its index, and then does `body`."""
    script = folder / "uv"
    script.write_text(
        f'#!/bin/sh\necho "$@" > {folder}/words\ncat requirements.txt > {folder}/requirement\n'
        f'echo "$UV_DEFAULT_INDEX $UV_CONSTRAINT" > {folder}/settings\n{body}\n'
    )
    script.chmod(0o755)
    return str(script)


def writes(folder: Path, lock: str = LOCK) -> str:
    (folder / "lock").write_text(lock)
    return fake_uv(folder, f"cp {folder}/lock pylock.toml")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("wanted", "pre", "requirement"),
    [
        ("0.34.0", False, "vllm==0.34.0"),
        ("0.34", False, "vllm==0.34.*"),
        ("0.34.0rc1", False, "vllm==0.34.0rc1"),
        (None, True, f"vllm>={releases.GPU_RELEASES[0].version}rc0"),
    ],
)
def test_what_uv_is_asked_for(tmp_path: Path, wanted: str | None, pre: bool, requirement: str) -> None:
    facts = replace(FACTS, uv=writes(tmp_path))
    known = known_releases(wanted, facts, cpu=False, pre=pre)
    assert (tmp_path / "requirement").read_text() == f"{requirement}\n"
    assert "--python-version 3.12 --python-platform x86_64-manylinux_2_35" in (tmp_path / "words").read_text()
    assert known[0].version == "0.34.0"
    assert known[1:] == releases.RELEASES
    # The CUDA 13.2 of that torch runs on each driver for CUDA 13.
    newest = decide(facts, "0.34.0", cpu=False, pre=pre, known=[replace(known[0], torch=known[1].torch)])
    assert newest.name == "0.34.0-cu130-py312"


def test_the_newest_is_one_that_the_tables_have(tmp_path: Path) -> None:
    newest = releases.GPU_RELEASES[0].version
    facts = replace(FACTS, uv=writes(tmp_path, LOCK.replace('"0.34.0"', f'"{newest}"')))
    assert known_releases(None, facts, cpu=False, pre=True) is releases.RELEASES


def test_the_index_of_pip_counts_and_constraints_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CONSTRAINT", "/my/constraints.txt")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    uv = writes(tmp_path)
    read(uv, "vllm", "==0.34.0", TARGET)
    assert (tmp_path / "settings").read_text().split() == ["http://127.0.0.1:9/simple"]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/uv")
    read(uv, "vllm", "==0.34.0", TARGET)
    assert (tmp_path / "settings").read_text().split() == ["http://127.0.0.1:9/uv"]


def test_what_uv_says_is_shown_without_passwords(tmp_path: Path) -> None:
    uv = fake_uv(
        tmp_path, "echo 'error: Failed to fetch: `https://me:hunter22@index.example/simple/`' >&2; exit 2"
    )
    with pytest.raises(NoVllmFits) as refused:
        known_releases("0.34.0", replace(FACTS, uv=uv), cpu=False, pre=False)
    said = str(refused.value)
    assert said.startswith("vllm 0.34.0 cannot be read from the package index: error: Failed to fetch")
    assert said.endswith("This vllm_magic knows 0.8.5 to 0.33.0.")
    assert "Failed to fetch: `https://***@index.example/simple/`" in said
    assert "hunter22" not in said


@pytest.mark.parametrize(
    ("wanted", "cause"),
    [
        ("0.34.0", "Because there is no version of\\n    vllm==0.34.0"),
        ("9.9", "Because only vllm<=0.33.0 is available and you require\\n    vllm==9.9.*"),
    ],
)
def test_a_version_that_the_index_does_not_have(tmp_path: Path, wanted: str, cause: str) -> None:
    uv = fake_uv(tmp_path, f"printf 'error: No solution found\\n  cause: {cause}\\n' >&2; exit 1")
    with pytest.raises(NoVllmFits) as refused:
        known_releases(wanted, replace(FACTS, uv=uv), cpu=False, pre=False)
    assert str(refused.value) == (
        f"The package index has no vllm {wanted}. This vllm_magic knows 0.8.5 to 0.33.0."
    )


def test_a_uv_that_hangs(tmp_path: Path) -> None:
    uv = fake_uv(tmp_path, "exec sleep 1000")
    with pytest.raises(NoVllmFits, match="uv has not answered within 1 s"):
        read(uv, "vllm", "", TARGET, limit=1.0)
