"""Whether an environment fits on the disk, asked before anything is downloaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.errors import InstallFailed, reason
from vllm_magic.linux import disk
from vllm_magic.sizes import GIB, gib

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_magic.installation.plan import InstallPlan

MARGIN = GIB // 2  # bytes that stay free


def check(plan: InstallPlan, folder: Path, cache: Path | None) -> None:
    """Check that the disks of the environment and of the cache have room.

    A quota of the user is not seen. Packages that are in uv's cache on the same disk need no room: the environment gets
    hard links to their files.

    Args:
        plan: what is installed.
        folder: the folder of the environment.
        cache: the folder of uv's cache; None without uv.

    Raises:
        InstallFailed: a disk is too small, or does not answer; the message says which one.
    """
    way_out = "Install into a folder on another disk: --into DIR"
    try:
        needs = _needs(plan, folder, cache)
    except OSError as error:
        raise InstallFailed(f"The disk of {folder} cannot be used: {reason(error)}", way_out) from None
    for path, size in needs:
        if path == folder:
            _check(path, size, f"vLLM {plan.version} needs", way_out)
        else:
            _check(
                path,
                size,
                f"uv's cache for vLLM {plan.version} needs",
                "Set UV_CACHE_DIR to a folder on another disk",
            )


def check_wheels(plan: InstallPlan, folder: Path) -> None:
    """Check that the disk of a folder has room for the wheels of the plan.

    Raises:
        InstallFailed: it has not, or does not answer.
    """
    _check(folder, plan.download, "The download needs", "Name a folder on another disk")


def _check(path: Path, size: int, beginning: str, way_out: str) -> None:
    try:
        free = disk.call(path, _free, path)
    except OSError as error:
        raise InstallFailed(f"The disk of {path} cannot be used: {reason(error)}", way_out) from None
    if free is not None and free < size + MARGIN:
        needed = f"{gib(size + MARGIN, 1)} on the disk of {path}, which has {gib(free, 1)} free"
        raise InstallFailed(f"{beginning} {needed}", f"{way_out}, or free some space")


def _needs(plan: InstallPlan, folder: Path, cache: Path | None) -> list[tuple[Path, int]]:
    """Return the bytes that are needed at each path."""
    if cache is None:  # pip keeps the packages while it installs them
        return [(folder, plan.disk + plan.download)]
    is_cached = disk.call(cache, _is_cached, cache, plan.package, plan.version)
    if disk.call(cache, _device, cache) == disk.call(folder, _device, folder):
        return [(folder, 0 if is_cached else plan.disk)]
    return [(folder, plan.disk), (cache, 0 if is_cached else plan.disk)]


def _is_cached(cache: Path, package: str, version: str) -> bool:
    """Whether uv's cache has the wheel of this vLLM. Then it most likely has the other packages too."""
    places = ("pypi", "index/*", "flat-index/*")
    return any(any(cache.glob(f"wheels-v*/{place}/{package}/{version}-*")) for place in places)


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


def _free(path: Path) -> int | None:
    """Return the free bytes for this user; None if the file system does not say its size."""
    status = os.statvfs(_existing(path))
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return blocks * status.f_frsize if status.f_blocks else None
