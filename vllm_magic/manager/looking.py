"""What can be asked of a kernel's servers, and of its GPUs, without a change in which servers run."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

from vllm_magic.errors import VllmMagicError
from vllm_magic.gpu.probe import Probe
from vllm_magic.manager.registry import Registry
from vllm_magic.monitoring.sampler import Sampler
from vllm_magic.provisioning.standby_pool import StandbyPool
from vllm_magic.recovery import kept_servers
from vllm_magic.recovery.sweep import sweep
from vllm_magic.server.server import run_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.capacity.fit import Fit
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.monitoring.early_warning import EarlyWarning
    from vllm_magic.server.server import Server


class Looking:
    """The part of a `manager.Manager` that changes nothing. Safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._tell_waiting = threading.Event()
        self._probe = Probe()
        self._sampler = Sampler(self._probe)
        self._spares = StandbyPool()
        self._pid = os.getpid()

    def servers(self) -> dict[str, Server]:
        """See `Registry.servers`."""
        self._check_process()
        return self._registry.servers()

    def past(self) -> dict[str, Server]:
        """See `Registry.past`."""
        return self._registry.past()

    def get(self, name: str | None = None) -> Server:
        """See `Registry.get`."""
        self._check_process()
        return self._registry.get(name)

    def get_even_past(self, name: str | None = None) -> Server:
        """See `Registry.get_even_past`."""
        self._check_process()
        return self._registry.get_even_past(name)

    def sweep(self) -> None:
        """Release what dead kernels left, and have `news` tell of it; for a thread of its own."""
        try:
            for swept in sweep(self._probe, far=False):
                self._news.put(swept.text)
            self._tell_waiting.set()
            for swept in sweep(self._probe):  # what is left on a cluster, which may take its time
                self._news.put(swept.text)
        except OSError as error:
            self._news.put(f"The state folder cannot be used: {error}. %vllm doctor tells more.")

    def news(self) -> list[str]:
        """What happened without anyone's asking since the last call, a line each."""
        lines = []
        while not self._news.empty():
            lines.append(self._news.get())
        lines += self._registry.unreported_failures()
        if self._tell_waiting.is_set():
            self._tell_waiting.clear()
            lines += self.waiting()  # as it is now: one may be attached already
        return lines

    def idle_releases(self) -> list[str]:
        """See `Registry.idle_releases`."""
        return self._registry.idle_releases()

    def waiting(self) -> list[str]:
        """Of each server that was kept and waits for a kernel: one line; none where the state folder cannot be read."""
        own = [run_of(server).id for server in self._registry.all() if not server.state.over]
        return kept_servers.lines(but=own)

    @property
    def probe(self) -> Probe:
        """What looks at the GPUs."""
        return self._probe

    def gpus(self) -> Snapshot:
        """The GPUs as they are now."""
        return self._probe.snapshot()

    def recent_gpus(self) -> Snapshot:
        """The GPUs as the sampler has just seen them; where it has not, as they are now."""
        return self._sampler.fresh or self._probe.snapshot()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Sampler.watch`."""
        self._check_process()
        return self._sampler.watch(callback)

    @property
    def latest(self) -> Snapshot | None:
        """The GPUs as the sampler saw them last; None before it did."""
        return self._sampler.latest

    @property
    def attribution(self) -> Mapping[int, str]:
        """Of the processes that the driver lists those of this kernel's servers: pid, and the server's name."""
        return self._sampler.attribution

    def fit(self, spec: ServerSpec) -> Fit:
        """Judge whether a server would fit on the GPUs as they are now; nothing is started.

        Raises:
            InvalidOption: a flag has a value that vLLM refuses, or --gpus names what is not there.
            NoEstimate: the model is not known, or not of a kind that is known here.
        """
        from vllm_magic.engine.capacity.fit import fit

        return fit(spec, os.environ, self.gpus())

    @property
    def spares(self) -> StandbyPool:
        """What has imported vLLM ahead of the next start."""
        return self._spares

    def warn_early(self, spec: ServerSpec) -> EarlyWarning:
        """Begin to look whether the start of this server will fail for want of memory."""
        from vllm_magic.monitoring.early_warning import EarlyWarning

        return EarlyWarning(spec, self._probe)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise VllmMagicError(
                "This is a forked process; the servers belong to the kernel it came from. Use them there."
            )
