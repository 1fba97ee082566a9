"""Run quickstart.ipynb as a person would, in this terminal, or open it in JupyterLab.

    make demo [MODEL=...]      # python -m notebooks.demo
    make lab  [MODEL=...]      # python -m notebooks.demo --lab

A model that is named runs on the vLLM that is installed. Without a name, and without an NVIDIA GPU or vLLM,
the CPU build of vLLM serves a tiny model with random weights. The executed notebook and its page are left
in build/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.environment import environment
from tests.real.install import InstallError

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
BUILD = ROOT / "build"
WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> int:
    """Return the exit status: 0 where every cell ran."""
    parser = argparse.ArgumentParser(description="Run the quickstart notebook.")
    parser.add_argument("--lab", action="store_true", help="open it in JupyterLab, with any flags of its own")
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK, help="another notebook")
    options, flags = parser.parse_known_args()
    if flags and not options.lab:
        parser.error(f"unknown: {' '.join(flags)}")
    try:
        os.environ.update(choose_model())
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one that the user installed
    if options.lab:
        if os.geteuid() == 0:  # as in most containers; JupyterLab does not start for root without this
            flags.append("--allow-root")
        lab = [sys.executable, "-m", "jupyterlab", *flags, str(options.notebook)]
        sys.stdout.flush()
        os.execv(sys.executable, lab)  # Ctrl-C is JupyterLab's to handle
    return run(options.notebook)


def choose_model() -> dict[str, str]:
    """Return what the notebook needs in its environment, and say what was chosen.

    Raises:
        InstallError: the CPU build of vLLM is needed and could not be built.
    """
    if os.environ.get("MODEL"):
        print(f"Model {os.environ['MODEL']}, served by the vLLM that is installed.")
        return {}
    missing = "NVIDIA GPU" if not has_gpu() else "vLLM" if not has_vllm() else None
    if not missing:
        print("The model that the notebook names, served by the vLLM that is installed.")
        return {}
    print(f"No {missing} here: vLLM's CPU build serves a tiny model, whose answers are random words.")
    vllm = environment()
    return {**vllm.env, "MODEL": str(vllm.model), "VLLM_MAGIC_EXECUTABLE": str(vllm.executable)}


def has_gpu() -> bool:
    """Return whether NVML finds an NVIDIA GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


def has_vllm() -> bool:
    """Return whether there is a `vllm` which the notebook would find."""
    return bool(os.environ.get("VLLM_MAGIC_EXECUTABLE") or shutil.which("vllm"))


def run(path: Path) -> int:
    """Execute the notebook cell by cell, show each cell with what it put out, and save the whole."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    began = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        config=Config(KernelManager={"transport_encryption": "auto"}),  # the kernel warns where there is none
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
    )
    status = 0
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            show_source(cell)
            cell_began = time.monotonic()
            try:
                client.execute_cell(cell, index)
            except CellExecutionError:
                status = 1
            if cell.cell_type == "code":
                show_outputs(cell, time.monotonic() - cell_began)
            if status:
                break
    saved = save(notebook, path.stem)
    print(f"\n{'Failed' if status else 'Done'} after {time.monotonic() - began:.0f} s. It is kept in {saved}")
    return status


def save(notebook: NotebookNode, name: str) -> str:
    """Write the executed notebook and its HTML page to build/; return both paths, to show."""
    import nbformat
    from nbconvert import HTMLExporter

    BUILD.mkdir(exist_ok=True)
    executed, page = BUILD / f"{name}.ipynb", BUILD / f"{name}.html"
    nbformat.write(notebook, executed)
    page.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    return f"{executed.relative_to(ROOT)} and {page.relative_to(ROOT)}"


def show_source(cell: NotebookNode) -> None:
    """Print a cell before it runs: text as text, code behind a bar."""
    print()
    if cell.cell_type == "markdown":
        print("\n".join(textwrap.fill(line, 100) for line in cell.source.replace("**", "").splitlines()))
    else:
        print(textwrap.indent(cell.source, "  │ ", lambda _line: True))
    sys.stdout.flush()


def show_outputs(cell: NotebookNode, seconds: float) -> None:
    """Print what a cell put out, in its final form, and how long the cell took if that was long."""
    from nbconvert.filters import strip_ansi

    texts = [text for output in cell.outputs if (text := plain_text(output).strip("\n"))]
    if not sys.stdout.isatty():
        texts = [strip_ansi(text) for text in texts]
    if seconds >= 1:
        texts.append(f"({seconds:.1f} s)")
    if texts:
        print("\n" + "\n".join(texts), flush=True)


def plain_text(output: NotebookNode) -> str:
    """Return an output as a terminal can show it; a live widget has no such form."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    return "" if WIDGET in output.data else output.data.get("text/plain", "")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the kernel was shut down.")
