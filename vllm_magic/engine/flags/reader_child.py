"""A program for vLLM's own Python, where vllm_magic is not installed: write the table of vLLM's flags to stdout, as JSON.

    PYTHON reader_child.py SCHEMA EXECUTABLE

vLLM has no list of its flags that a program can read, but its parser, from `make_arg_parser`, has all of them. With
``--help`` among the arguments the parser also has their help (vLLM 0.32, engine/arg_utils.py). See `flag_table` for the
result.
"""

from __future__ import annotations

import os
import sys

# Python has put this file's folder first on the path. vLLM must not import our modules in place of its own.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - before any other import
sys.path[:] = [folder for folder in sys.path if folder != _HERE]

import importlib  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
from contextlib import suppress  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    import argparse

LONGEST_TEXT = 2000  # characters of a help or a default
_END_OF_SENTENCE = re.compile(r"\.\s+(?=[A-Z`])|:\s*\n|\n\n| \(default:")
MAKERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")  # in 0.32; before
PARSERS = ("vllm.utils.argparse_utils", "vllm.utils")  # since 0.11.1; before
DEFINE = (
    "vllm.engine.arg_utils",
    "vllm.version",
    *PARSERS,
    *MAKERS,
)  # define flags, as all modules of vllm.config do


def main() -> None:
    """Write the table."""
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM's log goes to stdout
    schema, executable = sys.argv[1:]
    sys.argv = ["vllm", "--help"]  # without "serve": with both, vLLM leaves --model out
    flexible: Any = _first(PARSERS, "FlexibleArgumentParser")
    parser = _first(MAKERS, "make_arg_parser")(flexible(prog="vllm serve"))
    table = {
        "schema": int(schema),
        "version": _version(),
        "sources": [_stamp(path) for path in (executable, *_sources())],
        "places": [_stamp(path) for path in sys.path if any(Path(path).glob("*.dist-info"))],
        "options": [_option(parser, action) for action in parser._actions if action.option_strings],  # noqa: SLF001
    }
    with reply:
        json.dump(table, reply)


def _first(modules: tuple[str, ...], name: str) -> Any:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (AttributeError, ModuleNotFoundError):
            continue
    raise ImportError(f"This vLLM has no {name} in {' or '.join(modules)}")


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
        if (name in DEFINE or f"{name}.".startswith("vllm.config.")) and getattr(module, "__file__", None)
    }
    with suppress(AttributeError, metadata.PackageNotFoundError):
        found.add(str(Path(metadata.distribution("vllm")._path, "METADATA")))  # type: ignore[attr-defined]  # noqa: SLF001
    return sorted(path for path in found if Path(path).exists())


def _stamp(path: str) -> list[Any]:
    status = Path(path).stat()
    return [path, status.st_mtime_ns, status.st_size]


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> dict[str, Any]:
    # For an option that allows other values too, vLLM has the usual ones in `metavar`.
    usual = action.choices or (action.metavar if isinstance(action.metavar, list) else ())
    group = next((one.title for one in parser._action_groups if action in one._group_actions), "")  # noqa: SLF001
    return {
        "strings": list(action.option_strings),
        "type": _type(action),
        "choices": [str(one) for one in usual if one is not None],
        "default": "" if action.default is None else str(action.default)[:LONGEST_TEXT],
        "help": _first_sentence((action.help or "").replace("%%", "%"))[:LONGEST_TEXT],
        "takes_value": action.nargs != 0,
        "group": group or "",
    }


def _first_sentence(text: str) -> str:
    """Return the first sentence of a help: a menu has room for one line, and every kernel reads the table."""
    return " ".join(_END_OF_SENTENCE.split(text.strip(), maxsplit=1)[0].split()).rstrip(".:")


def _type(action: argparse.Action) -> str:
    """Return the name of the function that converts the option's value, without the wrapper of vLLM's `optional_type`."""
    if action.nargs == 0:
        return "bool"
    kind: Any = action.type or str
    while inner := [one.cell_contents for one in getattr(kind, "__closure__", None) or ()]:
        if not callable(inner[0]):
            break
        kind = inner[0]
    return str(getattr(kind, "__name__", kind))


if __name__ == "__main__":
    main()
