"""Write the tables of the commands, and of the versions of vLLM, into README.md, from where they are declared.

Run it with the Python of the environment: ``.venv/bin/python tools/readme_table.py``.
"""

from __future__ import annotations

from pathlib import Path

from vllm_magic import cli
from vllm_magic.commands import help_text
from vllm_magic.commands.front_end import NOTEBOOK, TERMINAL
from vllm_magic.engine import versions
from vllm_magic.jupyter.commands import registry

README = Path(__file__).parents[1] / "README.md"


def tables() -> dict[str, str]:
    """Return each table by the text before it."""
    return {
        "## The magics\n\n": help_text.readme_table(NOTEBOOK, registry.declarations().values()),
        "What is promised for which version of vLLM:\n\n": versions.table(),
        "it needs no Jupyter server:\n\n": help_text.readme_table(TERMINAL, cli.declarations().values()),
    }


def main() -> None:
    """Replace the paragraph after each of these texts by its table."""
    content = README.read_text(encoding="utf-8")
    for heading, table in tables().items():
        before, found, rest = content.partition(heading)
        _, end, after = rest.partition("\n\n")
        content = f"{before}{found}{table}{end}{after}"
    README.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
