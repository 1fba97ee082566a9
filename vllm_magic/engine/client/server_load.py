"""What a server does right now, by the four of its counters that a look each second needs.

Such a look must cost next to nothing: vLLM's /metrics is a text of 60 kB, of which this reads four lines. All of it, for a
person who asks once, is in `metrics`.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

from vllm_magic.engine.client.exchange import MOST, any_certificate

_NEEDED = re.compile(
    rb"\nvllm:(num_requests_running|num_requests_waiting|prompt_tokens_total|generation_tokens_total)"
    rb"(?:\{[^\n]*\})? ([\d.eE+]+)"
)


class Vitals(NamedTuple):
    """Of several engines the sum: requests that run and wait now, and tokens since the server began."""

    running: int
    waiting: int
    prompt_tokens: float
    generation_tokens: float


def scan(text: bytes) -> Vitals | None:
    """The numbers in a Prometheus text; None where it does not have them all."""
    sums: dict[bytes, float] = {}
    for name, value in _NEEDED.findall(text):
        try:
            sums[name] = sums.get(name, 0.0) + float(value)
        except ValueError:
            return None
    try:
        return Vitals(
            int(sums[b"num_requests_running"]),
            int(sums[b"num_requests_waiting"]),
            sums[b"prompt_tokens_total"],
            sums[b"generation_tokens_total"],
        )
    except (KeyError, OverflowError):
        return None


async def look(url: str) -> Vitals | None:
    """Ask the server at this URL once; None where it does not say. The connection is closed at the end, also if cancelled."""
    try:
        return scan(await _get(url))
    except (OSError, EOFError):
        return None


async def _get(url: str) -> bytes:
    """The answer to ``GET /metrics``, head and all; it ends with the connection, as HTTP/1.0 has it.

    Raises:
        OSError: nobody answers.
        EOFError: it is too long.
    """
    place = urlsplit(url)
    context = any_certificate() if place.scheme == "https" else None
    reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
    with closing(writer):
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: {place.netloc}\r\n\r\n".encode())
        try:
            await reader.readexactly(MOST)
        except asyncio.IncompleteReadError as read:
            return read.partial
    raise EOFError
