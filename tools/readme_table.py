"""Write the table of the magics into README.md, as the commands themselves tell of it.

Run it with the Python of the environment: ``.venv/bin/python tools/readme_table.py``.
"""

from __future__ import annotations

from pathlib import Path

from vllm_magic.jupyter.commands import help_text, registry

README = Path(__file__).parents[1] / "README.md"
HEADING = "## The magics\n\n"


def main() -> None:
    """Replace what stands between the heading and the next empty line."""
    before, heading, rest = README.read_text(encoding="utf-8").partition(HEADING)
    _, end, after = rest.partition("\n\n")
    table = help_text.readme_table(registry.commands().values())
    README.write_text(f"{before}{heading}{table}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
