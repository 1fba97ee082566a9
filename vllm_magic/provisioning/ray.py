"""A server that is started on a Ray cluster, as a job."""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import background
from vllm_magic.children import installed
from vllm_magic.cluster import placement, wire
from vllm_magic.cluster.messages import JobSpec
from vllm_magic.cluster.rest import Ray, resolved, shown
from vllm_magic.engine import command as commands
from vllm_magic.engine.address import LOOPBACK
from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.flags import flags
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.errors import InvalidOption
from vllm_magic.provisioning.base import Launched, Provisioner
from vllm_magic.provisioning.launch import GpuSelection, Preparation, start_guards
from vllm_magic.release.ray_verifier import NOWHERE, RayVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.cluster.placement import Placement
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.ledger import Folder
    from vllm_magic.linux.eventfd import Cancellation

TRIED = ["2", "60"]  # the version of Ray that the tests use
STOP_GRACE = 120.0  # seconds for the agent to wait for the end of its job
AGENT = Path(wire.__file__).with_name("agent.py")
EXECUTOR = "--distributed-executor-backend"
RANKS = ("--data-parallel-size", "-dp")
RANKS_BY = ("--data-parallel-backend", "-dpb")
# Variables of the kernel's environment that a server on another machine gets too.
PASSED = ("HF_TOKEN", "HF_ENDPOINT")


def build(spec: ServerSpec) -> tuple[Command, JobSpec]:
    """Return the agent's command, with a free port and a key, and the job spec that the agent reads.

    Args:
        spec: the server; its ``cluster`` is set.

    Raises:
        InvalidOption: an option cannot be used on a cluster, or the address is not valid.
        StartFailed: the port is taken.
    """
    assert spec.cluster is not None  # noqa: S101 - see `RayProvisioner`
    for flag in ("--host", "--uds", "--headless", "--ssl-certfile", commands.SLEEP):
        if flags.has(spec.all_args, flag):
            raise InvalidOption(f"{flag} cannot be used with --cluster. Leave it out.")
    if spec.keep or spec.gpus is not None:
        raise InvalidOption(
            f"{'--keep' if spec.keep else '--gpus'} cannot be used with --cluster. Leave it out."
        )
    _, own = flags.pop(spec.args, "--config")  # the file is on this machine, so its flags are passed instead
    port_text, args = flags.pop((*(spec.in_file or ()), *own), "--port")
    port = commands.choose_port(spec, port_text, LOOPBACK)
    env = dict(spec.env)
    job_spec = JobSpec(
        address=resolved(spec.cluster),
        job=wire.job_id(spec.name),
        name=spec.name,
        model=spec.model,
        args=args,
        executable=spec.executable,
        env=("VLLM_API_KEY", *PASSED, *sorted(set(env) - {"VLLM_API_KEY", *PASSED})),
        port=port,
        gpus=0 if _is_spread(spec) else commands.gpu_count(spec.all_args),
        force=spec.force,
    )
    made = Command(
        argv=(sys.executable or "", str(AGENT), job_spec.job),
        endpoint=Endpoint(LOOPBACK, port, env.get("VLLM_API_KEY") or secrets.token_urlsafe(24)),
        cluster=shown(spec.cluster),
        job=job_spec.job,
    )
    return made, job_spec


def _is_spread(spec: ServerSpec) -> bool:
    """Whether vLLM itself requests the GPUs from Ray, so that the engine may use several nodes.

    Raises:
        InvalidOption: the release of such a server could not be proved.
    """
    if flags.value(spec.all_args, *RANKS_BY) == "ray":
        return True
    if flags.value(spec.all_args, EXECUTOR) != "ray":
        return False
    if (flags.value(spec.all_args, *RANKS) or "1") != "1":
        # Each rank would be a driver of its own, and Ray reports only the last driver of a job (2.60).
        raise InvalidOption(
            f"{EXECUTOR} ray with {RANKS[0]} needs {RANKS_BY[0]} ray too: without it the release cannot be proved."
        )
    return True


class RayProvisioner(Provisioner):
    """Starts a server on a node of a Ray cluster, by a Ray job.

    Args:
        spec: the server; its ``cluster`` is set.
        environ: the kernel's environment.
        probe: reads the GPUs.

    Raises:
        InvalidOption: an option cannot be used on a cluster, or the address is not valid.
        StartFailed: the port is taken.
    """

    stop_grace = stop_patience = STOP_GRACE  # the guards on the node use their own times
    # After the kernel's end, the agent has half a second. If the kernel had asked for the release before, the kernel's end
    # would count as a second request, and the agent would be killed at once.
    stops_at_exit = False

    def __init__(self, spec: ServerSpec, environ: Mapping[str, str], probe: Probe) -> None:
        self.command, self._job_spec = build(spec)
        self._settings = {name: value for name, value in environ.items() if name.startswith(commands.OWN)}
        self._preparation = Preparation(spec, self.command, (STOP_GRACE, STOP_GRACE), environ, probe)

    def launch(self, cancelled: Cancellation, news: Callable[[str], None]) -> Launched | None:
        """See `Provisioner.launch`. The process that is launched on this machine is the agent."""
        # A wrong address is reported at once.
        version = background.call_unless(cancelled.event.wait, Ray(self._job_spec.address).version)
        if version is None:
            return None
        if version.split(".")[:2] != TRIED:
            news(f"This cluster runs Ray {version}; vllm_magic was tested with {'.'.join(TRIED)}.")
        if cancelled.event.is_set():
            return None
        job_spec = replace(self._job_spec, vllm=installed.find().version or "")
        prepared, request = self._preparation.prepare(GpuSelection(NOWHERE, ()))
        request = request._replace(env={**self._settings, **request.env, wire.JOB_SPEC: job_spec.packed()})
        guards = start_guards(request)
        verifier = RayVerifier(job_spec.address, job_spec.job, spread=job_spec.gpus == 0)
        return Launched(replace(prepared, verifier=verifier, first=Stage.QUEUED), guards)

    def placement(self, folder: Folder) -> Placement:
        """See `Provisioner.placement`. The agent has written the placement to a file."""
        return placement.read(folder.tmp)
