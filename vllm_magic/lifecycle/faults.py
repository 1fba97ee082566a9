"""A fault of vllm_magic itself, in words."""

from __future__ import annotations

from vllm_magic.errors import VllmMagicError
from vllm_magic.masking import mask


def text(error: Exception) -> str:
    """One sentence or two; an error that is meant for users is no fault, and stays as it is."""
    if isinstance(error, VllmMagicError):
        return str(error)
    return f"A fault of vllm_magic: {mask(f'{type(error).__name__}: {error}')}. Please report it."
