"""The kernel's servers, by name. Magics, panel and Python API use the one manager of their kernel."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.models import hosted_token
from vllm_magic.errors import NameInUse, StartInterrupted, StartTimeout, VllmMagicError
from vllm_magic.gpu.probe import Probe
from vllm_magic.manager import sessions
from vllm_magic.manager.registry import Registry
from vllm_magic.manager.sessions import Sessions
from vllm_magic.masking import mask_words
from vllm_magic.monitoring.sampler import Sampler
from vllm_magic.provisioning import choose
from vllm_magic.provisioning.attached import AttachedProvisioner
from vllm_magic.provisioning.standby_pool import StandbyPool
from vllm_magic.recovery import kept_servers, orphaned_commands
from vllm_magic.recovery.sweep import sweep, sweep_clusters
from vllm_magic.server.server import Server, ServerState, run_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.capacity.fit import Fit
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.monitoring.early_warning import EarlyWarning
    from vllm_magic.provisioning.base import Provisioner
    from vllm_magic.release.result import Release
    from vllm_magic.server.run import ServerRun


@dataclass(frozen=True)
class Start:
    """The result of `Manager.start`; ``reused`` means that a server with the same spec was running already."""

    server: Server
    reused: bool


class Manager:
    """All servers of one kernel. Safe to use from any thread.

    Its `Registry` has the servers, its `Sampler` measures them, and its `StandbyPool` imports vLLM before a start.
    """

    def __init__(self) -> None:
        self._registry = Registry()
        self._sessions = Sessions()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._report_waiting = threading.Event()
        self._probe = Probe()
        self._sampler = Sampler(self._probe)
        self._spares = StandbyPool()
        self._last: ServerSpec | None = None  # the spec of the last server that became ready
        self._pid = os.getpid()

    @property
    def sessions(self) -> Sessions:
        """The sessions that use the servers, in a process that has several."""
        return self._sessions

    # The servers.

    def servers(self) -> dict[str, Server]:
        """Return the servers by name: those that start, run or stop, and failed ones until they are stopped or started again.

        Raises:
            VllmMagicError: this process is a forked copy of the kernel.
        """
        self._check_process()
        return self._registry.servers()

    def past(self) -> dict[str, Server]:
        """Return the last ended servers, by name."""
        return self._registry.past()

    def get(self, name: str | None = None) -> Server:
        """Return the server of this name; for None the only server.

        Raises:
            ServerNotFound: there is no such server, or more than one.
            VllmMagicError: this process is a forked copy of the kernel.
        """
        self._check_process()
        return self._registry.get(name)

    def get_even_past(self, name: str | None = None) -> Server:
        """Return the same as `get`, or an ended server, whose log still exists. Errors as for `get`."""
        self._check_process()
        return self._registry.get_even_past(name)

    def start(
        self,
        spec: ServerSpec,
        *,
        wait: bool = True,
        timeout: float | None = None,
        report: Callable[[Server], None] | None = None,
        session: threading.Thread | None = None,
    ) -> Start:
        """Start a server, or return the running server with the same spec.

        If the wait ends by another error than those below (of a signal handler of the program, or of ``report``), the server that
        this call has started is released before the error is raised.

        Args:
            spec: the spec of the server.
            wait: whether to wait until the server is ready.
            timeout: seconds to wait, after which the server is released; None for no limit.
            report: called with the server, in this thread, repeatedly during the wait.
            session: the session that uses the server; None for the session that calls this, if there is one.

        Raises:
            NameInUse: a server with another spec has this name.
            ReleaseFailed: processes that an earlier server of this name left still do not end.
            StartFailed: the server ended before it was ready, and is released. `StartTimeout` and `StartInterrupted` are kinds
                of this.
            VllmMagicError: an option is not valid, vLLM is not found, or the port is taken.
        """
        self._check_process()
        hosted_token.load(spec.model, os.environ)
        before = self._registry.named(spec.name)
        start: Start | None = None
        try:
            start = self._register(spec, timeout, session or sessions.current())
            if wait:
                self._wait(start.server, timeout, report)
        except KeyboardInterrupt:
            raise self._interrupted(spec.name, before) from None
        except VllmMagicError:
            raise
        except BaseException:
            server = start.server if start else self._registry.named(spec.name)
            if server is not None and server is not before and not (start and start.reused):
                self._abandon(server)
            raise
        return start

    def stop(self, name: str | None = None, *, grace: float | None = None, drain: float = 0.0) -> Release:
        """Stop the server of this name; for None the only server. See `Server.stop`.

        Raises:
            ServerNotFound: there is no such server, or more than one.
        """
        return self._stop(self.get(name), grace, drain)

    def stop_all(self, *, grace: float | None = None, drain: float = 0.0) -> list[Release]:
        """Stop all servers at the same time.

        Raises:
            ReleaseFailed: the first error, after all servers were tried.
        """
        servers = list(self.servers().values())
        for server in servers:
            run_of(server).begin_stop(grace, drain)
        releases, failed = [], []
        for server in servers:
            try:
                releases.append(run_of(server).wait_released())
            except VllmMagicError as error:
                failed.append(error)
            finally:
                self._registry.forget(server)
        if failed:
            raise failed[0]
        return releases

    def attach(self, name: str | None = None, *, report: Callable[[Server], None] | None = None) -> Server:
        """Take over a kept server, whose kernel has ended, and wait until it is ready.

        Args:
            name: the name of the server, or its folder's id; None for the only kept server.
            report: called with the server, in this thread, repeatedly during the wait.

        Raises:
            ServerNotFound: there is no such kept server, or more than one.
            NameInUse: a server of this kernel has the same name.
            StartFailed: the server ended before it was ready.
        """
        self._check_process()
        entry = kept_servers.find(name)
        if entry.record:
            self._check_free(entry.record.name)
        server = self._attach(kept_servers.take(entry))
        server.wait(report=report)
        return server

    def stop_at_exit(self) -> None:
        """Request the release of all servers, and return at once: the guards do the rest. Called when the kernel ends."""
        if os.getpid() != self._pid:  # a forked copy of the kernel owns no server
            return
        for server in self._registry.all():
            run_of(server).stop_at_exit()
        self._spares.close()
        self.close()

    def close(self) -> None:
        """Stop the sampler and the probe; they start again when they are needed."""
        if os.getpid() != self._pid:  # another thread may have held one of their locks at the fork
            return
        self._sampler.close()
        self._probe.close()

    def sweep(self) -> None:
        """Release what dead kernels left, and add lines about it to `news`. For a thread of its own."""
        try:
            for swept in sweep(self._probe):
                self._news.put(swept.text)
            for ended in orphaned_commands.end():
                self._news.put(ended.text)
            self._report_waiting.set()
            for swept in sweep_clusters(self._probe):
                self._news.put(swept.text)
        except OSError as error:
            self._news.put(f"The state folder cannot be used: {error}. %vllm doctor shows more.")

    def news(self) -> list[str]:
        """Return a line for each thing that happened since the last call and that no call has reported."""
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._news.get_nowait())
        lines += self._registry.unreported_failures()
        if self._report_waiting.is_set():
            self._report_waiting.clear()
            lines += self.waiting()  # read now, because a server may have been attached since the sweep
        return lines

    def idle_releases(self) -> list[str]:
        """Return a line for each past server that was released because it was idle."""
        return self._registry.idle_releases()

    def waiting(self) -> list[str]:
        """Return a line for each kept server, which waits for a kernel; [] if the state folder cannot be read."""
        own = [run_of(server).id for server in self._registry.all() if not server.state.over]
        return kept_servers.notices(but=own)

    @property
    def probe(self) -> Probe:
        """The probe that reads the GPUs."""
        return self._probe

    def gpus(self) -> Snapshot:
        """Return the GPUs as they are now."""
        return self._probe.snapshot()

    def recent_gpus(self) -> Snapshot:
        """Return the sampler's last snapshot of the GPUs if it is recent, else a new one."""
        return self._sampler.fresh or self._probe.snapshot()

    @property
    def latest(self) -> Snapshot | None:
        """The sampler's last snapshot of the GPUs; None before the first one."""
        return self._sampler.latest

    @property
    def attribution(self) -> Mapping[int, str]:
        """The names of this kernel's servers, by the pids of those of their processes that the driver lists."""
        return self._sampler.attribution

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, in any thread, after each sample and each event in the life of a server.

        Returns:
            A function that ends the calls.

        Raises:
            VllmMagicError: this process is a forked copy of the kernel.
        """
        self._check_process()
        return self._sampler.watch(callback)

    def check(self, spec: ServerSpec) -> None:
        """Refuse a start that cannot succeed, before anything is stopped for it.

        Raises:
            NameInUse: a server with another spec has this name.
            VllmMagicError: an option is not valid, vLLM is not found, or the model or the machine lacks something.
        """
        hosted_token.load(spec.model, os.environ)
        choose.check(spec, os.environ, self.recent_gpus(), self._freed_ports(spec))
        existing = self._registry.named(spec.name)
        if (
            existing
            and (existing.state is ServerState.STARTING or existing.state.runs)
            and existing.spec != spec
        ):
            raise NameInUse(_in_use(existing, spec))

    def fit(self, spec: ServerSpec) -> Fit:
        """Estimate whether a server would fit on the GPUs as they are now, without a start.

        Raises:
            InvalidOption: a flag has a value that vLLM refuses, or --gpus names a GPU that does not exist.
            NoEstimate: the model is not found, or is of an unknown kind.
        """
        from vllm_magic.engine.capacity.fit import fit

        hosted_token.load(spec.model, os.environ)
        return fit(spec, os.environ, self.gpus())

    def warn_early(self, spec: ServerSpec) -> EarlyWarning:
        """Begin to check, in the background, whether the start of this server will fail for lack of memory."""
        from vllm_magic.monitoring.early_warning import EarlyWarning

        return EarlyWarning(spec, self._probe)

    @property
    def spares(self) -> StandbyPool:
        """The pool of standbys."""
        return self._spares

    def expect(self, spec: ServerSpec) -> None:
        """Make a standby for a start of this server that comes soon, if the pool's mode allows one."""
        with contextlib.suppress(VllmMagicError):  # the start will report it
            if standby := choose.standby(spec, os.environ):
                self._spares.want(standby, soon=True)

    def expect_another(self, spec: ServerSpec) -> None:
        """Make a standby for an unknown start: like the last server that became ready; if there was none, like this server."""
        self.expect(self._last or spec)

    def _freed_ports(self, spec: ServerSpec) -> list[int]:
        """Return the ports of this kernel's servers that are no obstacle: its own, and those of servers that can only be stopped.

        A server in sleep mode keeps its port while it sleeps.
        """
        return [
            server.port
            for server in self._registry.all()
            if not server.state.over and (server.name == spec.name or not run_of(server).sleep_mode.available)
        ]

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise VllmMagicError(
                "This is a forked process, and the servers belong to its parent process, the kernel. Use them there."
            )

    def _wait(self, server: Server, timeout: float | None, report: Callable[[Server], None] | None) -> None:
        try:
            server.wait(timeout, report)
        except StartTimeout as error:
            release = self._stop(server)
            raise StartTimeout(
                f"{error.cause}; it was released in {release.seconds:.1f} s{release.in_brackets}",
                error.hint,
                error.log_tail,
            ) from None
        except VllmMagicError:
            if server.pid is None:  # the server never ran: this error reports it, and it has no log
                self._registry.forget(server)
            raise

    def _register(self, spec: ServerSpec, timeout: float | None, session: threading.Thread | None) -> Start:
        while True:
            existing = self._registry.named(spec.name)
            state = existing.state if existing else None
            if existing and state is ServerState.STOPPING:
                if not run_of(existing).wait_over(timeout):
                    raise NameInUse(
                        f"{spec.name} is still being released after {timeout:g} s. Try again in a moment."
                    )
                continue
            if existing and state and not state.over:
                if existing.spec == spec:
                    self._sessions.hold(existing, session)
                    if session is not None and existing.state is ServerState.STOPPING:
                        continue  # the last other session has just ended
                    return Start(existing, reused=True)
                # The running server must not be stopped for a start that cannot succeed.
                choose.check(spec, os.environ, self.recent_gpus(), self._freed_ports(spec))
                raise NameInUse(_in_use(existing, spec))
            if existing and run_of(existing).lifecycle.now.is_left:
                self._stop(existing)
                continue
            kept = kept_servers.take_by_spec(spec) if spec.keep else None
            if kept is not None:
                return Start(self._attach(kept), reused=True)
            environ = dict(os.environ)  # a copy, because the next cell may change the environment
            provisioner = choose.provisioner(spec, environ, self._probe, self._spares)
            server = self._begin(spec, provisioner, existing)
            if server is not None:
                self._sessions.hold(server, session)
                return Start(server, reused=False)

    def _attach(self, owner: kept_servers.Attachment) -> Server:
        provisioner = AttachedProvisioner(owner.entry, owner.guards, owner.spec, owner.command, self._probe)
        try:
            existing = self._check_free(owner.spec.name)
        except NameInUse:
            provisioner.discard()
            raise
        server = self._begin(owner.spec, provisioner, existing)
        if server is None:
            raise NameInUse(f"Another server of this kernel has just been called {owner.spec.name}.")
        return server

    def _check_free(self, name: str) -> Server | None:
        """Return the ended server of this name; None if there is none.

        Raises:
            NameInUse: a server of this name runs.
        """
        existing = self._registry.named(name)
        if existing and not existing.state.over:
            raise NameInUse(f"A server of this kernel is called {name}. Stop it first: %vllm stop {name}")
        return existing

    def _begin(self, spec: ServerSpec, provisioner: Provisioner, existing: Server | None) -> Server | None:
        """Register a server in place of ``existing``, and start it; return None if another thread was faster."""
        try:
            server = Server(spec, provisioner, self._probe, self._news.put, self._server_changed)
            if not self._registry.enter(server, existing):
                provisioner.discard()
                return None
            run_of(server).begin()
        except BaseException:
            provisioner.discard()
            raise
        self._sampler.follow(run_of(server))
        return server

    def _server_changed(self, run: ServerRun) -> None:
        """Handle a change in a server's life, in the thread that made the change."""
        self._sampler.note_change(run)
        if run.state is ServerState.READY and run.standby is not None:
            self._last = run.spec
            self._spares.want(run.standby)

    def _interrupted(self, name: str, before: Server | None) -> BaseException:
        """Release the server that this start has begun, and return the error to raise.

        Args:
            name: the name of the server.
            before: the server that had the name when the start began. If it still has the name, and is ready or over, this start
                has begun no server, and the interrupt itself is returned.
        """
        server = self._registry.named(name)
        if server is None or (server is before and (server.state.runs or server.state.over)):
            return KeyboardInterrupt()
        try:
            release = self._stop(server)
        except KeyboardInterrupt:
            run_of(server).begin_stop()  # this interrupt may have come before the request of the release
            return StartInterrupted(f"The start of {name} was interrupted; its release continues by itself")
        return StartInterrupted(
            f"The start of {name} was interrupted; it was released in {release.seconds:.1f} s{release.in_brackets}"
        )

    def _abandon(self, server: Server) -> None:
        """Release a server that no caller will get. If that fails, `news` reports it."""
        try:
            self._stop(server)
        except VllmMagicError as error:
            self._news.put(str(error))

    def _stop(self, server: Server, grace: float | None = None, drain: float = 0.0) -> Release:
        try:
            return server.stop(grace, drain)
        finally:
            self._registry.forget(server)


manager = Manager()
atexit.register(manager.stop_at_exit)


def _in_use(existing: Server, spec: ServerSpec) -> str:
    return (
        f"{spec.name} {'is starting' if existing.state is ServerState.STARTING else 'runs'} already, with other options "
        f"({existing.model} {' '.join(mask_words(existing.spec.args))}".rstrip()
        + f"). Stop it first (%vllm stop {spec.name}), or give this one another name (--name NAME)."
    )
