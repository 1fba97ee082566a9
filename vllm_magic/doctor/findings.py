"""What the doctor says: facts, and findings with the command that deals with each.

All of it is plain data. `Report.data` is what ``vllm-magic doctor --json`` prints, with the names of the
fields here: times in seconds (``since`` and ``kept_until`` since the epoch), memory in bytes, null for what is not known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_magic.children.installed import Installed
    from vllm_magic.doctor.gpus import Use


class Topic(str, Enum):
    """What a finding is about."""

    GUARDS = "guards"  # of a server of ours: they are stopped, or do not answer
    ORPHAN = "orphan"  # a server of ours without kernel and guards
    UNOWNED = "unowned"  # processes of vLLM that nobody owns
    LEFT = "left"  # files of a server of which nothing lives
    RECORD = "record"  # a record that cannot be read
    PORT = "port"  # a server's port is somebody else's, or nobody's
    FOLDER = "folder"  # the state folder, or that of the locks
    PROC = "proc"  # it is of another PID namespace
    DRIVER = "driver"
    VLLM = "vllm"


@dataclass(frozen=True)
class Finding:
    """Something that wants doing: what it is, in one or two sentences, and a command line that deals with it."""

    topic: Topic
    what: str
    command: str


@dataclass(frozen=True)
class Listening:
    """Who listens on a port; ``pid`` is None, and ``who`` empty, where that may not be seen."""

    port: int
    pid: int | None
    who: str
    user: str


@dataclass(frozen=True)
class Seen:
    """A server in the ledger.

    Attributes:
        id: the name of its private folder.
        condition: a value of `ledger.Condition`.
        phase: a value of `guard.record.Phase`, as its guard wrote it last.
        since: when it was started.
        kept_until: when the guards end it, if no kernel comes; None unless it is kept.
        kernel: the pid of its kernel.
        kernel_lives: whether that process lives.
        pids: its living processes.
        stopped: the pids of its guards, where all that live are stopped by a signal or a debugger; else none.
        bytes: of GPU memory that they hold; None where the driver does not say.
        memory: bytes of the machine's memory that a spare takes; None for a server.
        cluster: the address of the Ray cluster that it runs on; "" for this machine.
        job: the id of its job there.
    """

    name: str
    id: str
    folder: str
    model: str
    condition: str
    phase: str
    url: str
    port: int
    since: float
    kept_until: float | None
    kernel: int
    kernel_lives: bool
    pids: tuple[int, ...]
    bytes: int | None
    listening: tuple[Listening, ...]
    memory: int | None = None
    stopped: tuple[int, ...] = ()
    cluster: str = ""
    job: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """A tree of vLLM's processes that is none of ours.

    Attributes:
        owner: a value of `unowned.Owner`.
        above: who started it; "" where that is gone or cannot be seen.
        age: of the topmost process, in seconds.
        group: its process group.
        ours: whether it carries the mark of vllm_magic's servers; its record is lost, or it would be among these.
    """

    pid: int
    title: str
    user: str
    owner: str
    above: str
    age: float
    group: int
    pids: tuple[int, ...]
    bytes: int | None
    ours: bool


@dataclass(frozen=True)
class Releasing:
    """A GPU on which a release is under way, and the pids that have it so, as far as they can be seen."""

    uuid: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """All that the doctor found.

    Attributes:
        version: of vllm_magic.
        findings: what wants doing; none on a healthy machine.
        vllm: the vLLM that a start would run.
        driver: version of the NVIDIA driver; None where it does not answer.
        gpus: who holds how much of which.
        servers: those in the ledger, without torn records.
        elsewhere: other processes of vLLM.
        releases: under way now.
        default_port: who listens on 8000, where vLLM does unless it is told otherwise.
        unseen: what cannot be seen, and why.
    """

    version: str
    findings: tuple[Finding, ...]
    vllm: Installed
    driver: str | None
    gpus: tuple[Use, ...]
    servers: tuple[Seen, ...]
    elsewhere: tuple[Elsewhere, ...]
    releases: tuple[Releasing, ...]
    default_port: tuple[Listening, ...]
    unseen: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing wants doing."""
        return not self.findings

    def data(self) -> dict[str, Any]:
        """The report as what JSON knows."""
        return {"healthy": self.healthy, **asdict(self)}
