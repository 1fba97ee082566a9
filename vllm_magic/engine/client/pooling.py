"""Requests to models that do not generate text: embeddings, scores, classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.client.connection import readable
from vllm_magic.errors import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.engine.client.connection import Connection


@dataclass(frozen=True)
class Classified:
    """The class of a text.

    Attributes:
        label: the name of the likeliest class; None if the model's configuration has no names.
        probabilities: the probability of each class, in the model's order.
    """

    label: str | None
    probabilities: tuple[float, ...]


def embed(connection: Connection, texts: Sequence[str], extra: Mapping[str, Any]) -> list[list[float]]:
    """Return a vector for each text (entrypoints/pooling/embed/api_router.py)."""
    answer = connection.post("/v1/embeddings", {**extra, "input": list(texts)})
    with readable():
        return [[float(number) for number in item["embedding"]] for item in _in_order(answer, texts)]


def score(connection: Connection, query: str, texts: Sequence[str], extra: Mapping[str, Any]) -> list[float]:
    """Return a score for each text: how well it answers the query (entrypoints/pooling/scoring/api_router.py)."""
    answer = connection.post("/score", {**extra, "text_1": query, "text_2": list(texts)})
    with readable():
        return [float(item["score"]) for item in _in_order(answer, texts)]


def classify(connection: Connection, texts: Sequence[str], extra: Mapping[str, Any]) -> list[Classified]:
    """Return the class of each text (entrypoints/pooling/classify/api_router.py)."""
    answer = connection.post("/classify", {**extra, "input": list(texts)})
    with readable():
        return [
            Classified(item["label"], tuple(map(float, item["probs"]))) for item in _in_order(answer, texts)
        ]


def _in_order(answer: Mapping[str, Any], texts: Sequence[str]) -> list[Any]:
    """Return the item of the answer for each text, in the order of the texts."""
    items = sorted(answer["data"], key=lambda item: int(item["index"]))
    if len(items) != len(texts):
        raise RequestFailed(
            f"{len(texts)} texts were sent, and {len(items)} answers came. Send fewer at once."
        )
    return items
