"""A server on a Ray cluster: how its life begins here, and how its end is proved there."""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.cluster import agent, ending, keys, package
from vllm_magic.cluster.order import Errand
from vllm_magic.cluster.rest import Ray, resolved
from vllm_magic.engine import command as commands
from vllm_magic.engine import flags, free_port
from vllm_magic.engine.command import LOOPBACK, Command
from vllm_magic.engine.failures import Failure
from vllm_magic.engine.stages import Stage
from vllm_magic.errors import ClusterError, InvalidOption, StartFailed
from vllm_magic.gpu.devices import Snapshot
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.folder import discard
from vllm_magic.life.notices import News
from vllm_magic.life.preparation import Way, furnish
from vllm_magic.life.proof import Verdict
from vllm_magic.life.sweep import sweep
from vllm_magic.linux import processes
from vllm_magic.release import EndedProcess, GpuMemory, Proof

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from vllm_magic.cluster.rest import Node
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.client import Guards
    from vllm_magic.life.notices import Notice
    from vllm_magic.life.preparation import Prepared
    from vllm_magic.linux.processes import Identity

EXECUTOR = "--distributed-executor-backend"
NOWHERE = Snapshot(0.0, (), None, "the GPUs are on a Ray cluster")
END_LIMIT = 120.0  # seconds for a job to end
LOOK_LIMIT = 60.0  # seconds for a look at the node of a job whose own process was killed
LOOK = 0.25
# What a kernel's environment has that a server on another machine wants too.
PASSED = ("HF_TOKEN", "HF_ENDPOINT")


def build(spec: ServerSpec) -> tuple[Command, Errand]:
    """The agent of a spec with ``cluster``: its command, with a free port and a key of its own, and its errand.

    Raises:
        InvalidOption: a word cannot work there, or the address is none.
        StartFailed: the port is taken.
    """
    assert spec.cluster is not None  # noqa: S101 - the caller has looked
    for flag in ("--host", "--uds", "--headless", "--ssl-certfile"):
        if flags.has(spec.all_args, flag):
            raise InvalidOption(f"{flag} cannot be used with --cluster. Leave it out.")
    if spec.keep or spec.gpus is not None:
        raise InvalidOption(
            f"{'--keep' if spec.keep else '--gpus'} cannot be used with --cluster. Leave it out."
        )
    port_text, args = flags.take(spec.args, "--port")
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
        job=keys.job_id(spec.name),
        name=spec.name,
        model=spec.model,
        args=args,
        executable=spec.executable,
        env=("VLLM_API_KEY", *PASSED, *sorted(set(env) - {"VLLM_API_KEY", *PASSED})),
        port=port,
        gpus=0 if flags.value(spec.all_args, EXECUTOR) == "ray" else commands.gpu_count(spec.all_args),
    )
    made = Command(
        argv=(sys.executable, str(Path(agent.__file__)), errand.job),
        host=LOOPBACK,
        port=port,
        api_key=env.get("VLLM_API_KEY") or secrets.token_urlsafe(24),
    )
    return made, errand


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
        ray = Ray(self._errand.address)
        with contextlib.closing(ray):
            ray.version()  # a wrong address is said at once
        if cancelled.is_set():
            return None
        with contextlib.suppress(OSError):  # where the state folder cannot be used, `furnish` says so
            for swept in sweep(self._probe):
                notice(News(swept.text))
        prepared, order = furnish(self._spec, self._command, self._environ, self._probe, Way(NOWHERE, ()))
        order = order._replace(env={**order.env, keys.ERRAND: self._errand.packed()})
        try:
            guards = GuardPair(order)
        except OSError as error:
            discard(order.folder, order.tmp, order.log)
            raise StartFailed(
                f"The guards could not be started: {error.strerror}", "Free what is short"
            ) from error
        return replace(prepared, witness=FarWitness(self._errand), first=Stage.QUEUED), guards


class FarWitness:
    """Proves on the cluster that a job has left nothing. See `proof.Witness`; for one thread."""

    baseline = NOWHERE
    chosen: frozenset[str] = frozenset()

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self.failure: Failure | None = None

    def look_when_ready(self, members: Collection[Identity] = ()) -> None:
        """The node looks for itself."""

    def look_before_stop(self, members: Collection[Identity] = (), *, in_a_hurry: bool = True) -> None:
        """The node looks for itself."""

    def look_now(self) -> Snapshot:
        """There is nothing to see here."""
        return NOWHERE

    def prove(self, ended: Collection[Identity], leader: Identity | None = None) -> Verdict:
        """Wait for the job's end, and for what the node says of it; asks for that end where nobody has."""
        alive = sorted(one.pid for one in {*ended, *filter(None, [leader])} if processes.is_alive(one))
        if alive:
            return Verdict(Proof.NONE, False, (), f"still alive: pid {', '.join(map(str, alive))}")
        try:
            with contextlib.closing(Ray(self._errand.address)) as ray:
                return self._prove(ray)
        except ClusterError as error:
            return Verdict(
                Proof.NONE,
                False,
                (),
                f"{str(error).rstrip('.')}; what runs there ends itself {keys.LEASE:g} s after it last heard of this kernel",
            )

    def _prove(self, ray: Ray) -> Verdict:
        job = ending.wait(ray, self._errand.job, END_LIMIT)
        if not job.status.over:
            return Verdict(
                Proof.NONE, False, (), f"the job {job.id} is still {job.status.value} on the cluster"
            )
        if job.node is None:  # it never ran anywhere
            self.failure = Failure(f"Ray has not started it: {job.message}", "See %vllm cluster", ())
            return Verdict(Proof.PROCESSES, True, (), "it had not got a node")
        node = next((one for one in ray.nodes() if one.id == job.node), None)
        where = f"{node.name} ({node.ip})" if node else "a node that is gone"
        if node is None or not node.alive:
            return Verdict(
                Proof.NONE, False, (), f"{where} is gone from the cluster: what is left there cannot be seen"
            )
        log = ray.log(job.id)
        report = _said(log, keys.RELEASED)
        if refused := _said(log, keys.REFUSED):
            self.failure = Failure(f"{refused['cause'].rstrip('.')} (on {where})", refused["hint"], ())
        verdict = unpack(report["release"], where) if report is not None else self._look_at(ray, node, where)
        if left := ending.clear(ray, job):
            return verdict._replace(verified=False, note=f"Ray still has {left}")
        return verdict

    def _look_at(self, ray: Ray, node: Node, where: str) -> Verdict:
        """Of a job whose own process was killed: its guards release the server, and this waits for them."""
        look = f"{self._errand.job}-look"
        name, _ = package.packed()
        ray.submit(
            look,
            f"exec python3 -m vllm_magic.on_node --look {self._errand.job}",
            entrypoint_label_selector={"ray.io/node-id": node.id},
            runtime_env={"working_dir": f"{keys.SCHEME}{name}"},
        )
        pause, deadline = threading.Event(), time.monotonic() + LOOK_LIMIT
        while not ray.job(look).status.over and time.monotonic() < deadline:
            pause.wait(LOOK)
        found = _said(ray.log(look), keys.LOOKED)
        if found is None:
            return Verdict(Proof.NONE, False, (), f"{where} does not say what is left there")
        if found["left"] or found["folders"]:
            return Verdict(Proof.NONE, False, (), f"on {where} there is left: pid {found['left']}")
        return Verdict(Proof.PROCESSES, True, (), f"on {where}, whose own process was killed")


def unpack(release: Mapping[str, Any], where: str) -> Verdict:
    """What a node says of a release, as the verdict of it."""
    note = f"on {where}" + (f"; {release['note']}" if release["note"] else "")
    return Verdict(
        Proof(release["proof"]),
        bool(release["verified"]),
        tuple(GpuMemory(**one) for one in release["vram"]),
        note,
        tuple(EndedProcess(**one) for one in release["ended"]),
    )


def _said(log: str, what: str) -> Mapping[str, Any] | None:
    """The last of a job's own lines that says this."""
    found = [said for line in log.splitlines() if (said := keys.said(line)) and said["said"] == what]
    return found[-1] if found else None
