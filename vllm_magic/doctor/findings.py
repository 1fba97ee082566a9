"""The doctor's report: facts, and findings with the command that fixes each.

All of it is plain data. ``vllm-magic doctor --json`` prints `Report.data`, with the names of the fields here: times
in seconds (``since`` and ``kept_until`` since the epoch), memory in bytes, null for what is not known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_magic.children.installed import Installed
    from vllm_magic.doctor.gpus import GpuUse


class Topic(str, Enum):
    """The subject of a finding."""

    GUARDS = "guards"  # the guards of a server of ours are stopped, or do not answer
    ORPHAN = "orphan"  # a server of ours has no kernel and no guards
    COMMAND = "command"  # a benchmark or a download of ours outlives its kernel
    UNOWNED = "unowned"  # there are vLLM processes that nobody owns
    LEFT = "left"  # a server has ended and left files
    RECORD = "record"  # a record cannot be read
    PORT = "port"  # another process listens on a server's port, or none does
    FOLDER = "folder"  # the state folder, or the folder of the locks, cannot be used
    PROC = "proc"  # /proc is of another PID namespace
    DRIVER = "driver"
    VLLM = "vllm"
    LIMIT = "limit"  # a limit of this machine is too low for any server, or for servers on several GPUs


@dataclass(frozen=True)
class Finding:
    """A thing to do: what is wrong, in one or two sentences, and a command line that fixes it."""

    topic: Topic
    what: str
    command: str


@dataclass(frozen=True)
class ReportedListener:
    """A process that listens on a port; ``pid`` is None, and ``who`` is empty, where the process may not be seen."""

    port: int
    pid: int | None
    who: str
    user: str


@dataclass(frozen=True)
class ReportedServer:
    """A server in the ledger.

    Attributes:
        id: the name of the server's private folder.
        condition: a value of `ledger.Condition`.
        phase: a value of `guard.record.Phase`, as the guard wrote it last.
        since: the time of the start, in seconds since the epoch.
        kept_until: the time when the guards end the server if no kernel attaches it; None unless it is kept.
        kernel: the pid of the server's kernel.
        kernel_lives: whether the kernel lives.
        pids: the pids of the server's living processes.
        stopped: the pids of its guards, if a signal or a debugger has stopped all that live; else none.
        bytes: the bytes of GPU memory that the processes hold; None where the driver does not say.
        memory: the bytes of the machine's memory that a spare takes; None for a server.
        cluster: the address of the Ray cluster that the server runs on; "" for this machine.
        job: the id of the server's job on the cluster.
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
    listening: tuple[ReportedListener, ...]
    memory: int | None = None
    stopped: tuple[int, ...] = ()
    cluster: str = ""
    job: str = ""


@dataclass(frozen=True)
class ReportedTree:
    """A tree of vLLM processes that belongs to no server in the ledger.

    Attributes:
        owner: a value of `unowned.Owner`.
        above: the process that started the tree; "" where that process is gone or cannot be seen.
        age: the age of the topmost process, in seconds.
        group: the process group of the topmost process.
        ours: whether the tree carries the mark of vllm_magic's servers, so that it is a server whose record is lost.
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
class ReportedRelease:
    """A GPU on which a release is under way, and the pids that hold its lock, as far as they can be seen."""

    uuid: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
        version: the version of vllm_magic.
        findings: the things to do; none on a healthy machine.
        vllm: the vLLM that a start would run.
        vllm_notes: problems of this vLLM that no command fixes.
        driver: the version of the NVIDIA driver; None where it does not answer.
        gpus: the GPUs, with the holders of their memory.
        servers: the servers in the ledger, except those with a torn record.
        elsewhere: the other vLLM processes.
        releases: the releases that are under way.
        default_port: the processes that listen on port 8000, which vLLM takes by default.
        unseen: what cannot be seen, and why.
        state_folder: the path of the state folder; "" if it is not known.
    """

    version: str
    findings: tuple[Finding, ...]
    vllm: Installed
    vllm_notes: tuple[str, ...]
    driver: str | None
    gpus: tuple[GpuUse, ...]
    servers: tuple[ReportedServer, ...]
    elsewhere: tuple[ReportedTree, ...]
    releases: tuple[ReportedRelease, ...]
    default_port: tuple[ReportedListener, ...]
    unseen: tuple[str, ...]
    state_folder: str

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to do."""
        return not self.findings

    def data(self) -> dict[str, Any]:
        """Return the report as values that JSON has."""
        return {"healthy": self.healthy, **asdict(self)}
