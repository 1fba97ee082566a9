"""The secrets of a user. COLAB_SECRET has the only one; COLAB_REFUSES says that this notebook may not have it."""

import os


class SecretNotFoundError(Exception):
    """There is no such secret."""


class NotebookAccessError(Exception):
    """This notebook may not read it."""


class TimeoutException(Exception):
    """No browser answers."""


def get(key):
    """Return a secret."""
    if os.environ.get("COLAB_REFUSES"):
        raise NotebookAccessError(key)
    if key != "HF_TOKEN" or "COLAB_SECRET" not in os.environ:
        raise SecretNotFoundError(key)
    return os.environ["COLAB_SECRET"]
