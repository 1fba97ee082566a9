"""Find the process that listens on a TCP port."""

from __future__ import annotations

from vllm_magic.linux import details, processes, sockets

LONGEST_TITLE = 60  # characters


def holder(port: int) -> str:
    """Return the program, pid and user of the process that listens on the port, as far as they are visible; "" for none."""
    table = processes.table()
    for listener in sockets.listeners([port], table):
        user = details.user(listener.uid)
        if listener.pid is None:
            return f"a process of {user}"
        return (
            f"{details.short_title(table[listener.pid])[:LONGEST_TITLE].strip()} (pid {listener.pid}, {user})"
        )
    return ""
