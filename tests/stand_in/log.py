"""Log lines in the format of vLLM 0.32, whole lines by one write each, so that processes do not mix them."""

from __future__ import annotations

import contextlib
import logging
import os
import time

process = "APIServer"  # the name in the prefix; tree.spawn sets it in each child
epoch = False  # see `Options.log_epoch`
coloured = False  # the prefix, as up to vLLM 0.15 in files too


def prefix() -> str:
    """Return the prefix of each line of this process."""
    text = f"({process} pid={os.getpid()})"
    return f"\x1b[0;36m{text}\x1b[0;0m" if coloured else text


def line(message: str, source: str, level: str = "INFO") -> None:
    """Log `message` as `source` ("file.py:12") of vLLM would; each of its lines gets the prefix."""
    wanted = os.environ.get("VLLM_LOGGING_LEVEL", "INFO")
    if getattr(logging, level) < getattr(logging, wanted):
        return
    now = f"{time.time():.6f}" if epoch else time.strftime("%m-%d %H:%M:%S")
    before = f"{prefix()} {level} {now} [{source}] "
    write(1, "".join(f"{before}{part}\n" for part in message.split("\n")))


def bare(text: str) -> None:
    """Log `text` without a prefix, on stderr, as uvicorn, tqdm and tracebacks do."""
    write(2, text + "\n")


def write(descriptor: int, text: str | bytes) -> None:
    """Write all of `text`; a reader that is gone is no error, as it is none for vLLM."""
    left = text.encode() if isinstance(text, str) else text
    with contextlib.suppress(OSError):
        while left:
            left = left[os.write(descriptor, left) :]
