"""The placement of a server on a cluster: a small file in the server's private folder, written by the server's agent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vllm_magic.linux import files

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "cluster.json"
LARGEST_FILE = 2**20  # bytes


@dataclass(frozen=True)
class Placement:
    """Where a server runs, and whether its cluster answers.

    Attributes:
        nodes: the addresses of the nodes on which the server runs; empty while the job waits for room.
        reachable: whether the cluster answers.
        caveat: how the node's vLLM differs from the vLLM of the kernel's machine; "" if it does not.
    """

    nodes: tuple[str, ...] = ()
    reachable: bool = True
    caveat: str = ""


def write(folder: Path, placement: Placement) -> None:
    """Write the file, or replace it; ``folder`` is the server's TMPDIR."""
    new = folder / f"{FILE_NAME}.new"
    new.write_text(json.dumps(asdict(placement)))
    new.replace(folder / FILE_NAME)


def read(folder: Path) -> Placement:
    """Return the placement from the file; the default one if the file is missing or not valid."""
    try:
        fields = json.loads(files.read_regular(folder / FILE_NAME, LARGEST_FILE))
        return Placement(**{**fields, "nodes": tuple(fields["nodes"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Placement()
