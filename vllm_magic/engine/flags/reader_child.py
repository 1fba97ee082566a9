"""A program for vLLM's own Python, where vllm_magic is not installed: write vLLM's flags and architectures to stdout, as JSON.

    PYTHON reader_child.py SCHEMA EXECUTABLE

vLLM has no list of its flags that a program can read, and moves the modules that define them. So vLLM's own console script
is run, up to the point where its parser has been built and is about to read the command line; the parser of the sub-command
``serve`` has all flags. With ``--help`` among the arguments the parser also has their help (vLLM 0.33, engine/arg_utils.py).
See `flag_table` for the result. If vLLM cannot be imported, or has no such parser, the error is written in its place.
"""

from __future__ import annotations

import os
import sys

# Python has put this file's folder first on the path. A console script has its own folder there.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - before any other import
sys.path[:] = [os.path.dirname(sys.argv[2]) if folder == _HERE else folder for folder in sys.path]  # noqa: PTH120

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import runpy  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

LONGEST_TEXT = 2000  # characters of a help, a default or an error
_END_OF_SENTENCE = re.compile(r"\.\s+(?=[A-Z`])|:\s*\n|\n\n| \(default:")
# The modules that define flags, architectures or parsers, under their names in vLLM 0.9 to 0.33.
_DEFINES_FLAGS = re.compile(
    r"vllm\.(version|utils|config(\..+)?|.+\.(arg_utils|argparse_utils|cli_args|cli\.serve|models\.registry)"
    r"|utils\.argparse_utils|(.+\.)?tool_parsers|reasoning)"
)
_OF_A_MODEL = re.compile(r"For[A-Z]\w*$|(?<!PreTrained)Model$")  # the name of a class of Transformers
# Where the names of all parsers are registered, those of installed plugins too (vLLM 0.12 to 0.33; the first name up to 0.12).
_PARSERS = {
    "--tool-call-parser": (
        "ToolParserManager",
        ("vllm.entrypoints.openai.tool_parsers", "vllm.tool_parsers"),
    ),
    "--reasoning-parser": ("ReasoningParserManager", ("vllm.reasoning",)),
}


def main() -> None:
    """Write the table, or why there is none."""
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM's log goes to stdout
    with suppress(OSError):  # a pipe
        reply.truncate(0)  # a sitecustomize of this Python may have printed something before
        reply.seek(0)
    schema, executable = sys.argv[1:]
    try:
        _choose_platform()
        parser = _serve_parser(executable)
        found: dict[str, Any] = {
            "version": _version(),
            "options": [_option(parser, action) for action in parser._actions if action.option_strings],  # noqa: SLF001
            "architectures": _architectures(),
        }
    except (Exception, SystemExit) as error:  # noqa: BLE001 - anything may be wrong with an installation
        found = {"failure": f"{type(error).__name__}: {error}"[:LONGEST_TEXT], "at": time.time()}
    stamps = {
        "schema": int(schema),
        "sources": [_stamp(path) for path in (executable, *_sources())],
        "places": [_stamp(path) for path in sys.path if any(Path(path).glob("*.dist-info"))],
    }
    with reply:
        json.dump({**stamps, **found}, reply)


def _choose_platform() -> None:
    """Take the CPU for the platform where vLLM finds no device of the kind for which it was built.

    Without a platform some defaults of the flags cannot be made ("Failed to infer device type"). ``vllm bench`` does the same
    (vLLM 0.33, entrypoints/cli/main.py).
    """
    with suppress(ImportError, AttributeError):  # a vLLM without these names
        platforms: Any = importlib.import_module("vllm.platforms")
        if platforms.current_platform.is_unspecified():
            platforms.current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()


class _ParserBuilt(BaseException):
    """Ends the console script. It is no `Exception`, so that vLLM does not handle it."""

    def __init__(self, serve: argparse.ArgumentParser) -> None:
        self.serve = serve


def _serve_parser(executable: str) -> argparse.ArgumentParser:
    """Return the parser of ``vllm serve``.

    Raises:
        LookupError: the console script has no sub-command ``serve``.
        Exception: any error of vLLM's modules.
    """
    parse: Any = argparse.ArgumentParser.parse_known_args

    def intercept(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        for action in parser._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction) and "serve" in action.choices:  # noqa: SLF001
                raise _ParserBuilt(action.choices["serve"])
        return parse(parser, *args, **kwargs)

    argparse.ArgumentParser.parse_known_args = intercept  # type: ignore[assignment]
    sys.argv = [executable, "--help"]  # without "serve": with both, vLLM leaves --model out
    try:
        runpy.run_path(executable, run_name="__main__")
    except _ParserBuilt as built:
        return built.serve
    except SystemExit as ended:
        if ended.code:
            raise
    raise LookupError(f"{executable} has no sub-command serve")


def _architectures() -> list[str]:
    """Return the names of the architectures that vLLM, its plugins or Transformers have; [] if they cannot be read.

    vLLM serves a model of Transformers that is not in its own registry with the code of Transformers. The plugins were loaded
    when the parser was built (AsyncEngineArgs.add_cli_args in vLLM 0.15 to 0.33).
    """
    with suppress(Exception):
        registry = importlib.import_module("vllm.model_executor.models.registry").ModelRegistry
        others = dir(importlib.import_module("transformers"))
        return sorted({*registry.get_supported_archs(), *filter(_OF_A_MODEL.search, others)})
    return []


def _version() -> str:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:  # vLLM is a checkout that was never installed
        return str(importlib.import_module("vllm").__version__)


def _sources() -> list[str]:
    """Return the files from which the table was read: if one of them changes, the table may change."""
    found = {
        str(module.__file__)
        for name, module in list(sys.modules.items())
        if _DEFINES_FLAGS.fullmatch(name) and getattr(module, "__file__", None)
    }
    with suppress(AttributeError, metadata.PackageNotFoundError):
        found.add(str(Path(metadata.distribution("vllm")._path, "METADATA")))  # type: ignore[attr-defined]  # noqa: SLF001
    return sorted(path for path in found if Path(path).exists())


def _stamp(path: str) -> list[Any]:
    status = Path(path).stat()
    return [path, status.st_mtime_ns, status.st_size]


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> dict[str, Any]:
    # For an option that allows other values too, vLLM has the usual ones in `metavar`.
    usual = action.choices or (action.metavar if isinstance(action.metavar, list) else _registered(action))
    title = next((group.title for group in parser._action_groups if action in group._group_actions), "")  # noqa: SLF001
    accepted = [string for string, other in parser._option_string_actions.items() if other is action]  # noqa: SLF001
    has_default = action.default is not None and action.default != argparse.SUPPRESS
    return {
        "strings": list(action.option_strings),
        "hidden": [string for string in accepted if string not in action.option_strings],
        "type": _type(action),
        "choices": [str(value) for value in usual if value is not None],
        "strict": bool(action.choices),
        "optional": _is_optional(action) or not any(map(_is_optional, parser._actions)),  # noqa: SLF001
        "default": str(action.default)[:LONGEST_TEXT] if has_default else "",
        "help": _first_sentence((action.help or "").replace("%%", "%"))[:LONGEST_TEXT],
        "nargs": "1" if action.nargs is None else str(action.nargs),
        "group": title or "",
    }


def _registered(action: argparse.Action) -> list[str]:
    """Return the names of all parsers for an option that takes the name of a parser; [] for all other options."""
    for flag in set(action.option_strings) & set(_PARSERS):
        manager, modules = _PARSERS[flag]
        for name in modules:
            with suppress(Exception):  # a vLLM that has no such module, or no list
                return list(getattr(importlib.import_module(name), manager).list_registered())
    return []


def _first_sentence(text: str) -> str:
    """Return the first sentence of a help: a menu has room for one line, and every kernel reads the table."""
    return " ".join(_END_OF_SENTENCE.split(text.strip(), maxsplit=1)[0].split()).rstrip(".:")


def _type(action: argparse.Action) -> str:
    """Return the name of the function that converts the option's value, without the wrapper of vLLM's `optional_type`."""
    return "bool" if action.nargs == 0 else _converters(action)[-1]


def _is_optional(action: argparse.Action) -> bool:
    """Whether vLLM wraps the converter, and reads "" and "None" as no value (engine/arg_utils.py in vLLM 0.15 to 0.33)."""
    return "_optional_type" in _converters(action)


def _converters(action: argparse.Action) -> list[str]:
    """Return the names of the function that converts the option's value, and of those that it wraps, the inner ones last."""
    kind: Any = action.type or str
    found = [kind]
    while inner := [cell.cell_contents for cell in getattr(kind, "__closure__", None) or ()]:
        if not callable(inner[0]):
            break
        kind = inner[0]
        found.append(kind)
    return [str(getattr(one, "__name__", one)) for one in found]


if __name__ == "__main__":
    main()
