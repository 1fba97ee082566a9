"""The verifier of a server that another kernel started, made from its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.linux.processes import Identity
from vllm_magic.release import gpu_json
from vllm_magic.release.local_verifier import LocalVerifier

if TYPE_CHECKING:
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.record import Record
    from vllm_magic.release.verifier import Verifier


def verifier(record: Record, mark: bytes, probe: Probe, *, silence: float) -> Verifier:
    """Return a verifier for a release that is about to begin.

    Args:
        record: the record of the server.
        mark: ``b"NAME=value"`` in the environment of each of the server's processes.
        probe: reads the GPUs of this machine.
        silence: the seconds for which a Ray cluster may fail to answer.

    Raises:
        InvalidOption: a variable of this environment has no sensible value for the times of a cluster.
    """
    if record.job:  # the only place that chooses a verifier by the kind of a server
        from vllm_magic.release.ray_verifier import RayVerifier

        return RayVerifier(record.cluster, record.job, silence=silence, waits_for_cleanup=True)
    baseline = gpu_json.unpack(record.baseline)
    return LocalVerifier(
        probe, baseline, record.gpus if record.chosen else (), mark, Identity(*record.kernel)
    )
