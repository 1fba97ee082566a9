"""The token for Hugging Face among the secrets that Google Colab and Kaggle keep for a user.

A server is a process of its own, which cannot ask the service. So the token is put into the environment of the kernel, as the
services tell their users to do by hand; servers and downloads inherit it, and it is masked wherever environments are shown.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
# The variables from which vLLM's huggingface_hub reads a token (huggingface_hub/utils/_auth.py).
_VARIABLES = (TOKEN, "HUGGING_FACE_HUB_TOKEN")
_COLAB = "google.colab"  # loaded by the kernel of a Colab runtime
_KAGGLE = "KAGGLE_USER_SECRETS_TOKEN"  # Kaggle's client for secrets fails without this variable
_is_page_silent = False  # whether Colab's page did not answer a request


def load(model: str | None, environ: MutableMapping[str, str]) -> None:
    """Put the secret HF_TOKEN of Google Colab or Kaggle into the environment, unless a token is there already.

    Do nothing if there is no such service or no such secret, or if the user does not let this notebook read the secret. Do
    nothing outside the main thread either: Colab's page answers only while a cell runs.

    Args:
        model: the model that is needed, or None if it is not known yet. For a model in a local folder, nothing is done.
        environ: the environment of the kernel.
    """
    ask = _from_colab if _COLAB in sys.modules else _from_kaggle if environ.get(_KAGGLE) else None
    if ask is None or any(environ.get(name) for name in _VARIABLES):
        return
    if threading.current_thread() is not threading.main_thread() or (
        model is not None and Path(model).exists()
    ):
        return
    if token := _answer(ask):
        environ[TOKEN] = token


def _answer(ask: Callable[[], str]) -> str:
    """Return the token; "" for every error, since most models need no token, and vLLM says where one is missing."""
    try:
        return str(ask() or "").strip()
    except Exception:  # noqa: BLE001 - errors of the services, which have no common class
        return ""


def _from_colab() -> str:
    """Ask Colab's page, and wait 10 s for its answer. After a request without an answer, do not ask again."""
    global _is_page_silent  # noqa: PLW0603 - one page for each kernel
    from google.colab import userdata

    if _is_page_silent:
        return ""
    try:
        return userdata.get(TOKEN)  # type: ignore[no-any-return]
    except userdata.TimeoutException:
        _is_page_silent = True
        return ""


def _from_kaggle() -> str:
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret(TOKEN)  # type: ignore[no-any-return]
