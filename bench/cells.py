"""Cells of a kernel: what they print, and what they put out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.kernel import LIMIT

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient


def printed(client: BlockingKernelClient, source: str, limit: float = LIMIT) -> str:
    """What the cell prints."""
    return "".join(content.get("text", "") for content in put_out(client, source, limit))


def put_out(client: BlockingKernelClient, source: str, limit: float = LIMIT) -> list[dict[str, Any]]:
    """The contents of all messages that the cell puts out.

    Raises:
        RuntimeError: it failed.
    """
    seen: list[dict[str, Any]] = []
    reply = client.execute_interactive(
        source, timeout=limit, output_hook=lambda message: seen.append(message["content"])
    )
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))
    return seen
