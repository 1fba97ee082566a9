"""Ask a server for its metrics in an asyncio loop, once a second: this costs no thread."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vllm_magic.engine.client import metrics
from vllm_magic.engine.client.exchange import MOST, any_certificate

if TYPE_CHECKING:
    from vllm_magic.engine.client.metrics import Activity


async def look(url: str) -> Activity | None:
    """Ask the server at this URL once; None where it does not say. The connection is closed at the end, also if cancelled."""
    try:
        return metrics.activity((await _get(url)).decode(errors="replace"))
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
