"""The witness of a server that another kernel started, from what its record tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.linux.processes import Identity
from vllm_magic.provisioning import serialization
from vllm_magic.release.verifier import Witness

if TYPE_CHECKING:
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.record import Record
    from vllm_magic.provisioning.ray_verifier import FarWitness


def of(record: Record, mark: bytes, probe: Probe, *, silence: float) -> Witness | FarWitness:
    """A witness for a release that is about to begin.

    Args:
        record: the server's.
        mark: in the environment of each of its processes.
        probe: looks at the GPUs of this machine.
        silence: seconds for which a Ray cluster may not answer.

    Raises:
        InvalidOption: a variable of this environment has no sensible value for the times of a cluster.
    """
    if record.job:
        from vllm_magic.provisioning.ray_verifier import FarWitness

        return FarWitness(record.cluster, record.job, silence=silence, waits=True)
    baseline = serialization.unpack_gpus(record.baseline)
    return Witness(probe, baseline, record.gpus if record.chosen else (), mark, Identity(*record.kernel))
