"""Load, unload and list the LoRA adapters of a running server (vLLM 0.32, entrypoints/serve/lora)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllm_magic.engine.client.connection import SILENCE_LIMIT, UNREADABLE
from vllm_magic.errors import RequestFailed

if TYPE_CHECKING:
    from vllm_magic.engine.client.connection import Connection


def load(connection: Connection, name: str, path: str) -> None:
    """Load the adapter in a folder. A request whose model is the name of the adapter uses it.

    Raises:
        RequestFailed: vLLM refuses; the message says why.
    """
    connection.send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})


def unload(connection: Connection, name: str) -> None:
    """Unload an adapter.

    Raises:
        RequestFailed: there is no adapter of this name.
    """
    connection.send("POST", "/v1/unload_lora_adapter", {"lora_name": name})


def names(connection: Connection, limit: float = SILENCE_LIMIT) -> list[str]:
    """Return the names of the loaded adapters: the models of the server that have a parent.

    Args:
        connection: the connection to the server.
        limit: seconds for the whole answer.

    Raises:
        RequestFailed: the server does not answer, or the answer cannot be read.
    """
    try:
        cards = json.loads(connection.send("GET", "/v1/models", limit=limit))["data"]
        return [str(card["id"]) for card in cards if card.get("parent")]
    except UNREADABLE:
        raise RequestFailed("The list of models cannot be read. See %vllm logs.") from None
