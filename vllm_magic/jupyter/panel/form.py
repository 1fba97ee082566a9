"""The values of the form: the start that they describe, its assessment, and the values without secrets for the views."""

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
from vllm_magic.jupyter.panel.messages import FormFields
from vllm_magic.masking import SHOWN, known, mask, mask_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.commands.settings import Settings

MODELS = 100  # suggested models at most
OPTIONS = ("name", "port", "executable", "ttl", "keep", "cluster")  # our own, besides --gpus and --env


@dataclass(frozen=True)
class Assessment:
    """The assessment of the form's values.

    Attributes:
        text: one line for the user; "" for none.
        wrong: whether the start would be refused or would fail.
        claims: the bytes that vLLM will take on each GPU, by the index of the GPU.
    """

    text: str = ""
    wrong: bool = False
    claims: Mapping[int, int] = field(default_factory=dict)


def spec(form: FormFields, settings: Settings) -> ServerSpec:
    """Return the spec of the server that the form describes.

    Raises:
        InvalidOption: an argument does not fit.
    """
    fields = [form.model, *expansion.split(form.flags)] if form.model else expansion.split(form.flags)
    chosen = ["--gpus", form.gpus] if form.gpus else []
    return start_arguments.parse([*fields, *chosen], settings).spec


def fields_of(wanted: ServerSpec, settings: Settings) -> FormFields:
    """Return the form values that, together with the settings, describe this server; its keys are in them."""
    try:
        usual = start_arguments.parse([wanted.model], settings).spec
    except VllmMagicError:  # the settings are not valid any more
        usual = start_arguments.parse([wanted.model], NO_SETTINGS).spec
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
    return FormFields(wanted.model, shlex.join(flags), wanted.gpus or "")


def masked(form: FormFields) -> FormFields:
    """Return the form values as a view may see them, with `SHOWN` in place of each key."""
    try:
        plain = expansion.split(form.flags)
    except InvalidOption:  # the user has not typed the flags to their end
        return replace(form, flags=" ".join(mask_words([form.flags])))
    masked = _masked(plain)
    return form if masked == plain else replace(form, flags=shlex.join(masked))


def unmasked(form: FormFields, before: FormFields) -> FormFields:
    """Return the form values that a view sent, with the keys back in place of `SHOWN`.

    Args:
        form: the values from the view.
        before: the values with the keys that the view was shown as `SHOWN`.

    Raises:
        InvalidOption: `SHOWN` stands in a place where no key was hidden.
    """
    if SHOWN not in form.flags:
        return form
    plain = expansion.split(before.flags)
    hidden = dict(
        zip(pairwise(["", *_masked(plain)]), plain, strict=True)
    )  # by the argument and the one before it
    sent = [
        hidden.get(two, two[1]) if SHOWN in two[1] else two[1]
        for two in pairwise(["", *expansion.split(form.flags)])
    ]
    if any(SHOWN in word for word in sent):
        raise InvalidOption(
            f"The flags contain {SHOWN} where no key was hidden. Type the key itself, or remove {SHOWN}."
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


def assess(form: FormFields, settings: Settings, now: Snapshot | None) -> Assessment:
    """Assess the flags and the memory, without the network."""
    if not form.model:
        return Assessment()
    try:
        wanted = spec(form, settings)
        if wanted.cluster:  # the cluster's vLLM and GPUs are not those of this machine
            return Assessment(f"It will run on the Ray cluster at {rest.shown(wanted.cluster)}.")
        unknown_flags.check(wanted, executable.find(wanted.executable))
        if now is None or not now.gpus:
            return Assessment()
        claims = {room.index: room.usable for room in claim(wanted, os.environ, now)}
        return _fitting(wanted, now, claims)
    except VllmMagicError as error:
        return Assessment(str(error), wrong=True)


def suggestions() -> list[str]:
    """Return the models that were started before, then the other models on disk."""
    return list(dict.fromkeys([*history.models(), *sorted(on_disk.cached_models())]))[:MODELS]


def _fitting(wanted: ServerSpec, now: Snapshot, claims: Mapping[int, int]) -> Assessment:
    try:
        found = fit(wanted, os.environ, now, online=False)
    except NoEstimate:  # the model is not on this machine, or its kind is not known
        return Assessment(claims=claims)
    return Assessment(found.verdict, found.fits is False, claims)
