"""LoRA adapters of a server that runs (vLLM 0.32, entrypoints/serve/lora): loading, unloading, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.client.connection import SILENCE_LIMIT, UNREADABLE
from vllm_magic.errors import RequestFailed

if TYPE_CHECKING:
    from vllm_magic.engine.client.connection import Connection


def load(connection: Connection, name: str, path: str) -> None:
    """Load the adapter in a folder; it is asked by giving its name as the model.

    Raises:
        RequestFailed: vLLM says why not.
    """
    connection.send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})


def unload(connection: Connection, name: str) -> None:
    """Unload an adapter.

    Raises:
        RequestFailed: there is none of this name.
    """
    connection.send("POST", "/v1/unload_lora_adapter", {"lora_name": name})


def names(connection: Connection, limit: float = SILENCE_LIMIT) -> list[str]:
    """The adapters that are loaded: of the models that the server names, those with a parent.

    Args:
        connection: to the server.
        limit: seconds for the whole answer.

    Raises:
        RequestFailed: the server does not tell.
    """
    import json

    try:
        cards = json.loads(connection.send("GET", "/v1/models", limit=limit))["data"]
        return [str(card["id"]) for card in cards if card.get("parent")]
    except UNREADABLE:
        raise RequestFailed("The list of models makes no sense. See %vllm logs.") from None
