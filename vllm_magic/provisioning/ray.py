"""A server on a Ray cluster: how its life begins here."""

from __future__ import annotations

import contextlib
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import background
from vllm_magic.cluster import wire
from vllm_magic.cluster.messages import Errand
from vllm_magic.cluster.rest import Ray, resolved, shown
from vllm_magic.engine import command as commands
from vllm_magic.engine import free_port, installed
from vllm_magic.engine.address import LOOPBACK
from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.flags import flags
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.folder import discard
from vllm_magic.lifecycle.events import News
from vllm_magic.provisioning.launch import Way, check_proc, furnish
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release.ray_verifier import NOWHERE, RayVerifier

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.lifecycle.events import Notice
    from vllm_magic.provisioning.launch import Prepared

TRIED = ["2", "60"]
AGENT = Path(wire.__file__).with_name("agent.py")
EXECUTOR = "--distributed-executor-backend"
RANKS = ("--data-parallel-size", "-dp")
RANKS_BY = ("--data-parallel-backend", "-dpb")
# What a kernel's environment has that a server on another machine wants too.
PASSED = ("HF_TOKEN", "HF_ENDPOINT")


def build(spec: ServerSpec) -> tuple[Command, Errand]:
    """The agent of a spec with ``cluster``: its command, with a free port and a key of its own, and its errand.

    Raises:
        InvalidOption: a word cannot work there, or the address is none.
        StartFailed: the port is taken.
    """
    assert spec.cluster is not None  # noqa: S101 - the caller has looked
    for flag in ("--host", "--uds", "--headless", "--ssl-certfile", commands.SLEEP):
        if flags.has(spec.all_args, flag):
            raise InvalidOption(f"{flag} cannot be used with --cluster. Leave it out.")
    if spec.keep or spec.gpus is not None:
        raise InvalidOption(
            f"{'--keep' if spec.keep else '--gpus'} cannot be used with --cluster. Leave it out."
        )
    _, own = flags.take(spec.args, "--config")  # the file is here, and what it says goes along
    port_text, args = flags.take((*(spec.in_file or ()), *own), "--port")
    port = int(port_text) if port_text and flags.is_whole_number(port_text) else spec.port
    try:
        if port is None:
            port = free_port.choose(LOOPBACK)
        else:
            free_port.bind(LOOPBACK, port).close()
    except OSError as error:
        raise StartFailed(
            f"Port {port} cannot be used: {error.strerror}", "Leave --port out for a free one"
        ) from None
    env = dict(spec.env)
    errand = Errand(
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
        argv=(sys.executable, str(AGENT), errand.job),
        endpoint=Endpoint(LOOPBACK, port, env.get("VLLM_API_KEY") or secrets.token_urlsafe(24)),
        cluster=shown(spec.cluster),
        job=errand.job,
    )
    return made, errand


def _is_spread(spec: ServerSpec) -> bool:
    """Whether vLLM itself asks Ray for the GPUs, on whichever nodes.

    Raises:
        InvalidOption: the release of such a server could not be proved.
    """
    if flags.value(spec.all_args, *RANKS_BY) == "ray":
        return True
    if flags.value(spec.all_args, EXECUTOR) != "ray":
        return False
    if (flags.value(spec.all_args, *RANKS) or "1") != "1":
        # Each rank would be a driver of its own, and Ray tells of the last driver of a job alone (2.60).
        raise InvalidOption(
            f"{EXECUTOR} ray with {RANKS[0]} needs {RANKS_BY[0]} ray too: without it the release cannot be proved."
        )
    return True


class Far:
    """A start on a cluster; see `beginning.Fresh`."""

    cast = None  # no spare here can become it

    def __init__(
        self, spec: ServerSpec, command: Command, errand: Errand, environ: Mapping[str, str], probe: Probe
    ) -> None:
        self._spec = spec
        self._command = command
        self._environ = environ
        self._probe = probe
        self._errand = errand

    def __call__(
        self, cancelled: threading.Event, notice: Callable[[Notice], None], _: str = ""
    ) -> tuple[Prepared, Guards] | None:
        """Prepare the server, and start the guards of its agent. Arguments and errors as for `beginning.Fresh`."""
        check_proc()
        version = background.call_unless(
            cancelled, Ray(self._errand.address).version
        )  # a wrong address is said at once
        if version is None:
            return None
        if version.split(".")[:2] != TRIED:
            notice(News(f"This cluster runs Ray {version}; vllm_magic was tried with {'.'.join(TRIED)}."))
        if cancelled.is_set():
            return None
        with contextlib.suppress(OSError):  # where the state folder cannot be used, `furnish` says so
            for swept in sweep(self._probe, far=False):
                notice(News(swept.text))
        errand = replace(self._errand, vllm=installed.look().version or "")
        prepared, order = furnish(self._spec, self._command, self._environ, self._probe, Way(NOWHERE, ()))
        order = order._replace(env={**order.env, wire.ERRAND: errand.packed()})
        try:
            guards = GuardPair(order)
        except OSError as error:
            discard(order.folder, order.tmp, order.log)
            raise StartFailed(
                f"The guards could not be started: {error.strerror}", "Free what is short"
            ) from error
        verifier = RayVerifier(errand.address, errand.job, spread=errand.gpus == 0)
        return replace(prepared, verifier=verifier, first=Stage.QUEUED), guards
