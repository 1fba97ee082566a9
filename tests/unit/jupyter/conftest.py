"""The tests here are of what is used with the extension loaded."""

from __future__ import annotations

import pytest

from vllm_magic import notation
from vllm_magic.notation import Notation


@pytest.fixture(autouse=True)
def magics(notations) -> None:
    """Have messages name magics, as where the extension is loaded."""
    notation.use(Notation.MAGIC)
