"""Download a model before its start, with the huggingface_hub of this Python, or of vLLM's own Python."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.children.child import ChildProcess
from vllm_magic.engine import executable
from vllm_magic.engine.models import hf_cache, hosted_token
from vllm_magic.engine.models.download import Downloads
from vllm_magic.errors import VllmMagicError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.models.download import Download

_CHILD = Path(__file__).with_name("pull_child.py")
POLL_INTERVAL = 0.5  # seconds between readings of the progress
_FIELDS = ("total", "path", "error", "text")  # the fields that `pull_child` prints
# The exceptions of huggingface_hub (its errors.py), each with a message.
_MEANINGS = {
    "GatedRepoError": "is gated. Accept its terms on https://huggingface.co/{model}, and set HF_TOKEN",
    "RepositoryNotFoundError": "does not exist, or is private. Check the name; a private model needs HF_TOKEN in the environment",
    "RevisionNotFoundError": "has no such revision. Check --revision",
    "HFValidationError": "is not the name of a model. Write ORGANISATION/NAME",
    "OfflineModeIsEnabled": "cannot be downloaded while going online is disabled. Unset HF_HUB_OFFLINE",
}


@dataclass(frozen=True)
class Pulled:
    """A model on this machine, with its folder and its size in bytes."""

    model: str
    folder: str
    size: int


def pull(
    model: str,
    *,
    revision: str | None = None,
    vllm: str | None = None,
    report: Callable[[Download], None] | None = None,
) -> Pulled:
    """Download the files of a model that vLLM needs into the Hugging Face cache. Complete files are not downloaded again.

    Args:
        model: the Hugging Face name of the model.
        revision: a branch, tag or commit; None for the main one.
        vllm: the executable of the vLLM whose Python may have huggingface_hub; None to search for it.
        report: called repeatedly with the progress.

    Raises:
        VllmMagicError: the model cannot be downloaded; the message says why.
    """
    hosted_token.load(model, os.environ)
    downloads = Downloads(model, (), os.environ)
    answer: dict[str, Any] = {}
    words = [*_python(vllm), "-u", str(_CHILD), model, revision or "", str(hf_cache.folder((), os.environ))]
    with contextlib.closing(ChildProcess(words, {"HF_HUB_DISABLE_PROGRESS_BARS": "1"})) as child:
        for lines in child.lines(POLL_INTERVAL):
            for line in lines:
                answer |= _read(line)
            seen = downloads.progress()
            if report is not None and seen is not None:
                report(replace(seen, total=answer.get("total")))
    if "path" not in answer:
        raise VllmMagicError(_error_text(model, answer))
    return Pulled(model, str(answer["path"]), int(answer.get("total") or 0))


def _python(vllm: str | None) -> tuple[str, ...]:
    if sys.executable and find_spec("huggingface_hub") is not None:
        return (sys.executable,)
    with contextlib.suppress(VllmMagicError):
        interpreter = executable.interpreter(executable.find(vllm))
        if interpreter is not None:
            return interpreter
    raise VllmMagicError("A download needs huggingface_hub: %pip install huggingface_hub")


def _read(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {"text": line}  # a warning, or the last line of a traceback
    return {name: content[name] for name in _FIELDS if name in content} if isinstance(content, dict) else {}


def _error_text(model: str, answer: dict[str, Any]) -> str:
    meaning = _MEANINGS.get(str(answer.get("error")))
    if meaning is not None:
        return f"{model} {meaning.format(model=model)}."
    said = str(answer.get("text") or "the download ended without a message")[:300].rstrip(".")
    return f"{model} was not downloaded: {said}. Try it again: complete files are kept."
