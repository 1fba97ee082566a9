"""Look-ups of the names of hosts and users, each within a limit of time.

The C library asks other programs and machines for a name (nsswitch.conf(5)): a name server, a directory of users. It has
limits of its own (resolv.conf(5)), which may add up to minutes, or none, and no signal ends such a call. So each look-up
runs in a thread of its own, which is left alone once its time is over. Whoever needs the same name while that thread still
runs gets no second thread, and waits for no second time.
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
LIMIT = 5.0  # seconds for the addresses of a host
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
    """The addresses of a host, for TCP. An address that is a literal is its own, at once.

    Args:
        host: a name or an address.
        port: the TCP port; None for none.
        limit: seconds; None for `LIMIT`.

    Raises:
        OSError: there is no such host, or its addresses were not found in time (`TimeoutError`).
        UnicodeError: this cannot be a name.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return _addresses(host, port)
    return within(LIMIT if limit is None else limit, ("host", host, port), lambda: _addresses(host, port))


@lru_cache(maxsize=1000)
def user(number: int) -> pwd.struct_passwd:
    """The user with this id. What is found is remembered.

    Raises:
        KeyError: there is none.
        OSError: the user was not found in time (`TimeoutError`).
    """
    return within(USER_LIMIT, ("user", number), lambda: pwd.getpwuid(number))


def within(limit: float, name: Hashable, function: Callable[[], _T]) -> _T:
    """The result of a look-up.

    Args:
        limit: seconds to wait.
        name: what is looked up; a look-up of the same that is under way is waited for instead.
        function: looks it up.

    Raises:
        TimeoutError: it takes longer.
        OSError: no thread can be started.
        Exception: whatever the function raises.
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
        _pending[name] = (
            found  # once its thread runs: a signal handler that interrupts this call may wait for it
        )
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
