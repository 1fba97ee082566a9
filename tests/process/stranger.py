"""Another user, who tries what must not succeed: a program for test_security.py, started as root.

    python stranger.py UID < attempts.json    # [["read", PATH], ["connect", PATH, BYTES], ["signal", PID], ...]

Becomes that user, tries each, and prints a list: what was got as text, or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import sys

PTRACE_ATTACH = 16
_libc = ctypes.CDLL(None, use_errno=True)


def read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(1 << 20).decode("utf-8", "replace")


def listing(path: str) -> str:
    return " ".join(os.listdir(path))


def link(path: str) -> str:
    return os.readlink(path)


def write(path: str) -> str:
    with open(path, "ab") as file:
        file.write(b"")
    return "written"


def connect(path: str, said: str) -> str:
    """What the other side answers; "hung up" if nothing."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        connection.sendall(said.encode())
        return connection.recv(100).decode() or "hung up"


def send_signal(pid: int) -> str:
    os.kill(pid, signal.SIGTERM)
    return "sent"


def send_by_pidfd(pid: int) -> str:
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGTERM)
    return "sent"


def ptrace(pid: int) -> str:
    if _libc.ptrace(PTRACE_ATTACH, pid, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return "attached"


def get(port: int, path: str) -> str:
    """The status code; by hand, since this user may not read what urllib would import now."""
    with socket.socket() as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(1000).decode().split()[1]


ATTEMPTS = {
    "read": read,
    "list": listing,
    "link": link,
    "write": write,
    "connect": connect,
    "signal": send_signal,
    "pidfd": send_by_pidfd,
    "ptrace": ptrace,
    "get": get,
}


def attempt(what: str, *arguments: object) -> str:
    try:
        return ATTEMPTS[what](*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    user = int(sys.argv[1])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    assert os.getuid() == user
    print(json.dumps([attempt(*one) for one in wanted]))
