"""This package itself as a Ray package: what a job runs on its node is of the same version as what asked for it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEVER = (1980, 1, 1, 0, 0, 0)  # the same files make the same bytes
PANEL = "jupyter"  # a node has no notebook


@lru_cache(maxsize=1)
def packed() -> tuple[str, bytes]:
    """The name under which it is put, and its bytes: a zip file, unpacked as the job's working directory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(ROOT.rglob("*.py")):
            inside = path.relative_to(ROOT.parent)
            if PANEL not in inside.parts:
                archive.writestr(zipfile.ZipInfo(str(inside), NEVER), path.read_bytes())
    data = out.getvalue()
    return f"_ray_pkg_vllm_magic_{hashlib.sha256(data).hexdigest()[:16]}.zip", data
