"""Write docs/compatibility.md from what `results.py` noted: `python -m environments.report FOLDER`."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

from environments.catalog import ALL
from environments.results import STEPS

SHOWN = ("ipython", "ipykernel", "ipywidgets", "traitlets", "anywidget", "psutil")
HEAD = """\
# Where vllm_magic was tried

`make compatibility` wrote this page on {system}. In each of these environments it had a real kernel load the
extension, start a server (the tests' stand-in for vLLM), ask it, stream an answer, open the panel, complete lines, and stop the
server; then restart the kernel and kill it with SIGKILL, and look whether anything was left.

"failed" is the first step that did not work, and "-" stands for the steps behind it. "not run" says that the machine of this run
had no such environment: no Python of this version, or an install that failed.

"""
# What no run of this program can show.
TAIL = """
The environments of Colab and Kaggle have the versions of their public lists, and a stand-in for what Colab's kernel and shell
change; the services themselves were not tried. An install of vllm_magic there upgrades no package. The panel in classic Notebook
6.5 with Colab's versions, in chromium:

![The panel of a server that is ready, in classic Notebook](panel-classic-notebook.png)
"""


def main() -> None:
    """Print the page."""
    folder = Path(sys.argv[1])
    print(HEAD.format(system=_system()), end="")
    print("| environment | Python |", " | ".join(STEPS), "|")
    print("|---|---|" + "---|" * len(STEPS))
    found = {
        name: json.loads(path.read_text()) if (path := folder / f"{name}.json").exists() else None
        for name in ALL
    }
    for name, result in found.items():
        print(f"| {ALL[name].about} |", " | ".join(_cells(result)), "|")
    print("\nThe versions that were installed:\n")
    print("| environment |", " | ".join(SHOWN), "|")
    print("|---|" + "---|" * len(SHOWN))
    for name, result in found.items():
        if result:
            print(f"| {ALL[name].about} |", " | ".join(result["versions"].get(one, "") for one in SHOWN), "|")
    print(TAIL, end="")


def _system() -> str:
    release = ".".join(platform.release().split(".")[:2])
    return f"{platform.system()} {release} ({platform.machine()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]})"


def _cells(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return ["", *["not run"] * len(STEPS)]
    passed = [step in result["passed"] for step in STEPS]
    failed = passed.index(False) if False in passed else len(STEPS)
    # The death of a kernel is a test of its own, which runs also where an earlier step failed.
    return [
        result["python"],
        *(
            "yes" if ok else "failed" if at == failed or at == len(STEPS) - 1 else "-"
            for at, ok in enumerate(passed)
        ),
    ]


if __name__ == "__main__":
    main()
