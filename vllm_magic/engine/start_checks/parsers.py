"""Refuse names of tool and reasoning parsers that vLLM does not have. vLLM itself checks them only while it loads the model."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from vllm_magic.engine import similar_paths
from vllm_magic.engine.flags.flag_table import plain
from vllm_magic.engine.start_checks import all_problems
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart

TOOLS = ("--tool-call-parser", "--tool-parser-plugin")
REASONING = ("--reasoning-parser", "--reasoning-parser-plugin")
AUTO = "--enable-auto-tool-choice"
NO_NAME = ("", "none")  # in lower case; vLLM reads them as no parser (vLLM 0.33, parse_reasoning_parser)
CUTOFF = 0.6  # how similar two names must be, as a ratio of difflib: such as qwen3-coder and qwen3_coder


def check(start: PlannedStart) -> None:
    """Check the names of the parsers. Do nothing if the flags of this vLLM are not known for certain.

    vLLM looks for a tool parser only with `AUTO` (validate_api_server_args), and for a reasoning parser when the engine
    reads the tokenizer (its v1/structured_output).

    Raises:
        InvalidOption: a parser has no name or an unknown name, or the file of its plugin does not exist.
    """
    if start.is_omni:
        return
    all_problems.check((_check_tools, _check_reasoning), start)


def _check_tools(start: PlannedStart) -> None:
    auto = start.last(AUTO)
    if auto and plain(auto.written).startswith("--en"):  # not --no-enable-auto-tool-choice
        if not _value(start, TOOLS[0]):
            raise InvalidOption(f"{AUTO} needs the parser of the model's tool calls: {TOOLS[0]} NAME.")
        _check(start, *TOOLS)


def _check_reasoning(start: PlannedStart) -> None:
    if not start.last("--skip-tokenizer-init"):
        _check(start, *REASONING)


def _value(start: PlannedStart, name: str) -> str:
    flag = start.last(name)
    return flag.values[0] if flag and flag.values else ""


def _check(start: PlannedStart, flag: str, plugin_flag: str) -> None:
    """Check the name of one parser, if the names of all parsers are known."""
    option = start.table.find(flag) if start.table else None
    name = _value(start, flag)
    if option is None or not option.choices or name.lower() in NO_NAME or name in option.choices:
        return
    plugin = _value(start, plugin_flag)
    if plugin:
        # Any other value than the path of a file may be a module (import_plugin in vLLM's utils/import_utils.py).
        if plugin.endswith(".py") and not similar_paths.exists(plugin, start.spec.cwd):
            meant = similar_paths.suggestion(plugin, start.spec.cwd) or " Correct the path."
            raise InvalidOption(
                f"{plugin_flag} {plugin} is not there, and vLLM itself has no parser {name}.{meant}"
            )
        return
    near = get_close_matches(name.lower(), option.choices, 1, CUTOFF)
    what_to_do = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(option.choices)}."
    raise InvalidOption(f"{flag} {name}: this vLLM has no parser {name}. {what_to_do}")
