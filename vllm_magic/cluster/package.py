"""This package itself as a Ray package: what a job runs on its node is of the same version as what asked for it."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEVER = (1980, 1, 1, 0, 0, 0)  # the same files make the same bytes
PANEL = "jupyter"  # a node has no notebook


def name(job: str) -> str:
    """Under which it is put, for one job: Ray removes it with the last job that uses it."""
    return f"_ray_pkg_{job}_code.zip"


@lru_cache(maxsize=1)
def packed() -> bytes:
    """A zip file, unpacked as the job's working directory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(ROOT.rglob("*.py")):
            inside = path.relative_to(ROOT.parent)
            if PANEL not in inside.parts:
                archive.writestr(zipfile.ZipInfo(str(inside), NEVER), path.read_bytes())
    return out.getvalue()
