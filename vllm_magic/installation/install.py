"""Install vLLM: make the environment of a plan, and prove it. Only a proved environment is ever used."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from vllm_magic.engine import environments
from vllm_magic.errors import InstallFailed, reason
from vllm_magic.installation import build, proof, room, uv
from vllm_magic.installation.programs import Programs
from vllm_magic.installation.progress import InstallProgress, Step
from vllm_magic.installation.shared_progress import SharedProgress
from vllm_magic.linux import disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllm_magic.installation.plan import InstallPlan

REMOVE_LIMIT = 600.0  # seconds to remove an environment from a network disk; it has some 50,000 files


def install(
    plan: InstallPlan,
    folder: Path,
    *,
    wheels: Path | None = None,
    report: Callable[[InstallProgress], None] = lambda _: None,
) -> Path:
    """Make an environment and prove it, unless it is there already. Return the path of its vLLM.

    An interrupt ends all programs of the installation and removes the unfinished environment. What was downloaded
    completely stays in the cache of uv or pip, so the next attempt goes on there. If another kernel makes the same environment,
    this waits for it, and reports the progress of the other.

    Args:
        plan: what to install.
        folder: the folder of the environment (`environments.new_path`).
        wheels: a folder with all packages (`wheelhouse`), for a machine without internet; None for the package index.
        report: called with the progress at least once a second, in this thread.

    Raises:
        InstallFailed: vLLM could not be installed, or does not work here. The message says why, and what to do.
    """
    folder = folder.absolute()
    wheels = None if wheels is None else wheels.absolute()
    _check_parent(folder)
    shared = SharedProgress(folder, report)
    with shared.alone():
        if not _is_proved(folder):
            if not shared.was_cut_off():
                _check_removable(folder)
            _remove(folder)
            _install(plan, folder, wheels, shared)
    report(InstallProgress(Step.DONE, expected=plan.download))
    return folder / "bin/vllm"


def _install(plan: InstallPlan, folder: Path, wheels: Path | None, shared: SharedProgress) -> None:
    log = folder.with_name(f".{folder.name}.log")
    with contextlib.suppress(OSError):
        disk.call(log, os.unlink, log)
    programs = Programs(log, shared.show, plan.download)
    try:
        room.check(plan, folder, _cache(folder))
        build.build(plan, folder, programs, wheels)
        proof.prove(plan, folder, programs)
        proof.write(plan, folder)
    except BaseException:
        with contextlib.suppress(InstallFailed):
            _remove(folder)
        raise


def _cache(folder: Path) -> Path | None:
    """Return the folder of uv's cache; None without uv."""
    program = uv.find()
    return None if program is None else uv.cache_folder(program, folder.with_name(".uv-cache"))


def _check_parent(folder: Path) -> None:
    parent = folder.parent
    try:
        disk.call(parent, _make_writable, parent)
    except OSError as error:
        raise InstallFailed(
            f"vLLM cannot be installed in {parent}: {reason(error)}",
            "Install into another folder: --into DIR",
        ) from None


def _make_writable(parent: Path) -> None:
    parent.mkdir(parents=True, exist_ok=True)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError("it cannot be written")


def _is_proved(folder: Path) -> bool:
    try:
        return proof.is_proved(folder)
    except OSError as error:
        raise InstallFailed(
            f"{folder} cannot be used: {reason(error)}", "Install into another folder: --into DIR"
        ) from None


def _check_removable(folder: Path) -> None:
    """Check that the folder is an environment, or empty, or missing.

    Raises:
        InstallFailed: it has something else.
    """
    try:
        names = disk.call(folder, _names, folder)
    except OSError as error:
        raise InstallFailed(
            f"{folder} cannot be used: {reason(error)}", "Install into another folder: --into DIR"
        ) from None
    if names and not {"pyvenv.cfg", environments.PROOF} & names:
        raise InstallFailed(
            f"{folder} is there already, and is no environment of Python",
            "Move it away, or install into another folder: --into DIR",
        )


def _names(folder: Path) -> set[str]:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return {"it is no folder"}
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _remove(folder: Path) -> None:
    try:
        disk.call(folder, _remove_tree, folder, limit=REMOVE_LIMIT)
    except OSError as error:
        raise InstallFailed(
            f"The unfinished environment {folder} cannot be removed: {reason(error)}",
            "Remove it by hand, or install into another folder: --into DIR",
        ) from None


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        (folder / environments.PROOF).unlink(
            missing_ok=True
        )  # first: what is half removed is not used either
        shutil.rmtree(folder)
