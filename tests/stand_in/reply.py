"""The JSON of one answer, whole or in parts, in OpenAI's format."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .options import Options


class Reply:
    """One answer of at most `count` tokens.

    Attributes:
        prompt_tokens: of the question.
        tokens: what it consists of, its reasoning first.
        counts_on: whether each event says how many there have been (`continuous_usage_stats`).
    """

    def __init__(self, chat: bool, model: str, prompt_tokens: int, count: int, options: Options) -> None:
        self.counts_on = False
        self._chat = chat
        self._refuses = chat and bool(options.refuses)
        thought = _tokens(options.thinks) if chat else []
        said = options.refuses if self._refuses else options.says
        text = [f" word{number}" for number in range(count)] if said is None else _tokens(said)
        self._thoughts = len(thought)
        self._cut = said is None or len(thought) + len(text) > count
        self.tokens = [*thought, *text][:count]
        self.prompt_tokens = prompt_tokens
        kind = "chat.completion" if chat else "text_completion"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._head = {"id": name, "object": kind, "created": int(time.time()), "model": model}

    def whole(self, text: str) -> dict[str, Any]:
        """Return the answer that is not streamed."""
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {
            **self._head,
            "choices": [{"index": 0, **said, "finish_reason": self._reason}],
            "usage": self._usage(len(self.tokens)),
        }

    def parts(self, words: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Return the events of the stream."""
        for number, word in enumerate(words, 1):
            if number == 1:
                yield self._part({"role": "assistant", "content": ""} if self._chat else {"text": ""}, 0)
            yield self._part(self._delta(word, number), number)

    def only_usage(self) -> dict[str, Any]:
        """Return the event that ends a stream with `include_usage`."""
        return {**self._event([]), "usage": self._usage(len(self.tokens))}

    @property
    def _reason(self) -> str:
        return "length" if self._cut else "stop"

    def _delta(self, word: str, number: int) -> dict[str, Any]:
        if not self._chat:
            return {"text": word}
        if number <= self._thoughts:
            return {"reasoning": word}
        return {"refusal" if self._refuses else "content": word}

    def _part(self, said: dict[str, Any], number: int) -> dict[str, Any]:
        reason = self._reason if number == len(self.tokens) else None
        choice = {"index": 0, **({"delta": said} if self._chat else said), "finish_reason": reason}
        usage = {"usage": self._usage(number)} if self.counts_on else {}
        return {**self._event([choice]), **usage}

    def _usage(self, count: int) -> dict[str, int]:
        total = self.prompt_tokens + count
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": count, "total_tokens": total}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+", text)
