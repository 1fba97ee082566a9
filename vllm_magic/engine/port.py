"""Who has a TCP port that a server was to have."""

from __future__ import annotations

from vllm_magic.linux import details, processes, sockets

LONGEST_TITLE = 60  # characters


def holder(port: int) -> str:
    """The program, pid and user of whoever listens there, as far as that may be seen; "" where nobody does."""
    table = processes.table()
    for one in sockets.listeners([port], table):
        user = details.user(one.uid)
        if one.pid is None:
            return f"a process of {user}"
        return f"{details.short_title(table[one.pid])[:LONGEST_TITLE].strip()} (pid {one.pid}, {user})"
    return ""
