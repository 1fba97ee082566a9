"""What several tests of this tier share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from by_hand import PatientProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.gpu.probe import Probe


@pytest.fixture
def probe() -> Iterator[Probe]:
    """Reads the GPUs, and gives the driver its time."""
    made = PatientProbe()
    yield made
    made.close()
