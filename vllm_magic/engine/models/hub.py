"""Read a model's config.json and the headers of its weights from the Hugging Face Hub, without its weights."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.capacity import weights
from vllm_magic.engine.flags import flags
from vllm_magic.engine.models.model_files import cache_folder, read_json
from vllm_magic.errors import NoEstimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

    from vllm_magic.engine.capacity.weights import Weights
    from vllm_magic.engine.spec import ServerSpec

LIMIT = 10.0  # seconds for an answer
LONGEST_REASON = 200  # characters of the Hub's error that a message quotes
_YES = ("1", "ON", "YES", "TRUE")  # the values that huggingface_hub takes for true


def offline(environ: Mapping[str, str]) -> str:
    """Return the variable that forbids asking the Hub, by the rule of huggingface_hub (its constants.py); "" for none."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if value := environ.get(name):
            return name if value.upper() in _YES else ""
    return ""


def ask(spec: ServerSpec, environ: Mapping[str, str]) -> tuple[dict[str, Any], Weights]:
    """Return the config and the weights of a model on the Hub.

    Args:
        spec: the model, with its ``--revision``.
        environ: the environment, with ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and similar variables.

    Raises:
        NoEstimate: the Hub may not be asked, or does not know the model; the message says why.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec.model):
        raise NoEstimate(f"there is no model at {spec.model}.")
    if variable := offline(environ):
        raise NoEstimate(f"{spec.model} is not on this machine, and {variable} forbids asking the Hub.")
    try:
        import huggingface_hub
    except ImportError:
        raise NoEstimate(
            f"{spec.model} is not on this machine. To ask the Hub for it: pip install huggingface_hub."
        ) from None
    api = huggingface_hub.HfApi(
        endpoint=environ.get("HF_ENDPOINT") or None, token=environ.get("HF_TOKEN") or None
    )
    revision = flags.value(spec.all_args, "--revision")
    try:
        with _no_progress_bars():
            # This request comes first: without an answer, huggingface_hub repeats the others for half a minute.
            files = api.model_info(spec.model, revision=revision, files_metadata=True, timeout=LIMIT).siblings
            path = api.hf_hub_download(
                spec.model, "config.json", revision=revision, cache_dir=cache_folder(environ)
            )
            return read_json(Path(path)), _weights(api, spec.model, revision, files or ())
    except NoEstimate:
        raise
    except Exception as error:  # noqa: BLE001 - which library raises depends on the version of huggingface_hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NoEstimate(f"the Hub gave no data of {spec.model}: {reason[:LONGEST_REASON]}") from None


def _weights(api: HfApi, model: str, revision: str | None, files: Iterable[RepoSibling]) -> Weights:
    sizes = {file.rfilename: file.size or 0 for file in files}
    if any(name.endswith(".safetensors") for name in sizes):
        described = api.get_safetensors_metadata(model, revision=revision).files_metadata
        return weights.of_tensors(
            weights.tensor(name, tensor.dtype, tensor.shape)
            for file in described.values()
            for name, tensor in file.tensors.items()
        )
    stored = [size for name, size in sizes.items() if name.endswith(".bin")]
    if not sum(stored):
        raise NoEstimate(f"the Hub has no weights of {model} in a known format.")
    return weights.of_files(stored)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from huggingface_hub import utils

    before = utils.are_progress_bars_disabled()  # type: ignore[attr-defined]
    utils.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if not before:
            utils.enable_progress_bars()  # type: ignore[attr-defined]
