"""Which provisioner makes a server, and which standby may become it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine import executable
from vllm_magic.provisioning.from_standby import StandbyProvisioner
from vllm_magic.provisioning.local import LocalProvisioner
from vllm_magic.provisioning.standby import StandbySpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.provisioning.base import Provisioner
    from vllm_magic.provisioning.standby_pool import StandbyPool


def provisioner(spec: ServerSpec, environ: Mapping[str, str], probe: Probe, pool: StandbyPool) -> Provisioner:
    """Return what starts this server.

    Args:
        spec: what to serve.
        environ: the kernel's environment.
        probe: reads the GPUs.
        pool: may have a standby that becomes the server.

    Raises:
        VllmMagicError: the words do not fit, there is no vLLM, or the port is taken.
    """
    if spec.cluster:
        from vllm_magic.provisioning.ray import (
            RayProvisioner,  # its client of Ray is loaded only where it is wanted
        )

        return RayProvisioner(spec, environ, probe)
    return StandbyProvisioner(LocalProvisioner(spec, environ, probe), pool)


def standby(spec: ServerSpec, environ: Mapping[str, str]) -> StandbySpec | None:
    """Return what a standby for this start has to import; None if no standby can become such a server.

    Raises:
        ExecutableNotFound: there is no vLLM.
    """
    return None if spec.cluster else StandbySpec.of(spec, executable.find(spec.executable), environ)
