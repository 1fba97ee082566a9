"""Draw `docs/house.svg`: the floors of the package from its real imports, and the way of a start and of a stop through them.

    python tools/house.py            write the figure
    python tools/house.py --check    exit with 1 if the figure is not the one that this would write

The floors are those of `tool.importlinter` in pyproject.toml. Each step of a start and of a stop names a function that
exists; the script fails if it does not.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

import grimp

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vllm_magic"
FIGURE = ROOT / "docs" / "house.svg"

# Module, function, and what the step does. In the order in which they are called; a step on a higher floor than the one
# before it is a return.
START = (
    ("jupyter.magics", "VllmMagics.vllm", "its words, as a ServerSpec"),
    ("manager.manager", "Manager.start", "is the name free?"),
    ("provisioning.choose", "provisioner", "which way, port and key"),
    ("server.run", "ServerRun.begin", ""),
    ("lifecycle.supervisor", "Supervisor.begin", "a thread of its own"),
    ("recovery.sweep", "sweep", "what dead kernels left"),
    ("provisioning.launch", "Preparation.select_gpus", "GPUs, memory, releases"),
    ("ledger", "create", "the private folder"),
    ("guard.client", "GuardPair", "executes vLLM"),
    ("lifecycle.monitor", "Monitor.run", "log, stages, guards"),
    ("engine.client.health", "Api.health", "/health answers"),
    ("lifecycle.lifecycle", "Lifecycle.take", "the state is ready"),
)
STOP = (
    ("jupyter.magics", "VllmMagics.vllm", ""),
    ("manager.manager", "Manager.stop", ""),
    ("server.server", "Server.stop", "asks, then waits"),
    ("lifecycle.supervisor", "Supervisor.stop", "wakes the thread"),
    ("lifecycle.monitor", "Monitor.run", "GPUs as they are before"),
    ("lifecycle.state", "StateMachine.handle", "drain, grace, deadlines"),
    ("guard.client", "Guards.stop", ""),
    ("guard.ladder", "Ladder", "SIGTERM, SIGKILL"),
    ("release.report", "release", "who ended, and how"),
    ("release.local_verifier", "LocalVerifier.verify", "processes, memory"),
    ("lifecycle.lifecycle", "Lifecycle.take", "the state is released"),
)

LINE = 15  # pixels
PAD = 9
COLUMNS = (20, 130, 490, 800)  # x of the names, of what they are, of a start, of a stop
WIDTH = 1100
CHARACTERS = 54  # in a line of what a package is


def floors() -> list[list[str]]:
    """Return the floors from the highest down, each with its packages and modules."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    return [layer.replace(":", "|").replace(" ", "").split("|") for layer in layers]


def about(name: str) -> str:
    """Return the first line of the docstring of a package or module."""
    return (ast.get_docstring(_tree(name)) or "").split("\n")[0].rstrip(".").replace("``", "")


def imports(name: str, graph: grimp.ImportGraph, names: list[str]) -> list[str]:
    """Return those of ``names`` that the package imports directly."""
    whole = f"{PACKAGE}.{name}"
    found = {
        to.split(".")[1]
        for module in {whole, *graph.find_descendants(whole)}
        for to in graph.find_modules_directly_imported_by(module)
        if to.startswith(f"{PACKAGE}.")
    }
    return [one for one in names if one in found and one != name]


def figure() -> str:
    """Return the figure as SVG.

    Raises:
        LookupError: a step names a function that does not exist.
    """
    graph = grimp.build_graph(PACKAGE)
    rows = [(name, floor) for floor, packages in enumerate(floors()) for name in packages]
    names = [name for name, _ in rows]
    steps = [_by_package(way) for way in (START, STOP)]
    drawn = [
        _text(COLUMNS[2], 30, "a start", "h"),
        _text(COLUMNS[3], 30, "a stop", "h"),
        _text(COLUMNS[0], 30, "floor", "h"),
    ]
    y, before = 44, 0
    for name, floor in rows:
        if floor != before:
            drawn.append(f'<line x1="12" x2="{WIDTH - 12}" y1="{y}" y2="{y}"/>')
            before = floor
        lower = imports(name, graph, names)
        words = [*_wrapped(about(name)), *_wrapped(f"→ {', '.join(lower)}" if lower else "→ nothing of ours")]
        columns = [way.get(name, []) for way in steps]
        height = LINE * max(len(words), *map(len, columns)) + PAD
        drawn.append(_text(COLUMNS[0], y + LINE, name, "n"))
        for number, line in enumerate(words):
            drawn.append(
                _text(
                    COLUMNS[1],
                    y + LINE * (number + 1),
                    line,
                    "i" if number >= len(_wrapped(about(name))) else "t",
                )
            )
        for x, column in zip(COLUMNS[2:], columns, strict=True):
            drawn += [_text(x, y + LINE * (number + 1), line, "s") for number, line in enumerate(column)]
        y += height
    style = (
        "text{font:12px sans-serif;fill:#222}.h{font-weight:bold;font-size:14px}.n{font-family:monospace;font-weight:bold}"
        ".i{fill:#777}.s{fill:#075}line{stroke:#ccc}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _by_package(way: tuple[tuple[str, str, str], ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, (module, function, does) in enumerate(way, 1):
        _check(module, function)
        words = f"{number}  {function}" + (f": {does}" if does else "")
        found.setdefault(module.split(".")[0], []).append(words)
    return found


def _check(module: str, function: str) -> None:
    body: list[ast.stmt] = _tree(module).body
    for name in function.split("."):
        found = [one for one in body if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name == name]
        if not found:
            raise LookupError(f"{module} has no {function}: correct the steps in {Path(__file__).name}.")
        body = found[0].body


def _tree(name: str) -> ast.Module:
    path = ROOT.joinpath(PACKAGE, *name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _text(x: int, y: int, words: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


if __name__ == "__main__":
    made = figure()
    if "--check" in sys.argv:
        sys.exit(
            None
            if FIGURE.is_file() and FIGURE.read_text(encoding="utf-8") == made
            else "docs/house.svg is not true any more: run `make house`"
        )
    FIGURE.write_text(made, encoding="utf-8")
