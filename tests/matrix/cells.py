"""Engines, phases, and the cells that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

DRAIN = 600  # seconds for which a server that is being stopped waits for its stream: `--shutdown-timeout`
FLOOD = {"bytes_per_s": 1e8, "seconds": 2.0, "newline": False}


class Phase(str, Enum):
    """Where a server is in its life when the death comes."""

    WAITING = "waiting"  # of a spare
    IMPORTING = "importing"
    INITIALISING = "initialising"
    IDLE = "ready, idle"
    STREAMS = "ready, 4 open streams"
    STOPPING = "stopping"

    @property
    def streams(self) -> int:
        """How many answers are under way."""
        return {Phase.STREAMS: 4, Phase.STOPPING: 1}.get(self, 0)

    @property
    def answers(self) -> bool:
        """Whether a server has to answer before it is in this phase."""
        return self not in (Phase.WAITING, Phase.IMPORTING, Phase.INITIALISING)


@dataclass(frozen=True)
class Engine:
    """A kind of server.

    Attributes:
        name: as the table shows it.
        processes: how many it has while it initialises.
        faults: what is asked of the stand-in.
        args: flags.
        more: processes that come until it is ready.
    """

    name: str
    processes: int
    faults: dict[str, Any] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    more: int = 0


WELL_BEHAVED = Engine("well-behaved", 4)  # leader, resource tracker, engine, worker
MANY = Engine("200 children", 204, {"children": 200})
SPARE = Engine("spare", 1)  # which is no server yet
ENGINES = (
    WELL_BEHAVED,
    Engine("ignores SIGTERM", 4, {"ignore_sigterm": True}),
    Engine("setsid child", 5, {"setsid_child": True}),
    Engine("daemon", 5, {"daemonise": True}),
    Engine("daemons without a mark", 6, {"unmarked": True}),
    MANY,
    Engine("forks while killed", 5, {"fork_while_killed": True}),
    Engine("100 MB/s of log", 4, {"log_flood": FLOOD}),
    Engine("binary log", 4, {"log_bytes": True}),
    Engine("TP 2", 5, args=("--tensor-parallel-size", "2")),
    Engine("DP 2", 7, args=("--data-parallel-size", "2")),
    Engine("2 API servers", 4, args=("--api-server-count", "2"), more=2),
    SPARE,
)


@dataclass(frozen=True)
class Cell:
    """One server: an engine in a phase."""

    engine: Engine
    phase: Phase

    @property
    def name(self) -> str:
        """Unique in its host, and a name for a server."""
        return f"s{ENGINES.index(self.engine)}-{self.phase.name.lower()}"

    @property
    def processes(self) -> int:
        """How many processes it has in its phase."""
        if self.phase in (Phase.WAITING, Phase.IMPORTING):
            return 1
        return self.engine.processes + (self.engine.more if self.phase.answers else 0)

    @property
    def args(self) -> tuple[str, ...]:
        """The flags of ``vllm serve``."""
        drain = ("--shutdown-timeout", str(DRAIN)) if self.phase is Phase.STOPPING else ()
        return ("--gpu-memory-utilization", "0.001", *self.engine.args, *drain)

    def options(self, trigger: str) -> dict[str, Any]:
        """What is asked of the stand-in; floods and forks begin with the ``trigger``."""
        hangs = {Phase.IMPORTING: "import", Phase.INITIALISING: "load"}
        return {
            "import_s": 0.0,
            "config_s": 0.0,
            "init_s": 0.0,
            "load_s": 0.0,
            "warmup_s": 0.0,
            "token_s": 0.5,
            "vram": 256 << 20,
            "vram_child": 128 << 20,
            "hang_in": hangs.get(self.phase),
            "trigger": trigger,
            **self.engine.faults,
        }


WARM = 8  # one of so many servers is begun from a spare, others in the next death
FROM_THE_START = ("well-behaved", "ignores SIGTERM", "100 MB/s of log", "binary log")


WITH_ENGINE = (Phase.IDLE, Phase.STREAMS, Phase.STOPPING, Phase.INITIALISING)


def every(rotation: int) -> list[Cell]:
    """Every engine in every phase, but for two exceptions; those that answer first, the others keep their starter waiting.

    While it imports a server is one process: only what that process itself does wrong tells engines apart.
    200 children are many for one machine: they are in one phase of each death, another one in the next
    (``rotation`` counts deaths).
    """
    importing = [Cell(engine, Phase.IMPORTING) for engine in ENGINES if engine.name in FROM_THE_START]
    return [
        Cell(engine, phase)
        for phase in WITH_ENGINE
        for engine in ENGINES
        if engine is not SPARE and (engine is not MANY or phase is WITH_ENGINE[rotation % 4])
    ] + [*importing, Cell(SPARE, Phase.WAITING)]


def pairs(rotation: int) -> list[Cell]:
    """Every engine in one phase, and every phase with some engine.

    The next death moves each engine to the next phase, so four deaths in a row pair each engine with each phase.
    """
    engines = [engine for engine in ENGINES if engine is not SPARE]
    answering = [Cell(engine, WITH_ENGINE[(place + rotation) % 4]) for place, engine in enumerate(engines)]
    name = FROM_THE_START[rotation % 4]
    importing = [Cell(engine, Phase.IMPORTING) for engine in ENGINES if engine.name == name]
    answering.sort(key=lambda cell: WITH_ENGINE.index(cell.phase))
    return [*answering, *importing, Cell(SPARE, Phase.WAITING)]


def some(_rotation: int = 0) -> list[Cell]:
    """Every engine when it is ready, and the well-behaved one in three other phases."""
    others = (Phase.STREAMS, Phase.IMPORTING, Phase.INITIALISING)
    return [Cell(engine, Phase.IDLE) for engine in ENGINES if engine is not SPARE] + [
        Cell(WELL_BEHAVED, phase) for phase in others
    ]


CHOICES = {"every": every, "pairs": pairs, "some": some}
