"""Turn a standby, which has imported vLLM already, into a server."""

from __future__ import annotations

import errno
import select
import time
from typing import TYPE_CHECKING

from vllm_magic.errors import VllmMagicError
from vllm_magic.guard.ladder import GUARD_LIMIT
from vllm_magic.guard.protocol import Ended, Refused, StandbyReport, Started
from vllm_magic.provisioning.base import Launched, Provisioner
from vllm_magic.provisioning.standby import Standby
from vllm_magic.release import force_kill

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.guard.client import Guards
    from vllm_magic.guard.protocol import Message
    from vllm_magic.linux.eventfd import Cancellation
    from vllm_magic.provisioning.base import Prepared
    from vllm_magic.provisioning.launch import GpuSelection
    from vllm_magic.provisioning.local import LocalProvisioner
    from vllm_magic.provisioning.standby_pool import StandbyPool

FORK = "VLLM_WORKER_MULTIPROC_METHOD"
DROP_LIMIT = 5.0  # seconds for a standby that cannot be used to be gone
TAKE_LIMIT = 20.0  # seconds for a standby that has imported everything to take its launch request


class StandbyProvisioner(Provisioner):
    """Turns the standby of a pool into the server. If that fails, it executes vLLM.

    Args:
        local: the provisioner that executes vLLM.
        pool: the pool of standbys.
    """

    def __init__(self, local: LocalProvisioner, pool: StandbyPool) -> None:
        self.command = local.command
        self.stop_grace, self.stop_patience = local.stop_grace, local.stop_patience
        self.stops_at_exit = local.stops_at_exit
        self.standby = local.standby
        self._local = local
        self._pool = pool

    def launch(self, cancelled: Cancellation, news: Callable[[str], None]) -> Launched | None:
        """See `Provisioner.launch`."""
        selection = self._local.select_gpus(cancelled, news)
        if selection is None:
            return None
        try:
            return self._warm(selection, cancelled)
        except _RejectedError as reason:
            return None if cancelled.event.is_set() else self._local.execute(selection, str(reason))

    def _warm(self, selection: GpuSelection, cancelled: Cancellation) -> Launched:
        """Send the launch request to the standby, and wait for the answer.

        Raises:
            _RejectedError: no standby became the server. No process or file of the standby is left.
        """
        standby = self._pool.take(self._local.standby)
        if not isinstance(standby, Standby):
            raise _RejectedError(standby)
        try:
            prepared, request = self._local.prepare(selection, standby.folder)
        except BaseException:
            standby.drop()
            standby.end(DROP_LIMIT)
            raise
        # The standby has not initialised CUDA, so a fork is possible. If it is not, vLLM itself reports that.
        if not standby.become(request._replace(env={FORK: "fork", **request.env})):
            standby.wait_gone(DROP_LIMIT)
            raise _RejectedError(standby.over)
        guards = standby.guards
        try:
            said = _answer(standby, cancelled)
        except TimeoutError as error:
            standby.drop()
            said = [Refused(errno.ETIMEDOUT, str(error))]
        refused = [message for message in said if isinstance(message, Refused)]
        has_started = any(isinstance(message, Started) for message in said)
        if not refused and (has_started or cancelled.event.is_set()):
            guards.put_back(said)
            return Launched(prepared, guards)
        _clear(prepared, said + _rest(standby))
        raise _RejectedError(refused[0].text if refused else "the guards of the spare were killed")


class _RejectedError(Exception):
    """No standby became the server; the message says why."""


def _answer(standby: Standby, cancelled: Cancellation) -> list[Message]:
    """Return the messages of the guards up to the answer to the request; fewer when cancelled, or if the guards end.

    The limit begins when everything is imported. The guards themselves end a standby that does not finish its imports
    (`guard.standby_leader.ACCEPT_LIMIT`).

    Raises:
        TimeoutError: the standby does not take the request; the message says so.
    """
    guards, is_warm = standby.guards, standby.warm
    poller = select.poll()
    poller.register(guards, select.POLLIN)
    poller.register(cancelled.wake, select.POLLIN)
    said: list[Message] = []
    deadline = time.monotonic() + TAKE_LIMIT
    while not any(isinstance(message, (Started, Refused)) for message in said):
        ready = dict(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if guards.fileno() in ready:
            messages = guards.receive()
            if messages is None:
                break
            said += messages
            if any(isinstance(message, StandbyReport) and message.warm for message in messages):
                is_warm, deadline = True, time.monotonic() + TAKE_LIMIT
        elif cancelled.event.is_set():
            break
        elif time.monotonic() >= deadline:
            if is_warm or standby.is_stopped():
                raise TimeoutError(f"it did not take the launch request within {TAKE_LIMIT:g} s")
            deadline += TAKE_LIMIT  # it is importing
    return said


def _rest(standby: Standby) -> list[Message]:
    """Return the messages of the guards until both have ended. Guards that hang are killed.

    Raises:
        VllmMagicError: the guards do not end.
    """
    guards = standby.guards
    try:
        said, have_ended = _receive(guards, GUARD_LIMIT)
        if not have_ended:
            standby.kill_guards()
            last, have_ended = _receive(guards, force_kill.EXIT_LIMIT)
            said += last
    finally:
        guards.close()
    if not have_ended:
        raise VllmMagicError(f"The guards of a spare (pid {guards.pid}) do not end. %vllm doctor shows more.")
    return said


def _receive(guards: Guards, limit: float) -> tuple[list[Message], bool]:
    """Return the messages of the guards until both have ended, and whether they have, after ``limit`` seconds at most."""
    said: list[Message] = []
    deadline = time.monotonic() + limit
    poller = select.poll()
    poller.register(guards, select.POLLIN)
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        messages = guards.receive()
        if messages is None:
            return said, True
        said += messages
    return said, False


def _clear(prepared: Prepared, said: list[Message]) -> None:
    """Remove the folder of a standby that did not become a server, and end its processes if the guards have not."""
    if not any(isinstance(message, Ended) for message in said):
        force_kill.kill_server(prepared.folder, None)
    prepared.folder.clear()
