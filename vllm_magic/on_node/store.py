"""The values that the head stores for a job, as the job reads them: its request, and the lease that its agent renews."""

from __future__ import annotations

import contextlib
import os
import time

from vllm_magic.cluster import wire

LEASE_INTERVAL = 1.0  # seconds between checks of the lease


class Store:
    """The head's values, read with Ray's own protocol: the head deletes a value some time after a read over HTTP."""

    def __init__(self) -> None:
        from ray._raylet import GcsClient  # type: ignore[import-not-found]  # Ray has no public client for this

        self._gcs = GcsClient(address=os.environ["RAY_ADDRESS"])

    def read(self, name: str) -> bytes | None:
        """Return the value of this name; None if there is none, or the head does not answer."""
        try:
            value: bytes | None = self._gcs.internal_kv_get(self._key(name), None, timeout=LEASE_INTERVAL)
        except Exception:  # noqa: BLE001 - which errors Ray raises here has changed between versions
            return None
        return value

    def remove(self, name: str) -> None:
        """Remove the value of this name."""
        with contextlib.suppress(Exception):  # the agent empties the value too
            self._gcs.internal_kv_del(self._key(name), False, None, timeout=LEASE_INTERVAL)

    @staticmethod
    def _key(name: str) -> bytes:
        return f"{wire.SCHEME}{name}".encode()


class Lease:
    """The lease of a job. It is over when its value has not changed for ``seconds``."""

    def __init__(self, store: Store, job: str, seconds: float) -> None:
        self._store = store
        self._name = wire.lease(job)
        self._seconds = seconds
        self._value: bytes | None = None
        self._changed = self._looked = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the lease is over. Reads the value again if `LEASE_INTERVAL` seconds have passed since the last time."""
        now = time.monotonic()
        if now >= self._looked + LEASE_INTERVAL:
            value = self._store.read(self._name)
            now = self._looked = time.monotonic()
            if value is not None and value != self._value:
                self._value, self._changed = value, now
        return now > self._changed + self._seconds
