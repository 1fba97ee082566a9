"""What a start from the form would do, said before it is started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_magic.engine import executable, history, unknown_flags
from vllm_magic.errors import NoEstimate, VllmMagicError
from vllm_magic.jupyter import on_disk, start_words, words
from vllm_magic.life.fit import claim, fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.panel.messages import Words
    from vllm_magic.jupyter.settings import Settings

MODELS = 100  # that are suggested


@dataclass(frozen=True)
class Judgement:
    """What is to be said of the form.

    Attributes:
        text: one line; "" for nothing.
        wrong: whether the start would be refused, or fail.
        claims: bytes that vLLM will take, by the index of the GPU.
    """

    text: str = ""
    wrong: bool = False
    claims: Mapping[int, int] = field(default_factory=dict)


def spec(form: Words, settings: Settings) -> ServerSpec:
    """The server that the form stands for.

    Raises:
        InvalidOption: a word does not fit.
    """
    said = [form.model, *words.split(form.flags)] if form.model else words.split(form.flags)
    chosen = ["--gpus", form.gpus] if form.gpus else []
    return start_words.start([*said, *chosen], settings).spec


def judge(form: Words, settings: Settings, now: Snapshot | None) -> Judgement:
    """Look at flags and memory; the network is not asked."""
    if not form.model:
        return Judgement()
    try:
        wanted = spec(form, settings)
        unknown_flags.check(wanted, executable.find(wanted.executable))
        if now is None or not now.gpus:
            return Judgement()
        claims = {room.index: room.usable for room in claim(wanted, os.environ, now)}
        return _fitting(wanted, now, claims)
    except VllmMagicError as error:
        return Judgement(str(error), wrong=True)


def suggestions() -> list[str]:
    """Models that were started before, and those on disk."""
    return list(dict.fromkeys([*history.models(), *sorted(on_disk.cached_models())]))[:MODELS]


def _fitting(wanted: ServerSpec, now: Snapshot, claims: Mapping[int, int]) -> Judgement:
    try:
        found = fit(wanted, os.environ, now, online=False)
    except NoEstimate:  # not on this machine, or of a kind that is not known
        return Judgement(claims=claims)
    return Judgement(found.verdict, found.fits is False, claims)
