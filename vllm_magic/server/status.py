"""The status of a server at one moment, for all code that shows servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.guard.protocol import Why
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.engine.startup.estimate import Estimate
    from vllm_magic.engine.startup.stages import Progress, Stage
    from vllm_magic.errors import VllmMagicError
    from vllm_magic.lifecycle.status import ServerState
    from vllm_magic.linux.processes import Identity
    from vllm_magic.provisioning.base import StartKind
    from vllm_magic.release.result import Release


@dataclass(frozen=True)
class ServerStatus(Viewable):
    """What is known of a server at one moment. It does not change; ``server.status`` returns a new one each time.

    Attributes:
        spec: the spec with which the server was started.
        id: the name of its private folder, which ``vllm-magic ps`` shows; "" before the folder exists.
        state: the state, such as starting or ready.
        asleep: the level of vLLM's sleep mode at which it sleeps; 0 while it is awake.
        can_sleep: whether it was started with ``--enable-sleep-mode``.
        url: ``http://127.0.0.1:PORT``.
        exposed: whether other machines can reach it.
        leader: its first process, alive or not; None before that process runs.
        log_path: the log file, which outlives the server; None before the file exists.
        progress: the stage of the start.
        estimate: the share of the start's time that has passed, and the time left.
        stages: the seconds of each stage of the start so far, without the wait for the GPU; {} after a download.
        seconds: seconds since the request of the start.
        ready_after: seconds from the request of the start until the server was ready; None before that.
        times: when it entered each of its states, in seconds since the epoch.
        start_kind: whether vLLM was executed ("cold"), a spare became the server ("warm"), or it was attached; None before its
            first process runs.
        cold_because: why no spare became the server; "" if one did.
        job: the submission id of its job on a Ray cluster; "" for a server of this machine.
        nodes: the addresses of the nodes of a Ray cluster on which it runs; () while its job waits for a node, and for a server
            of this machine.
        reachable: whether its cluster answers; True for a server of this machine.
        caveat: a problem of the running server: its node has another vLLM, or its engine has died; "" for none.
        release: the result of its end; None before that.
        error: why it failed; None if it did not fail.
        restarted: a sentence that says where the later server of this name and model is; "" if none starts or runs.
    """

    spec: ServerSpec
    id: str
    state: ServerState
    asleep: int
    can_sleep: bool
    url: str
    exposed: bool
    leader: Identity | None
    log_path: Path | None
    progress: Progress
    estimate: Estimate
    stages: Mapping[Stage, float]
    seconds: float
    ready_after: float | None
    times: Mapping[ServerState, float]
    start_kind: StartKind | None
    cold_because: str
    job: str
    nodes: tuple[str, ...]
    reachable: bool
    caveat: str
    release: Release | None
    error: VllmMagicError | None
    restarted: str

    @property
    def name(self) -> str:
        """Its name in this kernel."""
        return self.spec.name

    @property
    def model(self) -> str:
        """A Hugging Face name, or a folder."""
        return self.spec.model

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client."""
        return f"{self.url}/v1"

    @property
    def pid(self) -> int | None:
        """The pid of the server's first process; None before that process runs."""
        return self.leader.pid if self.leader else None

    @property
    def state_text(self) -> str:
        """Its state in words, with the stage of a start and the level of a sleep."""
        if self.state.value == "starting":
            return f"starting: {self.progress.stage.value}"
        if self.asleep and self.state.value == "ready":
            return f"asleep (level {self.asleep})"
        return self.idle_release or self.state.value

    def view(self) -> View:
        """Return the model, the addresses, where the server is that was started again, and the error of a failed server."""
        rows = (
            ("model", self.model),
            ("URL", self.base_url),
            ("pid", str(self.pid or "")),
            ("log", str(self.log_path or "")),
        )
        notes = (self.restarted, str(self.error or ""))
        return View(
            f"{self.name}: {self.state_text}",
            ("", ""),
            tuple(row for row in rows if row[1]),
            tuple(filter(None, notes)),
        )

    @property
    def is_left(self) -> bool:
        """Whether its release is over, and SIGKILL did not end all of its processes."""
        return self.state.over and self.release is not None and bool(self.release.left)

    @property
    def idle_release(self) -> str:
        """Text for an end by ``--ttl``: "released after 30 min without a request"; "" if it runs, or ended for another reason."""
        return idle_release(self.spec, self.release)


def idle_release(spec: ServerSpec, release: Release | None) -> str:
    """Return text for the release of an idle server; "" if the server ended for another reason, or the release is not proved."""
    if release is None or not release.verified or release.why != Why.IDLE.value:
        return ""
    return f"released after {durations.exact_text(spec.ttl or 0.0)} without a request"
