"""Where a server on a cluster is, as its agent knows it: a small file in the server's private folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vllm_magic.linux import files

if TYPE_CHECKING:
    from pathlib import Path

NAME = "cluster.json"
LONGEST = 2**20  # bytes


@dataclass(frozen=True)
class Whereabouts:
    """What is known of it.

    Attributes:
        nodes: the addresses of the nodes that it runs on; none while it waits for room.
        reachable: whether the cluster answers.
        caveat: how the vLLM there differs from the one of the kernel's machine; "" where it does not.
    """

    nodes: tuple[str, ...] = ()
    reachable: bool = True
    caveat: str = ""


def write(folder: Path, where: Whereabouts) -> None:
    """Replace what is there; ``folder`` is the server's TMPDIR."""
    new = folder / f"{NAME}.new"
    new.write_text(json.dumps(asdict(where)))
    new.replace(folder / NAME)


def read(folder: Path) -> Whereabouts:
    """What is there; nothing is known where there is no such file."""
    try:
        fields = json.loads(files.read_regular(folder / NAME, LONGEST))
        return Whereabouts(**{**fields, "nodes": tuple(fields["nodes"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Whereabouts()
