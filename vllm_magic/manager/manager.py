"""The kernel's servers, by name. Magics, panel and Python API talk to the one manager of their kernel."""

from __future__ import annotations

import atexit
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.errors import (
    NameInUse,
    StartInterrupted,
    StartTimeout,
    VllmMagicError,
)
from vllm_magic.manager.looking import Looking
from vllm_magic.masking import mask_words
from vllm_magic.provisioning import choose
from vllm_magic.provisioning.attached import AttachedProvisioner
from vllm_magic.recovery import kept_servers
from vllm_magic.server.server import Server, ServerState, run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.provisioning.base import Provisioner
    from vllm_magic.release.result import Release
    from vllm_magic.server.run import ServerRun


@dataclass(frozen=True)
class Start:
    """What `Manager.start` did: ``reused`` when the same spec was running already."""

    server: Server
    reused: bool


class Manager(Looking):
    """All servers of one kernel. Safe to use from any thread; what it shares is in its `Registry`."""

    _last: ServerSpec | None = None  # that was ready

    def start(
        self,
        spec: ServerSpec,
        *,
        wait: bool = True,
        timeout: float | None = None,
        report: Callable[[Server], None] | None = None,
    ) -> Start:
        """Start a server, or return the one that runs with the same spec.

        Args:
            spec: what to serve.
            wait: return when it is ready; otherwise at once.
            timeout: seconds to wait; after that the server is released.
            report: called in this thread again and again while it waits.

        Raises:
            NameInUse: another spec has this name.
            ReleaseFailed: what an earlier server of this name left still does not end.
            StartFailed: it ended before it was ready (`StartTimeout`, `StartInterrupted`: and was released).
            VllmMagicError: the words do not fit, there is no vLLM, the port is taken.

        What else is raised while it waits (by a signal handler of the program, by ``report``) is passed on once the
        server is released that this call has begun.
        """
        self._check_process()
        before = self._registry.named(spec.name)
        start: Start | None = None
        try:
            start = self._register(spec, timeout)
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

    def _wait(self, server: Server, timeout: float | None, report: Callable[[Server], None] | None) -> None:
        try:
            server.wait(timeout, report)
        except StartTimeout as error:
            release = self._stop(server)
            raise StartTimeout(
                f"{error.cause}; it was released in {release.seconds:.1f} s{release.in_brackets}", error.hint
            ) from None
        except VllmMagicError:
            if (
                server.pid is None
            ):  # it never ran: whoever waited has heard, and there is nothing of it to show
                self._registry.forget(server)
            raise

    def stop(self, name: str | None = None, *, grace: float | None = None, drain: float = 0.0) -> Release:
        """Stop one server; without a name the only one there is. See `Server.stop`.

        Raises:
            ServerNotFound: there is none of this name, or not exactly one.
        """
        return self._stop(self.get(name), grace, drain)

    def stop_all(self, *, grace: float | None = None, drain: float = 0.0) -> list[Release]:
        """Stop every server, side by side.

        Raises:
            ReleaseFailed: of the first that failed, after all were tried.
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

    def attach(
        self,
        name: str | None = None,
        *,
        timeout: float | None = None,
        report: Callable[[Server], None] | None = None,
    ) -> Server:
        """Take over a server whose kernel is gone and which was to be kept, and return when it is ready.

        Args:
            name: its name, or its folder's id where several have the name; None for the only one that waits.
            timeout: seconds to wait; it stays attached after that.
            report: called in this thread again and again while it waits.

        Raises:
            ServerNotFound: none waits under this name, or not exactly one.
            NameInUse: a server of this kernel has its name.
            StartTimeout: it was not ready in time.
            StartFailed: it ended before it was ready.
        """
        self._check_process()
        entry = kept_servers.one(name)
        if entry.record:
            self._check_free(entry.record.name)
        server = self._attach(kept_servers.take(entry))
        server.wait(timeout, report)
        return server

    def expect(self, spec: ServerSpec) -> None:
        """A start of this server comes soon: vLLM can be imported for it meanwhile, if spares are wanted."""
        with contextlib.suppress(VllmMagicError):  # the start will say it
            if standby := choose.standby(spec, os.environ):
                self._spares.want(standby, soon=True)

    def expect_another(self, spec: ServerSpec) -> None:
        """A start comes of which nothing is known: like the last one, or like this where there was none."""
        self.expect(self._last or spec)

    def stop_at_exit(self) -> None:
        """Ask every server to end, and return at once; the guards do the rest. For the end of the kernel."""
        if os.getpid() != self._pid:  # a forked child of the kernel owns nothing
            return
        for server in self._registry.all():
            run_of(server).stop_at_exit()
        self._spares.close()
        self.close()

    def close(self) -> None:
        """End what looks at the servers and the GPUs; it comes back when it is needed."""
        if os.getpid() != self._pid:  # a lock of theirs may have been held when this copy was made
            return
        self._sampler.close()
        self._probe.close()

    def _register(self, spec: ServerSpec, timeout: float | None) -> Start:
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
                    return Start(existing, reused=True)
                raise NameInUse(_in_use(existing, spec))
            if existing and run_of(existing).is_left:
                self._stop(existing)
                continue
            kept = kept_servers.equal(spec) if spec.keep else None
            if kept is not None:
                return Start(self._attach(kept), reused=True)
            environ = dict(os.environ)  # the next cell may change it
            provisioner = choose.provisioner(spec, environ, self._probe, self._spares)
            server = self._begin(spec, provisioner, existing)
            if server is not None:
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
        """Return the server of this name, which is over; None if there is none.

        Raises:
            NameInUse: a server of this name runs.
        """
        existing = self._registry.named(name)
        if existing and not existing.state.over:
            raise NameInUse(f"A server of this kernel is called {name}. Stop it first: %vllm stop {name}")
        return existing

    def _begin(self, spec: ServerSpec, provisioner: Provisioner, existing: Server | None) -> Server | None:
        """Enter a server in the place of ``existing``, and begin it; None if another thread was faster."""
        try:
            server = Server(spec, provisioner, self._probe, self._news.put, self._heard)
            if not self._registry.enter(server, existing):
                provisioner.discard()
                return None
            run_of(server).begin()
        except BaseException:
            provisioner.discard()
            raise
        self._sampler.follow(run_of(server))
        return server

    def _heard(self, run: ServerRun) -> None:
        """Take in a change in a server's life, in the thread that made it."""
        self._sampler.note_change(run)
        if run.state is ServerState.READY and run.standby is not None:
            self._last = run.spec
            self._spares.want(run.standby)

    def _interrupted(self, name: str, before: Server | None) -> BaseException:
        """Release the server that was waited for; an interrupt before there was one stays what it is."""
        server = self._registry.named(name)
        if server is None or (server is before and server.state.runs):
            return KeyboardInterrupt()
        try:
            release = self._stop(server)
        except KeyboardInterrupt:
            return StartInterrupted(f"The start of {name} was interrupted; its release goes on by itself")
        return StartInterrupted(
            f"The start of {name} was interrupted; it was released in {release.seconds:.1f} s{release.in_brackets}"
        )

    def _abandon(self, server: Server) -> None:
        """Release a server of which nobody knows; if that fails, `news` tells it."""
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
