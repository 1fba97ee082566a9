"""Tests on a real NVIDIA GPU; all of them are skipped, with the reason, where there is none."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.gpu import card
from tests.real.environment import RealVllm, installed
from vllm_magic.engine import executable
from vllm_magic.errors import ExecutableNotFound
from vllm_magic.gpu.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def probe() -> Iterator[Probe]:
    """Return a probe of the real driver."""
    probe = Probe(start_timeout=60.0)
    problem = probe.snapshot(60.0).problem
    if problem:
        probe.close()
        pytest.skip(f"NEEDS A GPU: {problem}")
    yield probe
    probe.close()


@pytest.fixture(scope="session")
def vllm(probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> RealVllm:
    """Return a vLLM for this GPU, with the tiny model: $VLLM_MAGIC_EXECUTABLE, or the one that is installed."""
    if not shutil.which("nvidia-smi"):
        pytest.skip("NEEDS nvidia-smi")
    try:
        path = executable.find()
    except ExecutableNotFound as error:
        pytest.skip(f"NEEDS vLLM: {error}")
    return installed(path, tmp_path_factory.mktemp("model"))


@pytest.fixture
def back(probe: Probe) -> Iterator[int]:
    """Yield the bytes that are used before the test; after it, no more than a context's worth may be."""
    before = card.used()
    yield before
    card.seconds_until(lambda: card.used() <= before + 64 * card.MIB)
