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
        "`doctor` shows the state folder here and there:\n\n": help_text.readme_table(
            TERMINAL, cli.declarations().values()
        ),
    }


def with_tables(content: str) -> str:
    """Return the content of README.md with a new table in place of the paragraph after each of these texts.

    Raises:
        ValueError: a text is not in README.md, so the place of its table is not known.
    """
    for heading, table in tables().items():
        before, found, rest = content.partition(heading)
        if not found:
            raise ValueError(f"README.md has no text {heading!r} before a table. Correct `tables` here.")
        _, end, after = rest.partition("\n\n")
        content = f"{before}{found}{table}{end}{after}"
    return content


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
