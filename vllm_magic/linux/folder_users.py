"""Find the processes that run a program of a folder, or have files of it in their memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic.linux import address_space, details, processes, shortage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.linux.processes import Process


def find(folders: Iterable[str]) -> list[Process]:
    """Return the living processes that use one of these folders.

    A process uses a folder if its program is there, if a word of its command line is a path in the folder's ``bin`` (a
    Python in a virtual environment is a link to a program elsewhere), or if it maps a file of the folder, such as a library
    that it has loaded. A Python whose memory cannot be read because its address space is locked counts too. Processes of other
    users cannot be seen, unless this is root.

    Args:
        folders: absolute paths of the folders, also such that are gone.

    Raises:
        OSError: /proc cannot be read.
    """
    beginnings = tuple({os.fsencode(folder) + b"/" for folder in folders})
    return [
        process
        for process in processes.table().values()
        if process.alive and _uses(process.identity.pid, beginnings)
    ]


def _uses(pid: int, beginnings: tuple[bytes, ...]) -> bool:
    program = details.program(pid)
    if program and os.fsencode(program).startswith(beginnings):
        return True
    programs = tuple(beginning + b"bin/" for beginning in beginnings)
    if any(os.fsencode(word).startswith(programs) for word in details.arguments(pid)):
        return True
    try:
        maps = _maps(pid)
    except TimeoutError:
        return os.path.basename(program or "").startswith("python")
    return any(b" " + beginning in maps for beginning in beginnings)


def _maps(pid: int) -> bytes:
    """Return the lines of proc_pid_maps(5); empty if they cannot be read.

    Raises:
        TimeoutError: the address space of the process is locked.
    """
    for folder in processes.folders(pid):
        try:
            if lines := address_space.read(pid, f"{folder}/maps"):
                return lines
        except TimeoutError:
            raise
        except PermissionError:
            return b""
        except OSError as error:
            shortage.check(error)
    return b""
