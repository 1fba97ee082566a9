"""Read the GPUs in a thread, for callers that must not wait for the driver."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe

# Seconds for an answer of a running probe process. A driver that takes longer is not necessarily hanging.
DRIVER_LIMIT = 0.8
START_LIMIT = 15.0  # seconds for an answer of a probe process that has to be started first
# Seconds after a start of the probe process until it may be started again, if it has ended.
RESTART_INTERVAL = 10.0


class BackgroundProbe:
    """Reads the GPUs in a thread of its own, which starts with the first request. For one calling thread.

    Args:
        probe: reads the GPUs.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._requests: queue.SimpleQueue[Future[Snapshot] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vllm-magic sampler: GPUs", daemon=True)
        self._closed = False
        self._next_start = 0.0  # by `time.monotonic`

    def request(self) -> Future[Snapshot]:
        """Request a snapshot; requests are answered one after the other.

        Raises:
            RuntimeError: this process cannot start a thread.
        """
        if not self._thread.is_alive():
            self._thread.start()
        answer: Future[Snapshot] = Future()
        self._requests.put(answer)
        return answer

    def close(self, limit: float) -> None:
        """End the thread, and wait at most `limit` seconds for it. Close the probe first: that ends a request under way."""
        self._closed = True
        self._requests.put(None)
        if self._thread.is_alive():
            self._thread.join(limit)

    def _run(self) -> None:
        while answer := self._requests.get():
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(self._read())
            except BaseException as error:  # noqa: BLE001 - the caller gets the error from the future
                answer.set_exception(error)

    def _read(self) -> Snapshot:
        now = time.monotonic()
        if self._probe.is_warm or now < self._next_start or self._closed:
            return self._probe.snapshot(DRIVER_LIMIT, may_start=False)
        self._next_start = now + RESTART_INTERVAL
        return self._probe.snapshot(START_LIMIT)
