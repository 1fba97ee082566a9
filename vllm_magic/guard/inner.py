"""The inner guard: it starts the leader, waits for a reason to release the server, and releases it."""

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
from vllm_magic.guard.base import NO_GRACE, NO_KERNEL, SHORT_GRACE, Guard, log
from vllm_magic.guard.control_socket import ControlConnection, ControlSocket
from vllm_magic.guard.disk_calls import LIMIT
from vllm_magic.guard.protocol import (
    Attach,
    Attached,
    Ended,
    KnownProcesses,
    LaunchRequest,
    Message,
    Refused,
    ServerReady,
    StandbyReport,
    Started,
    Stop,
    Stopping,
    Why,
    encode,
)
from vllm_magic.guard.record import Phase, Record
from vllm_magic.guard.standby_leader import StandbyConnection
from vllm_magic.linux import pidfd, pidfd_calls, processes, shared_memory

if TYPE_CHECKING:
    from vllm_magic.guard.ladder import Members
    from vllm_magic.guard.log_cap import LogCap
    from vllm_magic.guard.message_stream import Inbox
    from vllm_magic.guard.outbox import Outbox
    from vllm_magic.linux.shared_memory import Segment

CHILD_SCAN_INTERVAL = 2.0  # seconds between scans for adopted children; no event shows an adoption
FULL_SCAN_INTERVAL = 30.0  # seconds between scans for all descendants, which cost more
EXIT_WAIT = 0.25  # seconds for the other processes to end by themselves after the leader

Reason = tuple[Why, Stop]  # why the server is released, and the times for its processes to end by themselves


class Inner(Guard):
    """The inner guard of one server. Other arguments as for `Guard`.

    Args:
        outer: the outer guard's pid.
        outer_pidfd: the outer guard's pidfd.
        link: the connection to the outer guard, for a new kernel, a standby's request, a stop, and the known processes.
    """

    def __init__(
        self,
        control: socket.socket,
        inbox: Inbox,
        kernel: int,
        request: LaunchRequest,
        before: set[Segment] | None,
        *,
        outer: int,
        outer_pidfd: int,
        link: socket.socket,
    ) -> None:
        super().__init__(control, inbox, kernel, request, before)
        self._outer = outer
        self._outer_pidfd = outer_pidfd
        self._link = link
        self._record = Record(**request.record)
        self._is_written = True  # whether the disk has the record
        self._control_socket: ControlSocket | None = None
        self._log_cap: LogCap | None = None
        self._ready = False
        # Whether the processes and the shared memory of the ready server are recorded.
        self._is_ready_noted = False
        self._kept_until: float | None = None
        self._standby: StandbyConnection | None = None
        self._known: list[list[int]] = []
        self._children: set[int] = set()
        self._next_scan = self._next_full_scan = 0.0  # by `time.monotonic`

    def run(self) -> None:
        """Start the server, wait for a reason to release it, and return after the release."""
        if not self._start():
            return
        why, stop = self._wait()
        if self._control_socket is not None:
            self._control_socket.close()
        if why is Why.LEADER_ENDED:
            self._wait_for_exit()
        if why is Why.ASKED:
            # The outer guard then waits for the times of the stop before it checks whether this guard hangs.
            with contextlib.suppress(OSError):  # the outer guard is stopped or gone
                self._link.send(encode(stop), socket.MSG_DONTWAIT)
            # After any other reason this is left out: a slow disk would delay the release.
            self._write(limit=0.0, phase=Phase.STOPPING)
        end_grace = [self.wake, *self._enders()] if why is Why.ASKED else []
        self.release("inner", why, stop, end_grace, self._later_stop)
        self.clear()
        with contextlib.suppress(ProcessLookupError):  # a stopped outer guard would never end
            pidfd_calls.send_to(self._outer_pidfd, signal.SIGCONT)

    def send(self, message: Message) -> None:
        """Send a message to the kernel. `Stopping` and `Ended` are also sent to the clients of the control socket."""
        super().send(message)
        if self._control_socket is not None and isinstance(message, (Stopping, Ended)):
            self._control_socket.send_all(message)

    def flush_before_exit(self) -> None:
        """See `Guard`. The clients of the control socket come first, since their time limit is shorter."""
        if self._control_socket is not None:
            self._control_socket.flush_before_exit()
        super().flush_before_exit()

    def _start(self) -> bool:
        """Start the leader and all that watches it; return False if the leader could not be executed."""
        self._write_existing_segments()
        limit = self.request.standby_limit
        self._standby = StandbyConnection(limit) if limit > 0 else None
        try:
            result = leader.spawn(self.request, self._standby.theirs if self._standby else None)
        except OSError as error:  # no process or descriptor is free
            result = Refused(error.errno or 0, str(error.strerror))
        if isinstance(result, Refused):
            self.send(result)
            return False
        self.leader = result
        guards = [processes.read(pid) for pid in (self._outer, os.getpid())]
        outer, inner = (list(guard.identity) if guard else [0, 0] for guard in guards)
        self._write(outer=outer, inner=inner, leader=list(self.leader))
        self._open_control_socket()
        self._log_cap = log_cap.watch(self.request.log, lambda cut: self.disk.call(cut, 0.0))
        if self._standby is None:
            self._send_started()
        else:
            self._standby.theirs.close()
            self.send(StandbyReport(list(self.leader), warm=False))
        return True

    def _write_existing_segments(self) -> None:
        before = self.before
        if before is None:
            return

        def write() -> None:
            try:
                record.write_existing_segments(self.request.folder, before)
            except OSError as error:  # a full disk: without the file, only the guards remove shared memory
                log(f"no list of the shared memory: {error}")

        self.disk.call(write)

    def _send_started(self) -> None:
        assert self._record.leader and self._record.outer and self._record.inner  # noqa: S101, PT018 - set by _start
        self.send(Started(self._record.leader, self._record.outer, self._record.inner))

    def _open_control_socket(self) -> None:
        try:
            self._control_socket = ControlSocket(self.request.folder)
        except OSError as error:  # the server runs all the same, but no other process can stop it
            log(f"no control socket: {error}")

    def _write(self, limit: float = LIMIT, **changes: Any) -> None:
        """Change the record, and write it; wait at most ``limit`` seconds for the disk. `_scan_members` tries again."""
        self._record = self._record._replace(**changes)

        def write() -> None:
            try:
                record.write(self.request.folder, self._record)
            except OSError as error:  # a full disk, or the folder is gone: the server runs all the same
                log(f"no record: {error}")

        self._is_written = self.disk.call(write, limit)

    def _wait(self) -> Reason:
        reason = self._receive_from_kernel() if self.inbox.waiting else None
        while reason is None:
            reason = self._handle_events(self._poll())
            if reason is None and time.monotonic() >= self._next_scan:
                self._scan_members()
        return reason

    def _poll(self) -> set[int]:
        """Wait for the next event, and send what has room; return the readable descriptors."""
        poller, unsent = select.poll(), self._unsent()
        sockets = self._control_socket.filenos() if self._control_socket else ()
        for fd in (self.wake, self._outer_pidfd, *self.kernel_filenos(), *sockets):
            poller.register(fd, select.POLLIN | (select.POLLOUT if fd in unsent else 0))
        if self._log_cap is not None:
            poller.register(self._log_cap, select.POLLIN)
        rest = self._next_scan - time.monotonic()
        if self._kept_until is not None:
            rest = min(rest, self._kept_until - time.monotonic())
        if self._standby is not None:
            poller.register(self._standby, select.POLLIN)
            rest = min(rest, self._standby.seconds_to_check())
        ready = poller.poll(max(0.0, rest) * 1000)
        for fd, events in ready:
            if events & select.POLLOUT:
                unsent[fd].flush()
        return {fd for fd, events in ready if events & ~select.POLLOUT}

    def _unsent(self) -> dict[int, Outbox]:
        """Return the outboxes of the kernel and the clients that are not empty, by descriptor."""
        boxes = {} if self.kernel == NO_KERNEL else {self.control.fileno(): self.outbox}
        boxes.update(self._control_socket.outboxes() if self._control_socket else {})
        return {fd: box for fd, box in boxes.items() if not box.is_empty}

    def _handle_events(self, ready: set[int]) -> Reason | None:
        if self._log_cap is not None and self._log_cap.fileno() in ready:
            self._log_cap.trim()
        if self._outer_pidfd in ready:
            return Why.GUARD_GONE, NO_GRACE
        reason = None
        if self.kernel != NO_KERNEL and self.control.fileno() in ready:
            reason = self._receive_from_kernel()
        if reason is None and self.kernel in ready:
            reason = self._receive_last_messages()
        if reason is None and self._kept_until is not None and time.monotonic() >= self._kept_until:
            reason = Why.KERNEL_GONE, SHORT_GRACE
        if reason is None and self._standby is not None:
            reason = self._handle_standby(self._standby, ready)
        if reason is None and self._control_socket is not None:
            for client, message in self._control_socket.receive(ready):
                reason = reason or self._handle_client_message(client, message)
        if reason is None and self.wake in ready:
            reason = self._handle_signals()
        return reason

    def _receive_from_kernel(self) -> Reason | None:
        messages = self.inbox.read()
        if messages is None:
            return self._handle_kernel_end()
        if any(isinstance(message, ServerReady) for message in messages):
            self._note_ready()
        stops = [message for message in messages if isinstance(message, Stop)]
        if not stops:
            requests = [message for message in messages if isinstance(message, LaunchRequest)]
            return self._launch_standby(requests[0]) if requests else None
        return Why.ASKED, _soonest(stops)

    def _receive_last_messages(self) -> Reason | None:
        """Handle the messages that the kernel sent before it ended. A child of the kernel may hold the connection open."""
        reason = None
        while reason is None and self.kernel != NO_KERNEL:
            has_messages = bool(pidfd.readable([self.control.fileno()], 0.0))
            reason = self._receive_from_kernel() if has_messages else self._handle_kernel_end()
        return reason

    def _handle_standby(self, standby: StandbyConnection, ready: set[int]) -> Reason | None:
        """Pass on to the kernel what the standby reports; return why it ends, if it waited too long or cannot serve."""
        if standby.fileno() not in ready:
            if not standby.should_end():
                return None
            if standby.is_requested:
                self.send(Refused(errno.ETIMEDOUT, "it did not accept the request in time"))
            return Why.IDLE, NO_GRACE
        for line in standby.read_lines():
            word, _, rest = line.partition(" ")
            if word == "warm":
                self.send(StandbyReport(self._record.leader or [], warm=True))
                continue
            standby.close()
            self._standby = None
            if word == "taken":
                self._send_started()
                return None
            self.send(Refused(errno.ESTALE, rest))
            # The leader ends now, unless a thread of an imported module keeps it alive.
            return Why.LEADER_ENDED, NO_GRACE
        return None

    def _launch_standby(self, request: LaunchRequest) -> Reason | None:
        """Turn the standby into a server. If that fails, the kernel gets `Refused`, and starts a server without it."""
        if self._standby is None or self._standby.is_requested:
            return None
        known = self._record
        self.request = request
        self._record = Record(**request.record)._replace(
            outer=known.outer, inner=known.inner, leader=known.leader
        )
        try:
            # The outer guard needs neither the environment nor the key for a release. It gets the request before the
            # record is written, since its time limit after the kernel's end depends on the request.
            message = encode(request._replace(argv=request.argv[:1], env={}, handover={}))
            self._link.send(message, socket.MSG_DONTWAIT)
            self._remember_existing_segments()
            self._write_existing_segments()
            self._write()
            self._standby.send_request(request)
        except OSError as error:
            self.send(Refused(error.errno or errno.ESTALE, str(error)))
            return Why.LEADER_ENDED, NO_GRACE
        return None

    def _remember_existing_segments(self) -> None:
        """Add all shared memory that the server does not map now to `before`. Called when a standby becomes a server."""
        if self.before is not None:
            try:
                ours = shared_memory.mapped_by(process.identity.pid for process in self.members())
                self.before |= shared_memory.existing() - ours
            except OSError:  # no descriptor is free
                self.before = None

    def _note_ready(self) -> None:
        """Record the processes and the shared memory of the ready server. `_scan_members` tries again."""
        self._ready = True
        with contextlib.suppress(OSError, MemoryError):  # no descriptor or memory is free
            members = self.members()
            self.remember_segments(members)
            segments = [list(segment) for segment in self.segments]
            self._send_known(members)
            self._write(phase=Phase.READY, segments=segments)
            self._is_ready_noted = True

    def _scan_members(self) -> None:
        """Report new processes below this guard to the kernel and to the disk.

        If both guards are killed, this list is needed to find processes that have lost the server's mark.
        """
        if not self._is_written:
            self._write()
        if self._ready and not self._is_ready_noted:
            self._note_ready()
        now = time.monotonic()
        self._next_scan = now + CHILD_SCAN_INTERVAL
        with contextlib.suppress(OSError, MemoryError):  # no descriptor or memory is free: try again later
            children = processes.children(os.getpid())
            if children <= self._children and now < self._next_full_scan:
                return
            members = _shown(self.members())
            self._children = children
            self._next_full_scan = now + FULL_SCAN_INTERVAL
            if any(list(process.identity) not in self._known for process in members):
                self._send_known(members)

    def _send_known(self, members: Members) -> None:
        self._known = [list(process.identity) for process in _shown(members)]
        self.send(KnownProcesses(self._known))
        # The outer guard writes the file, since this guard must not wait for a slow disk.
        with contextlib.suppress(OSError):  # the outer guard is stopped or gone
            self._link.send(encode(KnownProcesses(self._known)), socket.MSG_DONTWAIT)

    def _handle_kernel_end(self) -> Reason | None:
        """Release the server after the kernel's end, or keep it for another kernel (`LaunchRequest.keep`)."""
        if self.request.keep <= 0:
            return Why.KERNEL_GONE, SHORT_GRACE
        self.drop_kernel()
        self._kept_until = time.monotonic() + self.request.keep
        self._write(phase=Phase.KEPT, kept_until=self._kept_until)
        return None

    def _handle_client_message(self, client: ControlConnection, message: Message) -> Reason | None:
        if isinstance(message, Stop):
            return Why.ASKED, message
        if isinstance(message, Attach):
            refused = self._attach(client, message)
            if refused is not None:
                client.send(refused)
        return None

    def _attach(self, client: ControlConnection, attach: Attach) -> Refused | None:
        """Make the client the kernel of a kept server; return why that is refused, or None."""
        # The end of the kernel is handled before the messages of clients, so the kernel still lives here.
        if self._kept_until is None or self._control_socket is None:
            return Refused(errno.EBUSY, f"the kernel that it belongs to lives (pid {self._record.kernel[0]})")
        if attach.expected_spec is not None and attach.expected_spec != self.request.handover.get("spec"):
            return Refused(errno.ESTALE, "it was started with other options")
        try:
            process = processes.read(client.pid)
            kernel = pidfd_calls.open_pid(client.pid)
        except OSError as error:
            return Refused(error.errno or 0, str(error.strerror))
        try:
            fds = [kernel, client.connection.fileno()]
            socket.send_fds(self._link, [b"k"], fds, socket.MSG_DONTWAIT)
        except OSError:
            os.close(kernel)
            return Refused(errno.EAGAIN, f"its other guard does not answer (pid {self._outer})")
        self._control_socket.detach(client)
        self.set_kernel(client.connection, client.inbox, kernel, client.outbox)
        self._kept_until = None
        phase = Phase.READY if self._ready else Phase.STARTING
        identity = list(process.identity) if process else [client.pid, 0]
        self._write(phase=phase, kernel=identity, kept_until=None)
        self.send(Attached(self.request.handover))
        self._send_started()
        self.send(KnownProcesses(self._known))
        return None

    def _handle_signals(self) -> Reason | None:
        self.drain_wake()
        if self.signalled:
            return Why.GUARD_SIGNALLED, SHORT_GRACE
        with contextlib.suppress(OSError, MemoryError):  # no descriptor or memory is free: reap later
            if self.leader_has_ended():
                return Why.LEADER_ENDED, NO_GRACE
            self.reap()
        return None

    def _wait_for_exit(self) -> None:
        """Wait a moment for the leader's descendants to end by themselves, as they do after a clean exit."""
        # If no descriptor or memory is free, the release ends them.
        with contextlib.suppress(OSError, MemoryError):
            members = self.members()
            self.remember_segments(members)
            pidfd.wait_for_all({process.identity for process in members}, EXIT_WAIT)

    def _enders(self) -> list[int]:
        """The descriptors that become readable when the other guard or the kernel ends, or the kernel sends something."""
        return [self._outer_pidfd, *self.kernel_filenos()]

    def _later_stop(self) -> Stop | None:
        """Return the stop that came during the release; None if there is none.

        The end of the kernel, the end of the other guard, and SIGTERM count as a stop without grace. Other messages of the
        kernel do not count: if another process requested the stop, the kernel may still report that the server is ready.
        """
        self.drain_wake()
        ready = pidfd.readable(self._enders(), 0.0)
        if self.signalled or ready - {self.control.fileno()}:
            return NO_GRACE
        messages = self.inbox.read() if ready else []
        if messages is None:
            return NO_GRACE
        stops = [message for message in messages if isinstance(message, Stop)]
        return _soonest(stops) if stops else None


def _soonest(stops: list[Stop]) -> Stop:
    """Return a stop with the shortest times of these stops."""
    return Stop(min(stop.grace for stop in stops), min(stop.patience for stop in stops))


def _shown(members: Members) -> Members:
    """Return the processes that /proc shows: a hidden process cannot be distinguished from a later one with its pid."""
    return [process for process in members if process.identity.start != processes.HIDDEN]
