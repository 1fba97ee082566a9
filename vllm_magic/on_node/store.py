"""What the head keeps for a job, as the job reads it: its order, and the lease that its agent renews."""

from __future__ import annotations

import contextlib
import os
import time

from vllm_magic.cluster import wire

LEASE_LOOK = 1.0  # seconds between looks at the lease


class Store:
    """Values that the head keeps, read by way of Ray's own protocol: over HTTP, reading one would delete it later."""

    def __init__(self) -> None:
        from ray._raylet import GcsClient  # type: ignore[import-not-found]  # there is no public one

        self._gcs = GcsClient(address=os.environ["RAY_ADDRESS"])

    def read(self, name: str) -> bytes | None:
        """The value; None where there is none, or the head does not answer."""
        try:
            value: bytes | None = self._gcs.internal_kv_get(self._key(name), None, timeout=LEASE_LOOK)
        except Exception:  # noqa: BLE001 - Ray's errors for it have changed between versions
            return None
        return value

    def remove(self, name: str) -> None:
        """Remove a value."""
        with contextlib.suppress(Exception):  # the agent empties it as well
            self._gcs.internal_kv_del(self._key(name), False, None, timeout=LEASE_LOOK)

    @staticmethod
    def _key(name: str) -> bytes:
        return f"{wire.SCHEME}{name}".encode()


class Lease:
    """Is over when its value has not changed for so many seconds."""

    def __init__(self, store: Store, job: str, seconds: float) -> None:
        self._store = store
        self._name = wire.lease(job)
        self._seconds = seconds
        self._value: bytes | None = None
        self._changed = self._looked = time.monotonic()

    @property
    def over(self) -> bool:
        """Look, where the last look is long enough ago."""
        now = time.monotonic()
        if now >= self._looked + LEASE_LOOK:
            value = self._store.read(self._name)
            now = self._looked = time.monotonic()
            if value is not None and value != self._value:
                self._value, self._changed = value, now
        return now > self._changed + self._seconds
