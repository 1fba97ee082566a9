"""What the tests of the real vLLM share: its environment, and one cache, so that its flags are read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.environment import RealVllm, environment


@pytest.fixture(scope="session")
def vllm() -> RealVllm:
    """The CPU build, and the tiny model."""
    return environment()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache that stays from test to test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch) -> Path:
    """One cache for the session: to read vLLM's flags takes half as long as a start."""
    monkeypatch.setenv("VLLM_MAGIC_CACHE", str(shared_cache))
    return shared_cache
