"""The two prctl(2) calls that keep a process tree together."""

from __future__ import annotations

from vllm_magic.linux.libc import LIBC, checked

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Make this process the new parent of every orphan below it, whether it used setsid or a double fork."""
    checked(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent(number: int) -> None:
    """Make the kernel send signal ``number`` to this process when the thread that forked it ends."""
    checked(LIBC.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0))
