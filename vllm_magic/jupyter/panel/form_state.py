"""What stands in the form of a panel, and what is to be said of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic.jupyter.panel import form
from vllm_magic.jupyter.panel.messages import Message, Words

if TYPE_CHECKING:
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.panel.background_work import Done

STEP = 2**28  # bytes of free memory that make a difference to what is said


class FormState:
    """For one thread. A judgement takes its time: it is begun with `judging`, and `take` takes what came of it.

    Attributes:
        words: with their keys, which views never get.
        claims: bytes that the start would take, by the index of the GPU.
    """

    def __init__(self) -> None:
        self.words = Words()
        self._writer = ""  # the view that they are from
        self._judged = form.Assessment()
        self._under_way = 0
        self._judged_by: tuple[int | None, ...] = ()  # the free memory of each GPU

    @property
    def claims(self) -> dict[int, int]:
        """See above."""
        return dict(self._judged.claims)

    def empty(self) -> None:
        """Nothing stands there any more."""
        self.words, self._writer = Words(), ""
        self._judged = form.Assessment()

    def write(self, message: Message) -> Words:
        """Take what a view wrote; the words with the keys that it did not see."""
        self.words = form.meant(message.words, self.words)
        self._writer = message.view
        return self.words

    def judging(self, words: Words, now: Snapshot | None) -> None:
        """These words are being judged, by the GPUs as they are now."""
        self.words = words
        self._judged_by = _free(now)
        self._under_way += 1

    def take(self, done: Done) -> None:
        """A judgement has ended; one of other words than those that stand there now is of no use."""
        self._under_way -= 1
        if done.judged is not None and done.judged_of == self.words:
            self._judged = done.judged

    def is_outdated(self, now: Snapshot | None) -> bool:
        """Whether other memory is free than it was judged by: that of a server that was just released is there again."""
        return bool(self.words.model) and not self._under_way and _free(now) != self._judged_by

    def picture(self, models: list[str]) -> dict[str, Any]:
        """It as the views draw it, without keys, with the models to suggest."""
        return {
            **asdict(form.shown(self.words)),
            "view": self._writer,
            "text": self._judged.text,
            "wrong": self._judged.wrong,
            "models": models,
        }


def _free(now: Snapshot | None) -> tuple[int | None, ...]:
    """The free memory of each GPU, as coarsely as a judgement goes by it."""
    return tuple(None if gpu.free is None else gpu.free // STEP for gpu in (now.gpus if now else ()))
