"""A fault of vllm_magic itself, as text."""

from __future__ import annotations

from vllm_magic.errors import VllmMagicError
from vllm_magic.masking import mask


def text(error: Exception) -> str:
    """Return an unexpected error as text for the user. A `VllmMagicError` is no fault: its own text is for users."""
    if isinstance(error, VllmMagicError):
        return str(error)
    return f"A fault of vllm_magic: {mask(f'{type(error).__name__}: {error}')}. Please report it."
