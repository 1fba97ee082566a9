"""The values of the form: the start that they describe, its assessment, and the masked values for the views."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from vllm_magic.cluster import rest
from vllm_magic.engine import executable
from vllm_magic.engine.capacity.fit import claim, fit
from vllm_magic.engine.start_checks import checks
from vllm_magic.engine.startup import history
from vllm_magic.errors import InvalidOption, NoEstimate, VllmMagicError
from vllm_magic.jupyter import on_disk
from vllm_magic.jupyter.commands import expansion, start_arguments
from vllm_magic.jupyter.commands.settings import NO_SETTINGS
from vllm_magic.jupyter.panel.messages import FormFields
from vllm_magic.masking import SHOWN, mask, mask_words, secret_values

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import GpuIndex, Snapshot
    from vllm_magic.jupyter.commands.settings import Settings

MOST_MODELS = 100  # suggested models, at most
# The options of vllm_magic that `fields_of` writes as flags. --gpus and --env are handled separately.
OPTION_FIELDS = ("name", "port", "executable", "ttl", "keep", "cluster")


@dataclass(frozen=True)
class Assessment:
    """The assessment of the start that the form describes.

    Attributes:
        text: a line for the user, or a line for each problem; "" for none.
        wrong: whether the start would be refused or would fail.
        claims: the bytes that vLLM will take on each GPU, by the index of the GPU.
    """

    text: str = ""
    wrong: bool = False
    claims: Mapping[GpuIndex, int] = field(default_factory=dict)


def spec(form: FormFields, settings: Settings) -> ServerSpec:
    """Return the spec of the server that the form describes.

    Raises:
        InvalidOption: an argument is not valid.
    """
    model = [form.model] if form.model else []
    gpus = ["--gpus", form.gpus] if form.gpus else []
    return start_arguments.parse([*model, *expansion.split(form.flags), *gpus], settings).spec


def fields_of(server: ServerSpec, settings: Settings) -> FormFields:
    """Return the form values that, together with the settings, describe this server. They contain its keys."""
    try:
        default = start_arguments.parse([server.model], settings).spec
    except VllmMagicError:  # the settings are not valid any more
        default = start_arguments.parse([server.model], NO_SETTINGS).spec
    flags = list(server.args)
    if flags[: len(default.args)] == list(default.args):
        del flags[: len(default.args)]
    for option in OPTION_FIELDS:
        value = getattr(server, option)
        if value is not None and value != getattr(default, option):
            flags += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    for name, value in server.env:
        if (name, value) not in default.env:
            flags += ["--env", f"{name}={value}"]
    return FormFields(server.model, shlex.join(flags), server.gpus or "")


def masked(form: FormFields) -> FormFields:
    """Return the form values for the views, with `SHOWN` in place of each key."""
    try:
        plain = expansion.split(form.flags)
    except InvalidOption:  # a quotation mark is not closed yet, since the user is still typing
        return replace(form, flags=" ".join(mask_words([form.flags])))
    masked = _masked(plain)
    return form if masked == plain else replace(form, flags=shlex.join(masked))


def unmasked(form: FormFields, before: FormFields) -> FormFields:
    """Return the form values that a view sent, with each `SHOWN` replaced by the key that it hides.

    Args:
        form: the values from the view.
        before: the values with their keys; the view got them masked, and perhaps changed them.

    Raises:
        InvalidOption: `SHOWN` stands in a place where no key was hidden.
    """
    if SHOWN not in form.flags:
        return form
    plain = expansion.split(before.flags)
    # A masked argument, together with the argument before it, says which argument it hides.
    hidden = dict(zip(pairwise(["", *_masked(plain)]), plain, strict=True))
    sent = pairwise(["", *expansion.split(form.flags)])
    restored = [hidden.get((flag, arg), arg) if SHOWN in arg else arg for flag, arg in sent]
    if any(SHOWN in arg for arg in restored):
        raise InvalidOption(
            f"The flags contain {SHOWN} where no key was hidden. Type the key itself, or remove {SHOWN}."
        )
    return replace(form, flags=shlex.join(restored))


def _masked(plain: Sequence[str]) -> list[str]:
    """Return the arguments with `SHOWN` in place of each key."""
    return [
        _masked_variable(arg) if before == "--env" else masked
        for (before, arg), masked in zip(pairwise(["", *plain]), mask_words(plain), strict=True)
    ]


def _masked_variable(assignment: str) -> str:
    """Return NAME=VALUE with the value masked if it is a key."""
    name, _, value = assignment.partition("=")
    return f"{name}={SHOWN}" if secret_values({name: value}) or mask(assignment) != assignment else assignment


def assess(
    form: FormFields, settings: Settings, snapshot: Snapshot | None, own_ports: Collection[int] = ()
) -> Assessment:
    """Check the flags, the model, the machine, and whether the memory suffices. This does not use the network.

    Args:
        form: the values of the form.
        settings: the settings of the session.
        snapshot: the GPUs as they are now; None if they are not known.
        own_ports: the ports of this kernel's servers.
    """
    if not form.model:
        return Assessment()
    try:
        server = spec(form, settings)
        if server.cluster:  # the cluster has another vLLM and other GPUs than this machine
            return Assessment(f"The server will run on the Ray cluster at {rest.shown(server.cluster)}.")
        checks.check(server, os.environ, executable.find(server.executable), snapshot, own_ports)
        if snapshot is None or not snapshot.gpus:
            return Assessment()
        claims = {room.index: room.usable for room in claim(server, os.environ, snapshot)}
        return _assess_memory(server, snapshot, claims)
    except VllmMagicError as error:
        return Assessment("\n".join(error.lines), wrong=True)


def suggestions() -> list[str]:
    """Return the models that were started before, then the other models on disk; at most `MOST_MODELS`."""
    return list(dict.fromkeys([*history.models(), *sorted(on_disk.cached_models())]))[:MOST_MODELS]


def _assess_memory(server: ServerSpec, snapshot: Snapshot, claims: Mapping[GpuIndex, int]) -> Assessment:
    try:
        estimate = fit(server, os.environ, snapshot, online=False)
    except NoEstimate:  # the model is not on this machine, or its architecture is not known
        return Assessment(claims=claims)
    return Assessment(estimate.verdict, estimate.fits is False, claims)
