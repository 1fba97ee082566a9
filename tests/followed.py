"""For tests of the state machine: one that is followed without guards, threads or a clock."""

from __future__ import annotations

from vllm_magic.engine.client.metrics import Activity
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.guard.protocol import Ended, KnownProcesses, Message, Refused, Started, Stopping, Why
from vllm_magic.lifecycle.actions import Action, CheckGuards, ReadDownload, ReadLog, SendStop
from vllm_magic.lifecycle.events import (
    DownloadRead,
    Event,
    GuardsChecked,
    HealthChecked,
    LogRead,
    MessageReceived,
    StopPlan,
    StopRequested,
    StopSent,
    TimePassed,
    UseRead,
)
from vllm_magic.lifecycle.idle_timeout import KEEP_ALIVE, ServerUse
from vllm_magic.lifecycle.state import StateMachine
from vllm_magic.linux.processes import Identity

BEGIN = 1000.0  # by time.monotonic
LEADER, OUTER, INNER = Identity(7, 70), Identity(5, 50), Identity(6, 60)
STARTED = Started(list(LEADER), list(OUTER), list(INNER))
KNOWN = KnownProcesses([[8, 80], [9, 90]])
REFUSED = Refused(13, "Permission denied")
ENDED = Ended("inner", Why.ASKED.value, 0, [[7, 70, "vllm serve", "SIGTERM"]], [], 1.0)

QUIET = ServerUse(Activity(0, 0, 7, 0, 0))  # no request is under way
BUSY = ServerUse(Activity(1, 0, 7, 0, 0))
UNKNOWN = ServerUse(None)


class Followed:
    """A server as its state machine sees it. Each method lets one thing happen now, and returns what is to be done.

    What follows at once from an action (see `actions`) is handled too, as the monitor does it.
    """

    def __init__(self, ttl: float | None = None, first: Stage = Stage.IMPORTING) -> None:
        self.now = BEGIN
        self.log: tuple = ()  # the progress that the next lines report
        self.download = None
        self.are_guards_stopped = True
        self.machine = StateMachine(first, ttl, KEEP_ALIVE)

    @property
    def state(self):
        return self.machine.state

    def handle(self, event: Event) -> list[Action]:
        done = []
        for action in self.machine.handle(event):
            if isinstance(action, CheckGuards):  # it changes nothing by itself
                done += self.handle(GuardsChecked(self.now, self.are_guards_stopped))
                continue
            done.append(action)
            match action:
                case SendStop():
                    done += self.handle(StopSent(self.now))
                case ReadLog():
                    found, self.log = self.log, ()
                    done += self.handle(LogRead(self.now, found))
                case ReadDownload():
                    done += self.handle(DownloadRead(self.now, self.download))
        return done

    def passes(self, seconds: float = 0.0) -> list[Action]:
        self.now += seconds
        return self.handle(TimePassed(self.now))

    def wakes(self) -> list[Action]:
        """It is the time for which the machine has asked."""
        self.now = max(self.now, self.machine.wake_at)
        return self.passes()

    def says(self, message: Message | Why) -> list[Action]:
        """The guards; a reason stands for their message that the release begins."""
        message = Stopping(message.value) if isinstance(message, Why) else message
        return self.handle(MessageReceived(self.now, message))

    def stop(self, grace: float = 5.0, *, drain: float = 0.0, hurry: bool = False) -> list[Action]:
        """Somebody asks for the end; the patience is half of the grace."""
        return self.handle(StopRequested(self.now, StopPlan(grace, grace / 2, drain, hurry, self.now)))

    def health(self, *, is_ready: bool = True, fault: str = "", is_engine_dead: bool = False) -> list[Action]:
        return self.handle(HealthChecked(self.now, is_ready, fault, is_engine_dead))

    def use(self, use: ServerUse, fault: str = "") -> list[Action]:
        return self.handle(UseRead(self.now, use, fault))


def starting(ttl: float | None = None, first: Stage = Stage.IMPORTING) -> Followed:
    """A server whose leader runs."""
    server = Followed(ttl, first)
    server.says(STARTED)
    return server


def ready(ttl: float | None = None) -> Followed:
    """A server that has answered."""
    server = starting(ttl)
    server.passes()
    server.health()
    return server
