"""Tests on a real NVIDIA GPU; all of them are skipped, with the reason, where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
