"""Running a notebook from top to bottom, as a user would."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CELL_LIMIT = 240  # seconds


def outputs(name: str) -> list[str]:
    """Run a notebook, and return the output of each of its code cells as text."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(
        notebook,
        config=Config(KernelManager={"transport_encryption": "auto"}),
        timeout=CELL_LIMIT,
        coalesce_streams=True,
    )
    client.execute()
    return [
        "\n".join(map(_text, cell.outputs)).strip() for cell in notebook.cells if cell.cell_type == "code"
    ]


def _text(output) -> str:
    return output.text if output.output_type == "stream" else output.data.get("text/plain", "")
