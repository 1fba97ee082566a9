"""What a model that does not generate answers: numbers that follow from the lengths of the texts."""

from __future__ import annotations

from typing import Any

ROUTES = {
    "embed": ("/v1/embeddings", "/score", "/v1/score"),
    "classify": ("/classify", "/score", "/v1/score"),
}

# What up to vLLM 0.15 a model that does not have a route answers in its place, with the status 200.
APIS = {
    "/v1/chat/completions": "Chat Completions",
    "/v1/completions": "Completions",
    "/v1/embeddings": "Embeddings",
    "/score": "Score",
    "/classify": "Classification",
}


def answer(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON for one request, the last text first: the order is in `index`."""
    texts = asked["text_2"] if "score" in path else asked["input"]
    data = [{"index": number, **_one(path, text)} for number, text in enumerate(texts)]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {"id": "pool-1", "object": "list", "model": "tiny", "data": data[::-1], "usage": usage}


def _one(path: str, text: str) -> dict[str, Any]:
    if "embeddings" in path:
        return {"object": "embedding", "embedding": [float(len(text)), 0.5]}
    if "score" in path:
        return {"object": "score", "score": 1 / (1 + len(text))}
    short = 1.0 if len(text) < 10 else 0.25
    return {"label": "short" if short == 1.0 else "long", "probs": [short, 1 - short], "num_classes": 2}
