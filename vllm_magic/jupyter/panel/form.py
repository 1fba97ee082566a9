"""The words of the form: what a start from them would do, and how they look to the views, which get no secret."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from vllm_magic.cluster import rest
from vllm_magic.engine import executable
from vllm_magic.engine.capacity.fit import claim, fit
from vllm_magic.engine.flags import unknown_flags
from vllm_magic.engine.startup import history
from vllm_magic.errors import InvalidOption, NoEstimate, VllmMagicError
from vllm_magic.jupyter import on_disk
from vllm_magic.jupyter.commands import expansion, start_arguments
from vllm_magic.jupyter.commands.settings import NO_SETTINGS
from vllm_magic.jupyter.panel.messages import Words
from vllm_magic.masking import SHOWN, known, mask, mask_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.commands.settings import Settings

MODELS = 100  # that are suggested
OPTIONS = ("name", "port", "executable", "ttl", "keep", "cluster")  # our own, besides --gpus and --env


@dataclass(frozen=True)
class Assessment:
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
    said = [form.model, *expansion.split(form.flags)] if form.model else expansion.split(form.flags)
    chosen = ["--gpus", form.gpus] if form.gpus else []
    return start_arguments.start([*said, *chosen], settings).spec


def said(wanted: ServerSpec, settings: Settings) -> Words:
    """The words that stand, on top of the settings, for this server; its keys are among them."""
    try:
        usual = start_arguments.start([wanted.model], settings).spec
    except VllmMagicError:  # they have become wrong since
        usual = start_arguments.start([wanted.model], NO_SETTINGS).spec
    flags = list(wanted.args)
    if flags[: len(usual.args)] == list(usual.args):
        del flags[: len(usual.args)]
    for option in OPTIONS:
        value = getattr(wanted, option)
        if value is not None and value != getattr(usual, option):
            flags += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    for name, value in wanted.env:
        if (name, value) not in usual.env:
            flags += ["--env", f"{name}={value}"]
    return Words(wanted.model, shlex.join(flags), wanted.gpus or "")


def shown(form: Words) -> Words:
    """The words as a view may have them, with `SHOWN` in place of each key."""
    try:
        plain = expansion.split(form.flags)
    except InvalidOption:  # half typed
        return replace(form, flags=" ".join(mask_words([form.flags])))
    masked = _masked(plain)
    return form if masked == plain else replace(form, flags=shlex.join(masked))


def meant(form: Words, before: Words) -> Words:
    """The words that a view sent, with what it was shown `SHOWN` for.

    Args:
        form: from the view.
        before: the words that it was shown without their keys.

    Raises:
        InvalidOption: one stands where nothing was hidden.
    """
    if SHOWN not in form.flags:
        return form
    plain = expansion.split(before.flags)
    hidden = dict(zip(pairwise(["", *_masked(plain)]), plain, strict=True))  # a word, and the one before it
    sent = [
        hidden.get(two, two[1]) if SHOWN in two[1] else two[1]
        for two in pairwise(["", *expansion.split(form.flags)])
    ]
    if any(SHOWN in word for word in sent):
        raise InvalidOption(
            f"Nothing is known to stand for {SHOWN} in the flags. Write it out, or leave it out."
        )
    return replace(form, flags=shlex.join(sent))


def _masked(plain: Sequence[str]) -> list[str]:
    return [
        _masked_variable(plain[at]) if at and plain[at - 1] == "--env" else word
        for at, word in enumerate(mask_words(plain))
    ]


def _masked_variable(word: str) -> str:
    name, _, value = word.partition("=")
    return f"{name}={SHOWN}" if known({name: value}) or mask(word) != word else word


def judge(form: Words, settings: Settings, now: Snapshot | None) -> Assessment:
    """Look at flags and memory; the network is not asked."""
    if not form.model:
        return Assessment()
    try:
        wanted = spec(form, settings)
        if wanted.cluster:  # its vLLM and its GPUs are not those of this machine
            return Assessment(f"It will run on the Ray cluster at {rest.shown(wanted.cluster)}.")
        unknown_flags.check(wanted, executable.find(wanted.executable))
        if now is None or not now.gpus:
            return Assessment()
        claims = {room.index: room.usable for room in claim(wanted, os.environ, now)}
        return _fitting(wanted, now, claims)
    except VllmMagicError as error:
        return Assessment(str(error), wrong=True)


def suggestions() -> list[str]:
    """Models that were started before, and those on disk."""
    return list(dict.fromkeys([*history.models(), *sorted(on_disk.cached_models())]))[:MODELS]


def _fitting(wanted: ServerSpec, now: Snapshot, claims: Mapping[int, int]) -> Assessment:
    try:
        found = fit(wanted, os.environ, now, online=False)
    except NoEstimate:  # not on this machine, or of a kind that is not known
        return Assessment(claims=claims)
    return Assessment(found.verdict, found.fits is False, claims)
