"""The inner guard: starts the leader, waits for a reason to end it, and ends it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from vllm_magic.guard import leader, log_cap, record
from vllm_magic.guard.base import AT_ONCE, KERNEL_GONE, NOBODY, Guard, log
from vllm_magic.guard.control_socket import ControlConnection, Door
from vllm_magic.guard.protocol import (
    Attach,
    Attached,
    Ended,
    KnownProcesses,
    Message,
    Note,
    Order,
    Refused,
    StandbyReport,
    Started,
    Stop,
    Stopping,
    Why,
    encode,
)
from vllm_magic.guard.record import Phase, Record
from vllm_magic.guard.standby_leader import Waiting
from vllm_magic.linux import pidfd, pidfd_calls, processes

if TYPE_CHECKING:
    from vllm_magic.guard.ladder import Members
    from vllm_magic.guard.log_cap import LogCap
    from vllm_magic.guard.message_stream import Inbox
    from vllm_magic.guard.outbox import Outbox
    from vllm_magic.linux.shared_memory import Segment

KIN_LOOK = 2.0  # seconds between looks at whom this guard has adopted: no event tells of it
WIDE_LOOK = 30.0  # seconds between looks for all that is below it, which cost more
LEADER_ENDED_LINGER = 0.25  # seconds for the others to end by themselves after the leader

Reason = tuple[Why, Stop]


class Inner(Guard):
    """Lives as long as the server.

    Args:
        outer: the outer guard's pid.
        outer_pidfd: says when that one ends.
        link: tells the outer guard of a new kernel, and of what a spare becomes.
    """

    def __init__(
        self,
        control: socket.socket,
        inbox: Inbox,
        kernel: int,
        order: Order,
        before: set[Segment] | None,
        *,
        outer: int,
        outer_pidfd: int,
        link: socket.socket,
    ) -> None:
        super().__init__(control, inbox, kernel, order, before)
        self._outer = outer
        self._outer_pidfd = outer_pidfd
        self._link = link
        self._record = Record(**order.record)
        self._door: Door | None = None
        self._cap: LogCap | None = None
        self._ready = False
        self._kept_until: float | None = None
        self._spare: Waiting | None = None
        self._known: list[list[int]] = []
        self._children: set[int] = set()
        self._next_look = self._next_wide_look = 0.0  # by `time.monotonic`

    def run(self) -> None:
        """Start the server, and return when it is gone."""
        if not self._start():
            return
        why, stop = self._wait()
        if self._door is not None:
            self._door.close()
        if why is Why.LEADER_ENDED:
            self._linger()
        if why is Why.ASKED:
            with contextlib.suppress(
                OSError
            ):  # the other guard, who waits as long as that takes, is stopped or gone
                self._link.send(encode(stop), socket.MSG_DONTWAIT)
        if why is Why.ASKED:  # for the others there is no time: a disk that hangs would hold the release up
            self._write(durable=False, phase=Phase.STOPPING)
        self.release("inner", why, stop, self._hurry() if why is Why.ASKED else [])
        self.clear()
        with contextlib.suppress(ProcessLookupError):  # stopped, it would stay behind, known to nobody
            pidfd_calls.send_to(self._outer_pidfd, signal.SIGCONT)

    def say(self, message: Message) -> None:
        """Tell the kernel, and of the end those outside too."""
        super().say(message)
        if self._door is not None and isinstance(message, (Stopping, Ended)):
            self._door.tell_all(message)

    def see_to_last_words(self) -> None:
        """See `Guard`; the clients come first, whose time is short."""
        if self._door is not None:
            self._door.see_to_last_words()
        super().see_to_last_words()

    def _start(self) -> bool:
        self._write_before()
        self._spare = Waiting(self.order.spare) if self.order.spare > 0 else None
        try:
            result = leader.spawn(self.order, self._spare.theirs if self._spare else None)
        except OSError as error:  # no process, no descriptor
            result = Refused(error.errno or 0, str(error.strerror))
        if isinstance(result, Refused):
            self.say(result)
            return False
        self.leader = result
        guards = [processes.read(pid) for pid in (self._outer, os.getpid())]
        outer, inner = (list(guard.identity) if guard else [0, 0] for guard in guards)
        self._write(outer=outer, inner=inner, leader=list(self.leader))
        self._open_door()
        self._cap = log_cap.watch(self.order.log)
        if self._spare is None:
            self._say_who_is_who()
        else:
            self._spare.theirs.close()
            self.say(StandbyReport(list(self.leader), warm=False))
        return True

    def _write_before(self) -> None:
        if self.before is not None:
            try:
                record.write_before(self.order.folder, self.before)
            except (
                OSError
            ) as error:  # a full disk: who ends the server in the guards' place removes no shared memory
                log(f"no list of the shared memory: {error}")

    def _say_who_is_who(self) -> None:
        assert self._record.leader and self._record.outer and self._record.inner  # noqa: S101, PT018 - set by _start
        self.say(Started(self._record.leader, self._record.outer, self._record.inner))

    def _open_door(self) -> None:
        try:
            self._door = Door(self.order.folder)
        except OSError as error:  # the server runs without: only a terminal cannot reach it
            log(f"no control socket: {error}")

    def _write(self, *, durable: bool = True, **changes: Any) -> None:
        self._record = self._record._replace(**changes)
        try:
            record.write(self.order.folder, self._record, durable=durable)
        except OSError as error:  # a full disk, or the folder is gone: no reason to end a server
            log(f"no record: {error}")

    def _wait(self) -> Reason:
        reason = self._listen() if self.inbox.waiting else None
        while reason is None:
            reason = self._judge(self._poll())
            if reason is None and time.monotonic() >= self._next_look:
                self._look_for_kin()
        return reason

    def _poll(self) -> set[int]:
        poller, unsent = select.poll(), self._unsent()
        doors = self._door.filenos() if self._door else ()
        for fd in (self.wake, self._outer_pidfd, *self.kernel_filenos(), *doors):
            poller.register(fd, select.POLLIN | (select.POLLOUT if fd in unsent else 0))
        if self._cap is not None:
            poller.register(self._cap, select.POLLIN)
        rest = self._next_look - time.monotonic()
        if self._kept_until is not None:
            rest = min(rest, self._kept_until - time.monotonic())
        if self._spare is not None:
            poller.register(self._spare, select.POLLIN)
            rest = min(rest, self._spare.rest())
        ready = poller.poll(max(0.0, rest) * 1000)
        for fd, events in ready:
            if events & select.POLLOUT:
                unsent[fd].flush()
        return {fd for fd, events in ready if events & ~select.POLLOUT}

    def _unsent(self) -> dict[int, Outbox]:
        """What the kernel and the clients have not taken yet, by their descriptors."""
        boxes = {} if self.kernel == NOBODY else {self.control.fileno(): self.outbox}
        boxes.update(self._door.outboxes() if self._door else {})
        return {fd: box for fd, box in boxes.items() if not box.is_empty}

    def _judge(self, ready: set[int]) -> Reason | None:
        if self._cap is not None and self._cap.fileno() in ready:
            self._cap.look()
        if self._outer_pidfd in ready:
            return Why.GUARD_GONE, AT_ONCE
        reason = None
        if self.kernel != NOBODY and self.control.fileno() in ready:
            reason = self._listen()
        if reason is None and self.kernel in ready:
            reason = self._hear_last_words()
        if reason is None and self._kept_until is not None and time.monotonic() >= self._kept_until:
            reason = Why.KERNEL_GONE, KERNEL_GONE
        if reason is None and self._spare is not None:
            reason = self._look_at_spare(self._spare, ready)
        if reason is None and self._door is not None:
            for client, message in self._door.hear(ready):
                reason = reason or self._serve(client, message)
        if reason is None and self.wake in ready:
            reason = self._look_around()
        return reason

    def _listen(self) -> Reason | None:
        messages = self.inbox.read()
        if messages is None:
            return self._outlive_kernel()
        if any(isinstance(message, Note) for message in messages):
            self._note_ready()
        stops = [message for message in messages if isinstance(message, Stop)]
        if not stops:
            orders = [message for message in messages if isinstance(message, Order)]
            return self._hand_over(orders[0]) if orders else None
        # Two that came together mean what a second one means during the release: hurry.
        return Why.ASKED, stops[0] if len(stops) == 1 else AT_ONCE

    def _hear_last_words(self) -> Reason | None:
        """What a kernel that has ended had asked for before; a child of it may hold the connection open."""
        reason = None
        while reason is None and self.kernel != NOBODY:
            is_said = bool(pidfd.readable([self.control.fileno()], 0.0))
            reason = self._listen() if is_said else self._outlive_kernel()
        return reason

    def _look_at_spare(self, spare: Waiting, ready: set[int]) -> Reason | None:
        if spare.fileno() not in ready:
            if not spare.is_in_the_way():
                return None
            if spare.is_ordered:
                self.say(Refused(errno.ETIMEDOUT, "it did not take its order"))
            return Why.IDLE, AT_ONCE
        for line in spare.heard():
            word, _, rest = line.partition(" ")
            if word == "warm":
                self.say(StandbyReport(self._record.leader or [], warm=True))
                continue
            spare.close()
            self._spare = None
            if word == "taken":
                self._say_who_is_who()
                return None
            self.say(Refused(errno.ESTALE, rest))
            return Why.LEADER_ENDED, AT_ONCE  # or about to; a thread that an import left could keep it
        return None

    def _hand_over(self, order: Order) -> Reason | None:
        """The spare is to become a server; if it cannot, the kernel hears that, and starts one without it."""
        if self._spare is None or self._spare.is_ordered:
            return None
        known = self._record
        self.order = order
        self._record = Record(**order.record)._replace(
            outer=known.outer, inner=known.inner, leader=known.leader
        )
        try:
            # For a release in this guard's place the outer one needs neither the environment nor the key. It hears of
            # the server before the disk does: what it does after the kernel's end goes by that.
            news = encode(order._replace(argv=order.argv[:1], env={}, luggage={}))
            self._link.send(news, socket.MSG_DONTWAIT)
            self.note_existing()
            self._write_before()
            self._write()
            self._spare.order(order)
        except OSError as error:
            self.say(Refused(error.errno or errno.ESTALE, str(error)))
            return Why.LEADER_ENDED, AT_ONCE
        return None

    def _note_ready(self) -> None:
        members = self.members()
        self.note(members)
        self._ready = True
        segments = [list(segment) for segment in self.segments]
        self._tell_known(members)
        self._write(phase=Phase.READY, segments=segments)

    def _look_for_kin(self) -> None:
        """Tell the kernel and the disk who is below this guard, if somebody has come: others may have to end it all."""
        now, children = time.monotonic(), processes.children(os.getpid())
        self._next_look = now + KIN_LOOK
        if children <= self._children and now < self._next_wide_look:
            return
        self._children = children
        self._next_wide_look = now + WIDE_LOOK
        with contextlib.suppress(OSError, MemoryError):  # no descriptor, no memory: no reason to end a server
            members = _shown(self.members())
            if any(list(one.identity) not in self._known for one in members):
                self._tell_known(members)

    def _tell_known(self, members: Members) -> None:
        self._known = [list(one.identity) for one in _shown(members)]
        self.say(KnownProcesses(self._known))
        with contextlib.suppress(
            OSError
        ):  # the other guard, who writes it, since a disk may hang, is stopped or gone
            self._link.send(encode(KnownProcesses(self._known)), socket.MSG_DONTWAIT)

    def _outlive_kernel(self) -> Reason | None:
        """The kernel is gone: release, or wait for another one, if that was wanted."""
        if self.order.keep <= 0:
            return Why.KERNEL_GONE, KERNEL_GONE
        self.forget_kernel()
        self._kept_until = time.monotonic() + self.order.keep
        self._write(phase=Phase.KEPT, kept_until=self._kept_until)
        return None

    def _serve(self, client: ControlConnection, message: Message) -> Reason | None:
        if isinstance(message, Stop):
            return Why.ASKED, message
        if isinstance(message, Attach):
            refused = self._attach(client, message)
            if refused is not None:
                client.say(refused)
        return None

    def _attach(self, client: ControlConnection, wish: Attach) -> Refused | None:
        if (
            self._kept_until is None or self._door is None
        ):  # its kernel's end would have come before this wish
            return Refused(errno.EBUSY, f"the kernel that it belongs to lives (pid {self._record.kernel[0]})")
        if wish.only is not None and wish.only != self.order.luggage.get("spec"):
            return Refused(errno.ESTALE, "it was started with other options")
        try:
            kernel = pidfd_calls.open_pid(client.pid)
        except OSError as error:
            return Refused(error.errno or 0, str(error.strerror))
        process = processes.read(client.pid)
        try:
            fds = [kernel, client.connection.fileno()]
            socket.send_fds(self._link, [b"k"], fds, socket.MSG_DONTWAIT)
        except OSError:
            os.close(kernel)
            return Refused(errno.EAGAIN, f"its other guard does not answer (pid {self._outer})")
        self._door.hand_over(client)
        self.serve_kernel(client.connection, client.inbox, kernel, client.outbox)
        self._kept_until = None
        phase = Phase.READY if self._ready else Phase.STARTING
        identity = list(process.identity) if process else [client.pid, 0]
        self._write(phase=phase, kernel=identity, kept_until=None)
        self.say(Attached(self.order.luggage))
        self._say_who_is_who()
        self.say(KnownProcesses(self._known))
        return None

    def _look_around(self) -> Reason | None:
        self.drain_wake()
        if self.signalled:
            return Why.GUARD_SIGNALLED, KERNEL_GONE
        if self.leader_has_ended():
            return Why.LEADER_ENDED, AT_ONCE
        self.reap()
        return None

    def _linger(self) -> None:
        """Give what the leader left behind a moment to end by itself, as it does after a clean exit."""
        members = self.members()
        self.note(members)
        pidfd.wait_for_all({one.identity for one in members}, LEADER_ENDED_LINGER)

    def _hurry(self) -> list[int]:
        return [self._outer_pidfd, *self.kernel_filenos()]


def _shown(members: Members) -> Members:
    """Those that /proc shows: of the others nothing tells one from the next with its pid."""
    return [one for one in members if one.identity.start != processes.HIDDEN]
