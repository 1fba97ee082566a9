"""This package as a Ray package: the job on a node runs the same version of vllm_magic as the kernel here."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE_TIME = (1980, 1, 1, 0, 0, 0)  # of each file in the zip file, so that the same files make the same bytes
LEFT_OUT = "jupyter"  # the folder that a node does not need: it has no notebook


def name(job: str) -> str:
    """Return the name under which the package is stored for one job.

    Ray removes the package with the last job that uses it.
    """
    return f"_ray_pkg_{job}_code.zip"


@lru_cache(maxsize=1)
def packed() -> bytes:
    """Return the zip file that Ray unpacks as the job's working directory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(ROOT.rglob("*.py")):
            inside = path.relative_to(ROOT.parent)
            if LEFT_OUT not in inside.parts:
                archive.writestr(zipfile.ZipInfo(str(inside), FILE_TIME), path.read_bytes())
    return out.getvalue()
