"""Compare the tables of vllm_magic/installation/releases.py with the package index.

    .venv/bin/python tools/releases.py          # prints a row for each version that is newer than the tables
    .venv/bin/python tools/releases.py --all    # resolves each row of the tables again too, and prints what differs

uv resolves each version and downloads no wheel. A version takes some 10 s for each combination of architecture, glibc and Python.
The compute capability is that of the row before: look at vLLM's installation page for it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.errors import NoVllmFits
from vllm_magic.installation import releases
from vllm_magic.installation.resolution import ResolutionTarget, read

if TYPE_CHECKING:
    from vllm_magic.installation.releases import Number, VllmRelease

PYTHON: Number = (3, 12)  # the one that all have
PYTHONS: tuple[Number, ...] = tuple((3, minor) for minor in range(9, 16))
GLIBC: tuple[Number, ...] = ((2, 28), (2, 31), (2, 34), (2, 35), (2, 38))
MACHINES = (releases.X86_64, releases.AARCH64)
TOLERANCE = 0.1  # the part by which a size may differ


def main() -> None:
    """Print what the tables lack."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        sys.exit("uv is missing: make .venv")
    for table in (releases.GPU_RELEASES, releases.CPU_RELEASES):
        newer = _newer(uv, table[0])
        for one in newer:
            _say(_row(uv, one))
        if not newer:
            _say(f"{table[0].package}: {table[0].version} is the newest")
        for row in table if "--all" in sys.argv[1:] else ():
            _compare(uv, row)


def _newer(uv: str, newest: VllmRelease) -> list[VllmRelease]:
    """Return the releases that are newer than the tables, the newest first."""
    found: list[VllmRelease] = []
    target = ResolutionTarget(releases.X86_64, GLIBC[-1], PYTHON)
    while True:
        limit = f",<{found[-1].version}" if found else ""
        try:
            found.append(read(uv, newest.package, f">{newest.version}{limit}", target))
        except NoVllmFits as error:
            if "no version" not in str(error) and "only" not in str(error):
                _say(f"{newest.package}: {error}")
            return found


def _row(uv: str, release: VllmRelease) -> str:
    """Return the row of a release, with all that it runs on."""
    glibc = {machine: least for machine in MACHINES if (least := _least_glibc(uv, release, machine))}
    pythons = [
        one for one in PYTHONS if _resolves(uv, release, ResolutionTarget(releases.X86_64, GLIBC[-1], one))
    ]
    torch = f"Torch({release.torch.version!r}, {release.torch.cuda}, ...)"
    return (
        f'VllmRelease("{release.version}", "{release.package}", ({min(pythons)}, {max(pythons)}), {torch}, {glibc}, '
        f"{release.capability}, {release.download // 10**8 * 100} * _MB),"
    )


def _least_glibc(uv: str, release: VllmRelease, machine: str) -> Number | None:
    return next(
        (one for one in GLIBC if _resolves(uv, release, ResolutionTarget(machine, one, PYTHON))), None
    )


def _resolves(uv: str, release: VllmRelease, target: ResolutionTarget) -> bool:
    try:
        read(uv, release.package, f"=={release.version}", target)
    except NoVllmFits:
        return False
    return True


def _compare(uv: str, row: VllmRelease) -> None:
    """Print how a row differs from the package index."""
    target = ResolutionTarget(releases.X86_64, row.glibc[releases.X86_64], PYTHON)
    try:
        found = read(uv, row.package, f"=={row.version}", target)
    except NoVllmFits as error:
        _say(f"{row.package} {row.version}: {error}")
        return
    for name, ours, theirs in (
        ("torch", row.torch.version, found.torch.version),
        ("CUDA", row.torch.cuda, found.torch.cuda),
    ):
        if ours != theirs:
            _say(f"{row.package} {row.version}: {name} is {theirs}, the table says {ours}")
    if abs(found.download - row.download) > TOLERANCE * row.download:
        _say(
            f"{row.package} {row.version}: {found.download:,} bytes to download, the table says {row.download:,}"
        )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
