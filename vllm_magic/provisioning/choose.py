"""Choose the provisioner of a server, and the spec of a standby that may become it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine import executable
from vllm_magic.engine.start_checks import checks
from vllm_magic.provisioning.from_standby import StandbyProvisioner
from vllm_magic.provisioning.local import LocalProvisioner
from vllm_magic.provisioning.standby import StandbySpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.provisioning.base import Provisioner
    from vllm_magic.provisioning.standby_pool import StandbyPool


def provisioner(spec: ServerSpec, environ: Mapping[str, str], probe: Probe, pool: StandbyPool) -> Provisioner:
    """Return the provisioner of a server.

    Args:
        spec: the server.
        environ: the kernel's environment.
        probe: reads the GPUs.
        pool: the pool of standbys.

    Raises:
        VllmMagicError: an option is not valid, vLLM is not found, or the port is taken.
    """
    if spec.cluster:
        # This is the only place that chooses by the kind. Only servers on a cluster need the client for Ray.
        from vllm_magic.provisioning.ray import RayProvisioner

        return RayProvisioner(spec, environ, probe)
    return StandbyProvisioner(LocalProvisioner(spec, environ, probe), pool)


def check(
    spec: ServerSpec, environ: Mapping[str, str], snapshot: Snapshot, freed_ports: Collection[int] = ()
) -> None:
    """Refuse a start that cannot succeed; see `start_checks`. A cluster has another vLLM and other files than this machine.

    Args:
        spec: the server.
        environ: the kernel's environment.
        snapshot: the GPUs as they are now.
        freed_ports: ports that are in use now, and free when the server starts.

    Raises:
        InvalidOption: vLLM would refuse a flag or its value.
        StartFailed: the model or the machine lacks something that the start needs.
        ExecutableNotFound: vLLM is not found.
    """
    if not spec.cluster:
        checks.check(spec, environ, executable.find(spec.executable), snapshot, freed_ports)


def standby(spec: ServerSpec, environ: Mapping[str, str]) -> StandbySpec | None:
    """Return the spec of a standby for this start; None if no standby can become such a server.

    Raises:
        ExecutableNotFound: vLLM is not found.
    """
    return None if spec.cluster else StandbySpec.of(spec, executable.find(spec.executable), environ)
