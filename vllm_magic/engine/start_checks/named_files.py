"""Refuse flags that name a file which does not exist, or which vLLM does not read."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine import similar_paths
from vllm_magic.engine.flags import config_file, flags
from vllm_magic.engine.start_checks import all_problems
from vllm_magic.engine.start_checks.planned_start import NO_VALUE
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

# vLLM takes a text with one of these for the template itself (validate_chat_template).
TEMPLATE = re.compile(r"[{}\n]")
CERTIFICATE = ("--ssl-keyfile", "--ssl-certfile")
_BUILT_IN = "lib*/python3*/*-packages/vllm/transformers_utils/chat_templates"
# A name that the Hub accepts: NAME or ORGANISATION/NAME (huggingface_hub, validate_repo_id).
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CONFIG_ENDINGS = ("yaml", "yml")
_DOTS = re.compile(r"\.{1,2}(/|$)")


def check(start: PlannedStart) -> None:
    """Check the files of ``--config``, ``--chat-template``, ``--ssl-...``, ``--lora-modules`` and ``--tokenizer``.

    Raises:
        InvalidOption: files are not there, or vLLM does not read them.
    """
    if start.is_omni:
        return
    all_problems.check(
        (_check_config, _check_chat_template, _check_certificates, _check_adapters, _check_tokenizer),
        start,
    )


def _check_config(start: PlannedStart) -> None:
    """Check what vLLM asks of ``--config`` before it opens the file (load_config_file in its utils/argparse_utils.py, 0.15 to 0.33)."""
    args = start.spec.args
    if args.count(config_file.FLAG) > 1:
        raise InvalidOption(
            f"vLLM takes one {config_file.FLAG}, and there are several. Put all flags into one file."
        )
    name = flags.value(args, config_file.FLAG)  # vLLM ignores one in the file
    if name and not name.startswith("-") and name.rpartition(".")[2] not in _CONFIG_ENDINGS:
        raise InvalidOption(
            f"{config_file.FLAG} {name}: vLLM reads a file whose name ends with .yaml or .yml. "
            f"Rename it to {Path(name).with_suffix('.yaml').name}."
        )


def _check_chat_template(start: PlannedStart) -> None:
    """Check the path of the chat template, with vLLM's own rule (validate_chat_template, 0.15 to 0.33)."""
    text = start.value("--chat-template")
    if text is None or text in NO_VALUE or text.startswith("-") or TEMPLATE.search(text):
        return
    if similar_paths.exists(text, start.spec.cwd):
        return
    built_in: list[str] = []
    if start.executable and not Path(text).is_absolute():
        # A relative path may be that of a template of vLLM.
        built_in = [str(folder) for folder in Path(start.executable).resolve().parent.parent.glob(_BUILT_IN)]
        if not built_in or any(similar_paths.exists(text, folder) for folder in built_in):
            return
    near = similar_paths.suggestion(text, start.spec.cwd, *built_in)
    raise InvalidOption(
        f"--chat-template {text} is not there.{near or ' Give the path of a file, or the template itself.'}"
    )


def _check_certificates(start: PlannedStart) -> None:
    """Check the paths of certificates. Uvicorn reads them after the model has been loaded (Config.load in its config.py)."""
    names = [*CERTIFICATE, "--ssl-ca-certs"]
    if not start.has(*CERTIFICATE):
        return
    problems = []
    for name in names:
        path = start.value(name)
        if path is None or path in NO_VALUE or path.startswith("-"):
            continue
        if not similar_paths.exists(path, start.spec.cwd):
            meant = similar_paths.suggestion(path, start.spec.cwd)
            problems.append(f"{name} {path} is not there.{meant or ' Correct the path.'}")
    if problems:
        raise InvalidOption(*problems)


def _check_adapters(start: PlannedStart) -> None:
    # vLLM uses only the last of these flags (LoRAParserAction in its cli_args.py).
    flag = start.last("--lora-modules")
    adapters = [text for text in flag.values if text not in NO_VALUE] if flag else []
    all_problems.check([partial(_check_adapter, text) for text in adapters], start)


def _check_tokenizer(start: PlannedStart) -> None:
    """Check the path of ``--tokenizer``."""
    path = start.value("--tokenizer") or ""
    mode = start.value("--tokenizer-mode") or "auto"  # plugins add others
    is_read = not start.has("--skip-tokenizer-init") and mode in ("auto", "hf", "slow", "mistral")
    if not path.startswith("/") or not is_read or start.has_other_source:
        return
    if not similar_paths.exists(path, start.spec.cwd):
        raise InvalidOption(f"--tokenizer {path} is not there. {similar_paths.nearest(Path(path))}")


def _check_adapter(text: str, start: PlannedStart) -> None:
    """Check that the files of one adapter are there."""
    name, path = _name_and_path(text)
    # vLLM looks on the Hub for a path that does not exist (get_adapter_absolute_path in vLLM's lora/utils.py).
    may_be_on_hub = _HUB_NAME.fullmatch(path) and not _DOTS.match(path)
    if not path or may_be_on_hub or "://" in path or "VLLM_USE_MODELSCOPE" in start.environ:
        return
    expanded = os.path.expanduser(path)  # noqa: PTH111 - vLLM calls this too: it raises no error for an unknown user
    if not similar_paths.exists(expanded, start.spec.cwd):
        meant = similar_paths.suggestion(expanded, start.spec.cwd)
        raise InvalidOption(
            f"The LoRA adapter {name} is not there: {path}.{meant or ' Correct --lora-modules.'}"
        )


def _name_and_path(text: str) -> tuple[str, str]:
    """Return the name and the path of an adapter. vLLM reads NAME=PATH without a comma, and else JSON (LoRAParserAction).

    Raises:
        InvalidOption: vLLM would refuse the text.
    """
    name, equals, path = text.partition("=")
    if equals and "," not in text:
        return name, path
    try:
        fields = json.loads(text)
    except ValueError:
        raise InvalidOption(f"--lora-modules {text} is no adapter. {_notation(text)}") from None
    if not isinstance(fields, dict) or not {"name", "path"} <= set(fields):
        raise InvalidOption(f"--lora-modules {text} has no name or no path. {_notation('')}")
    return str(fields["name"]), str(fields["path"])


def _notation(text: str) -> str:
    parts = text.split(",")
    if len(parts) > 1 and all("=" in part for part in parts):
        return f"Write a blank between two adapters: --lora-modules {' '.join(parts)}."
    if text and not text.startswith("{"):
        return f"Write --lora-modules NAME={text}."
    return """Write --lora-modules NAME=PATH, or '{"name": NAME, "path": PATH}'."""
