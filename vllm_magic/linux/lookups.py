"""Look up the names of hosts and users, with a limit of time.

The C library asks other programs and machines for a name (nsswitch.conf(5)): a name server, or a directory of users. Its
own limits (resolv.conf(5)) may add up to minutes, and no signal ends such a call. So each look-up runs in a thread of its
own, and the caller stops waiting when the time is over. A second look-up of the same name uses the thread that still runs,
and its time counts from the first one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import socket
import threading
import time
from concurrent.futures import Future
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_T = TypeVar("_T")
HOST_LIMIT = 5.0  # seconds for the addresses of a host
USER_LIMIT = 2.0  # seconds for a user


class Address(NamedTuple):
    """An address of a host, as `socket.socket` and `socket.socket.connect` take it."""

    family: int
    kind: int
    protocol: int
    place: tuple[Any, ...]


class _Pending(NamedTuple):
    began: float
    future: Future[Any]


# There is no lock: a signal handler of the program may interrupt any thread that would hold it, and wait for a thread that
# needs it. Each single operation on a dict is atomic.
_pending: dict[Hashable, _Pending] = {}


def addresses(host: str, port: int | None, limit: float | None = None) -> list[Address]:
    """Return the addresses of a host, for TCP. A literal address needs no look-up.

    Args:
        host: a name or an address.
        port: the TCP port; None for none.
        limit: seconds; None for `HOST_LIMIT`.

    Raises:
        OSError: there is no such host, or its addresses were not found in time (`TimeoutError`).
        UnicodeError: the host is not a valid name.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return _addresses(host, port)
    return within(
        HOST_LIMIT if limit is None else limit, ("host", host, port), lambda: _addresses(host, port)
    )


@lru_cache(maxsize=1000)
def user(number: int) -> pwd.struct_passwd:
    """Return the user with this id. The result is cached.

    Raises:
        KeyError: there is no such user.
        OSError: the user was not found in time (`TimeoutError`).
    """
    return within(USER_LIMIT, ("user", number), lambda: pwd.getpwuid(number))


def within(limit: float, name: Hashable, function: Callable[[], _T]) -> _T:
    """Return the result of a look-up.

    Args:
        limit: seconds to wait.
        name: the key of the look-up. If one with the same key is under way, this waits for that one.
        function: the look-up.

    Raises:
        TimeoutError: the look-up takes longer.
        OSError: no thread can be started.
        Exception: any error of the function.
    """
    found = _pending.get(name)
    if found is None or found.future.done():
        found = _Pending(time.monotonic(), Future())
        try:
            threading.Thread(
                target=_run, args=(name, found.future, function), name="vllm-magic look-up", daemon=True
            ).start()
        except RuntimeError as error:  # can't start new thread
            raise OSError(str(error)) from error
        # Not before its thread runs: a signal handler that interrupts this call may wait for the look-up.
        _pending[name] = found
        if found.future.done():
            _forget(name, found.future)
    rest = found.began + limit - time.monotonic()
    done = threading.Event()
    found.future.add_done_callback(lambda _: done.set())
    if not done.wait(max(0.0, rest)):
        raise TimeoutError(f"the look-up takes more than {limit:g} s")
    return cast("_T", found.future.result())


def _run(name: Hashable, future: Future[_T], function: Callable[[], _T]) -> None:
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - raised again by Future.result
        future.set_exception(error)
    else:
        future.set_result(result)
    _forget(name, future)


def _forget(name: Hashable, future: Future[Any]) -> None:
    found = _pending.get(name)
    if found is not None and found.future is future:
        _pending.pop(name, None)


def _addresses(host: str, port: int | None) -> list[Address]:
    return [
        Address(family, kind, protocol, place)
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]


def _in_child() -> None:
    """Forget what the parent's threads look up: they are not in a forked child."""
    _pending.clear()


os.register_at_fork(after_in_child=_in_child)
