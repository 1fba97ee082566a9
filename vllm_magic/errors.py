"""What can go wrong, as one tree.

::

    VllmMagicError
    ├── InvalidOption          a word of the request does not fit (also a ValueError)
    ├── ExecutableNotFound     no vLLM here
    ├── NameInUse              another server has this name
    ├── ServerNotFound         no server has this name (also a LookupError)
    ├── NotEnoughMemory        the GPUs have no room for it
    ├── NoEstimate             what memory a model needs cannot be told
    ├── ServerFailed           the server ended by itself
    │   └── StartFailed        that was before it was ready
    │       ├── StartTimeout       it was not ready in time
    │       └── StartInterrupted   the wait was interrupted, and the server was released
    ├── SleepFailed            a server would not sleep or wake up, or its memory did not come back
    ├── RequestFailed          a request to a server had no answer, or was refused
    │   └── NoChatTemplate     the model takes plain text only
    ├── ClusterError           a Ray cluster refused something
    │   └── ClusterUnreachable     it does not answer
    └── ReleaseFailed          something would not end, or its memory did not come back

Each message says what happened and what to do, in one line; `details` has more where there is more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.masking import mask

if TYPE_CHECKING:
    from collections.abc import Sequence


def one_line(text: str) -> str:
    """The text as one line: without what would break it or be obeyed by a terminal, and without keys."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return mask(text.strip())


def reason(error: OSError) -> str:
    """Why a call of the system failed, in a few words; a time limit of Python's own has none."""
    return (
        error.strerror
        or str(error)
        or ("no answer in time" if isinstance(error, TimeoutError) else "it failed")
    )


class VllmMagicError(Exception):
    """The root of the tree.

    Args:
        message: what happened and what to do; what is quoted in it may hold anything.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))

    @property
    def details(self) -> list[str]:
        """More lines for whoever wants them; empty for most."""
        return []

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the message is the news, our own frames are not."""
        return [f"{type(self).__name__}: {self}", *self.details]


class InvalidOption(VllmMagicError, ValueError):
    """A word of the request does not fit."""


class ExecutableNotFound(VllmMagicError):
    """There is no vLLM where it was looked for."""


class NameInUse(VllmMagicError):
    """Another server of this kernel has this name."""


class ServerNotFound(VllmMagicError, LookupError):
    """No server of this kernel has this name."""


@dataclass(frozen=True)
class Holder:
    """Who holds memory of a GPU.

    Attributes:
        gpu: NVML's index.
        pid: None for memory that the driver names nobody for.
        user: "" where that is not known.
        name: of the program.
        used: bytes; None where the driver does not say.
        server: the name of a server of this user's kernels, "" for anything else.
    """

    gpu: int
    pid: int | None
    user: str
    name: str
    used: int | None
    server: str = ""


class NotEnoughMemory(VllmMagicError):
    """The GPUs have too little free memory for the server.

    Attributes:
        holders: who holds it, the largest first.
    """

    def __init__(self, message: str, holders: Sequence[Holder] = (), details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.holders = tuple(holders)
        self._details = list(details)

    @property
    def details(self) -> list[str]:
        """The ways out."""
        return self._details


class NoEstimate(VllmMagicError):
    """What memory a model needs cannot be told.

    Args:
        reason: what is missing, as a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"An estimate cannot be made: {reason}")


class ServerFailed(VllmMagicError):
    """The server ended by itself.

    Attributes:
        cause: what happened, one line.
        hint: what to do about it, one line.
        log_tail: the lines of the server's log that tell, newest last.
    """

    def __init__(self, cause: str, hint: str = "", log_tail: Sequence[str] = ()) -> None:
        super().__init__(f"{cause}. {hint}" if hint else f"{cause}.")
        self.cause = one_line(cause)
        self.hint = one_line(hint)
        self.log_tail = tuple(map(mask, log_tail))

    @property
    def details(self) -> list[str]:
        """The telling lines of the log."""
        return [f"  {line}" for line in self.log_tail]


class StartFailed(ServerFailed):
    """The server ended before it was ready."""


class StartTimeout(StartFailed):
    """The server was not ready in time. A start releases it then; a mere `Server.wait` does not."""


class StartInterrupted(StartFailed):
    """The wait for the server was interrupted; the server was released."""


class SleepFailed(VllmMagicError):
    """A server would not sleep or wake up, or its memory did not come back."""


class RequestFailed(VllmMagicError):
    """A request to a server had no answer, or was refused.

    Attributes:
        status: of HTTP; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoChatTemplate(RequestFailed):
    """The model has no chat template: it takes plain text only."""


class ClusterError(VllmMagicError):
    """A Ray cluster refused something."""


class ClusterUnreachable(ClusterError):
    """A Ray cluster does not answer."""


class ReleaseFailed(VllmMagicError):
    """A process would not end, or memory did not come back.

    Attributes:
        left: (pid, name) of each process that is still there.
    """

    def __init__(self, message: str, left: Sequence[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.left = tuple(left)
