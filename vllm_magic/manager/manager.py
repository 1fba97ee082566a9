"""The kernel's servers, by name. Magics, panel and Python API talk to the one manager of their kernel."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.children import flag_reading
from vllm_magic.engine import command, executable
from vllm_magic.engine.flags import unknown_flags
from vllm_magic.errors import (
    NameInUse,
    ServerNotFound,
    StartFailed,
    StartInterrupted,
    StartTimeout,
    VllmMagicError,
)
from vllm_magic.manager.looking import Looking
from vllm_magic.masking import mask_words
from vllm_magic.provisioning import serialization
from vllm_magic.provisioning.local import Attached, Fresh
from vllm_magic.provisioning.standby import Cast
from vllm_magic.recovery import kept_servers
from vllm_magic.server.server import Server, ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.ledger import Entry
    from vllm_magic.release.result import Release


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
        """
        self._check_process()
        before = self._registry.named(spec.name)
        try:
            start = self._register(spec, timeout)
            if wait:
                self._wait(start.server, timeout, report)
        except KeyboardInterrupt:
            raise self._interrupted(spec.name, before) from None
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
            server.begin_stop(grace, drain)
        releases, failed = [], []
        for server in servers:
            try:
                releases.append(server.wait_released())
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
        server = self._attach(kept_servers.one(name))
        server.wait(timeout, report)
        return server

    def expect(self, spec: ServerSpec) -> None:
        """A start of this server comes soon: vLLM can be imported for it meanwhile, if spares are wanted."""
        if spec.cluster:
            return
        with contextlib.suppress(VllmMagicError):  # the start will say it
            self._spares.want(Cast.of(spec, executable.find(spec.executable), os.environ), soon=True)

    def expect_another(self, spec: ServerSpec) -> None:
        """A start comes of which nothing is known: like the last one, or like this where there was none."""
        self.expect(self._last or spec)

    def let_go(self) -> None:
        """Ask every server to end, and return at once; the guards do the rest. For the end of the kernel."""
        if os.getpid() != self._pid:  # a forked child of the kernel owns nothing
            return
        for server in self._registry.all():
            server.let_go()
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
                if not existing.wait_over(timeout):
                    raise NameInUse(
                        f"{spec.name} is still being released after {timeout:g} s. Try again in a moment."
                    )
                continue
            if existing and state and not state.over:
                if existing.spec == spec:
                    return Start(existing, reused=True)
                raise NameInUse(_in_use(existing, spec))
            if existing and existing.is_left:
                self._stop(existing)
                continue
            attached = self._attach_equal(spec) if spec.keep else None
            if attached is not None:
                return Start(attached, reused=True)
            server = self._far(spec) if spec.cluster else self._near(spec)
            if not self._registry.enter(server, existing):
                continue
            server.begin()
            self._sampler.follow(server)
            if not spec.cluster:
                flag_reading.table(
                    executable.find(spec.executable)
                )  # known by the next start, if it is not now
            return Start(server, reused=False)

    def _near(self, spec: ServerSpec) -> Server:
        built = command.build(spec)
        unknown_flags.check(spec, built.argv[0])
        environ = dict(os.environ)  # the next cell may change it
        beginning = Fresh(spec, built, environ, self._probe, self._spares)
        return Server(spec, built, beginning, self._news.put, self._heard)

    def _far(self, spec: ServerSpec) -> Server:
        from vllm_magic.provisioning import ray

        built, errand = ray.build(spec)
        beginning = ray.Far(spec, built, errand, dict(os.environ), self._probe)
        return Server(spec, built, beginning, self._news.put, self._heard)

    def _attach_equal(self, spec: ServerSpec) -> Server | None:
        """The kept server with this very spec, taken over; None where there is none."""
        only = json.loads(json.dumps(serialization.pack_spec(spec)))
        for entry in kept_servers.entries(spec.name):
            with contextlib.suppress(ServerNotFound):
                return self._attach(entry, only)
        return None

    def _attach(self, entry: Entry, only: dict[str, object] | None = None) -> Server:
        name = entry.record.name if entry.record else ""
        existing = self._registry.named(name)
        if existing and not existing.state.over:
            raise NameInUse(f"A server of this kernel is called {name}. Stop it first: %vllm stop {name}")
        owner = kept_servers.take(entry, only)
        try:
            server = self._adopt(entry, owner, existing)
        except BaseException:  # without this connection the server waits for a kernel again
            owner.guards.hang_up()
            raise
        try:
            server.begin()
        except StartFailed:
            owner.guards.hang_up()
            raise
        self._sampler.follow(server)
        return server

    def _adopt(self, entry: Entry, owner: kept_servers.Owner, existing: Server | None) -> Server:
        spec, built = owner.spec, owner.command
        beginning = Attached(entry, owner.guards, spec, built, self._probe)
        server = Server(spec, built, beginning, self._news.put, self._heard)
        if not self._registry.enter(server, existing):
            raise NameInUse(f"Another server of this kernel has just been called {spec.name}.")
        return server

    def _heard(self, server: Server) -> None:
        """Something changed in this server's life; in the thread that changed it."""
        self._sampler.heard(server)
        if server.state is ServerState.READY and server.cast is not None:
            self._last = server.spec
            self._spares.want(server.cast)

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

    def _stop(self, server: Server, grace: float | None = None, drain: float = 0.0) -> Release:
        try:
            return server.stop(grace, drain)
        finally:
            self._registry.forget(server)


manager = Manager()
atexit.register(manager.let_go)


def _in_use(existing: Server, spec: ServerSpec) -> str:
    return (
        f"{spec.name} {'is starting' if existing.state is ServerState.STARTING else 'runs'} already, with other options "
        f"({existing.model} {' '.join(mask_words(existing.spec.args))}".rstrip()
        + f"). Stop it first (%vllm stop {spec.name}), or give this one another name (--name NAME)."
    )
