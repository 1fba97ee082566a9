"""Refuse models in the notation of other programs, which vLLM does not read: of Ollama, Windows, and URLs of files.

vLLM 0.15 reads ORGANISATION/NAME:QUANTIZATION for GGUF files on the Hub, and URLs that end with .gguf; plugins of later versions
do so too. It reads s3://, gs:// and az:// (transformers_utils/gguf_utils.py, runai_utils.py).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vllm_magic.engine import similar_paths
from vllm_magic.engine.models import hf_cache
from vllm_magic.engine.models.model_files import cache_folder
from vllm_magic.errors import StartFailed

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

_WINDOWS = re.compile(r"[A-Za-z]:.*\\.*|[A-Za-z]:/(?!/).*")
_SCHEME = re.compile(r"(file|hf|huggingface|ollama|https?)://(.*)", re.IGNORECASE)
_HUB = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+):[\w.+-]+")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# The tag of a model of Ollama: "latest", or a size as in "0.6b" and "8b-instruct-q4_K_M". No quantization of GGUF looks so.
_TAG = re.compile(r"latest|\d+(\.\d+)?[bm](-.*)?", re.IGNORECASE)


def check(start: PlannedStart) -> None:
    """Check the notation of the model. The caller has checked that no file has this name.

    Raises:
        StartFailed: it is that of another program.
    """
    model = start.spec.model
    if _WINDOWS.fullmatch(model):
        raise StartFailed(f"{model} is a path of Windows", _in_wsl(model))
    if found := _HUB.fullmatch(model):
        raise StartFailed(
            f"{model} is a name of Ollama, and vLLM takes the name on the Hub", f"Give {found[1]}"
        )
    if (found := _SCHEME.fullmatch(model)) and not model.endswith(".gguf"):
        raise StartFailed(
            f"{model} is a URL that vLLM does not read", _for_url(found[1].lower(), found[2], start)
        )
    name, colon, tag = model.partition(":")
    if colon and not tag.startswith("//") and ("/" not in name or _TAG.fullmatch(tag)):
        raise StartFailed(
            f"{model} is a name of Ollama, and vLLM takes the name on the Hub", _on_hub(name, tag, start)
        )


def _in_wsl(model: str) -> str:
    path = PureWindowsPath(model)
    mounted = "/".join((f"/mnt/{path.drive[0].lower()}", *path.parts[1:]))
    if similar_paths.exists(mounted, "/"):
        return f"Give {mounted}"
    return "vLLM runs on Linux: give the path of the folder there"


def _for_url(scheme: str, rest: str, start: PlannedStart) -> str:
    if scheme == "file":
        return f"Give the path: {unquote(rest.removeprefix('localhost'))}"
    if scheme == "ollama":
        name, _, tag = rest.partition(":")
        return _on_hub(name, tag, start)
    if scheme in ("hf", "huggingface") and _HUB_NAME.fullmatch(rest):
        return f"Give {rest}"
    return "Give a name on the Hub such as Qwen/Qwen3-0.6B, or the path of a folder"


def _on_hub(name: str, tag: str, start: PlannedStart) -> str:
    """Return the name on the Hub that was probably meant, if the cache has such a model; otherwise an example."""
    last = name.rpartition("/")[2]
    cached = {
        each.rpartition("/")[2].casefold(): each for each in hf_cache.names(cache_folder(start.environ))
    }
    meant = f"{last}-{tag}".casefold() if _TAG.fullmatch(tag) and tag != "latest" else last.casefold()
    if near := get_close_matches(meant, cached, 1):
        return f"Did you mean {cached[near[0]]}?"
    return "Give a name such as Qwen/Qwen3-0.6B; https://huggingface.co/models finds it"
