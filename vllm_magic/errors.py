"""The exceptions of the package.

::

    VllmMagicError
    ├── InvalidOption          an argument or option is not valid (also a ValueError)
    ├── ExecutableNotFound     vLLM is not found
    ├── InstallFailed          vLLM could not be installed
    ├── NameInUse              another server has this name
    ├── ServerNotFound         no server has this name (also a LookupError)
    ├── NotEnoughMemory        the GPUs have too little free memory
    ├── NoEstimate             the memory that a model needs cannot be estimated
    ├── NoVllmFits             no vLLM can be installed on this machine
    ├── ServerFailed           the server ended by itself
    │   └── StartFailed        the server ended before it was ready
    │       ├── StartTimeout       the server was not ready in time
    │       └── StartInterrupted   the wait was interrupted, and the server was released
    ├── SleepFailed            a server did not sleep or wake up, or its memory did not come back
    ├── RequestFailed          a request to a server had no answer, or was refused
    │   └── NoChatTemplate     the model has no chat template
    ├── ClusterError           a Ray cluster refused a request
    │   └── ClusterUnreachable     a Ray cluster does not answer
    └── ReleaseFailed          a process did not end, or its memory did not come back

Each message says in one line what happened and what to do. Some errors have more lines, in `details`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.masking import mask
from vllm_magic.notation import written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Self


def one_line(text: str) -> str:
    """Return the text as one line, with blanks in place of control characters, and with masked keys."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return mask(text.strip())


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _message(problems: Sequence[str]) -> str:
    """Return the problems in one line."""
    return " ".join(map(_sentence, problems) if len(problems) > 1 else problems)


def reason(error: OSError) -> str:
    """Return why a system call failed, in a few words; also for a `TimeoutError` of Python, which has no text."""
    return (
        error.strerror
        or str(error)
        or ("no answer in time" if isinstance(error, TimeoutError) else "it failed")
    )


class VllmMagicError(Exception):
    """The base class of all errors of the package.

    Args:
        message: what happened and what to do. It may quote any text: keys are masked, and control characters removed.
            What to do is written with magics, and shown as the front end writes it (`notation`).

    Attributes:
        problems: what is wrong and what to do, a line for each problem; most errors have one.
    """

    problems: tuple[str, ...]

    def __init__(self, message: str = "") -> None:
        super().__init__(written(one_line(message)))
        self.problems = (str(self),)

    def continued(self, *sentences: str) -> Self:
        """Return a copy of this error, whose message ends with these sentences: what was done because of the error."""
        error = copy.copy(self)
        message = _sentence(str(self))
        error.args = (" ".join((message, *(written(one_line(sentence)) for sentence in sentences))),)
        return error.with_traceback(self.__traceback__)

    def joined(self, problems: Iterable[str]) -> Self:
        """Return a copy of this error that tells these problems too, each once."""
        error = copy.copy(self)
        error.problems = tuple(dict.fromkeys((*self.problems, *problems)))
        error.args = (_message(error.problems),)
        return error.with_traceback(self.__traceback__)

    @property
    def lines(self) -> list[str]:
        """The message, with a line for each problem if there are several."""
        if len(self.problems) < 2:  # noqa: PLR2004 - several
            return [str(self)]
        others = str(self)[len(_message(self.problems)) :].strip()  # what `continued` has added
        return [*self.problems, *([others] if others else [])]

    @property
    def details(self) -> list[str]:
        """More lines about the error; empty for most errors."""
        return []

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows in place of a traceback, whose frames would not help the user."""
        first, *others = self.lines
        return [f"{type(self).__name__}: {first}", *others, *self.details]


class InvalidOption(VllmMagicError, ValueError):
    """An argument or option is not valid, or several are not.

    Args:
        *problems: what is wrong with each, and what to do.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(_message(problems))
        self.problems = tuple(written(one_line(problem)) for problem in problems)


class ExecutableNotFound(VllmMagicError):
    """The executable of vLLM is not found."""


class InstallFailed(VllmMagicError):
    """vLLM could not be installed. Nothing uses the unfinished environment.

    Args:
        cause: what happened, without a full stop.
        hint: what to do, without a full stop.
        output: the last lines of the program that failed, oldest first.

    Attributes:
        cause: what happened, in one line.
        hint: what to do, in one line.
        output: the lines, with masked keys.
    """

    def __init__(self, cause: str, hint: str, output: Sequence[str] = ()) -> None:
        super().__init__(f"{cause}. {hint}.")
        self.cause = written(one_line(cause))
        self.hint = written(one_line(hint))
        self.output = tuple(map(mask, output))

    @property
    def details(self) -> list[str]:
        """The last lines of the program that failed."""
        return [f"  {line}" for line in self.output]


class NameInUse(VllmMagicError):
    """Another server of this kernel has this name."""


class ServerNotFound(VllmMagicError, LookupError):
    """No server of this kernel has this name."""


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a GPU.

    Attributes:
        gpu: the index of the GPU, or "GPU:PART" for a part of it (MIG).
        pid: the pid; None for memory for which the driver lists no process.
        user: the user of the process; "" if it is not known.
        name: the name of the program.
        used: the bytes that the process holds; None if the driver does not report them.
        server: the name of the server of this user that the process belongs to; "" for other processes.
    """

    gpu: int | str
    pid: int | None
    user: str
    name: str
    used: int | None
    server: str = ""


class NotEnoughMemory(VllmMagicError):
    """The GPUs have too little free memory for the server.

    Attributes:
        holders: the processes that hold the memory, the largest first.
    """

    def __init__(self, message: str, holders: Sequence[Holder] = (), details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.holders = tuple(holders)
        self._details = list(map(written, details))

    @property
    def details(self) -> list[str]:
        """The lines that say what the user can do."""
        return self._details


class NoEstimate(VllmMagicError):
    """The memory that a model needs cannot be estimated.

    Attributes:
        reason: the missing information, as a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"An estimate cannot be made: {reason}")
        self.reason = written(one_line(reason))


class NoVllmFits(VllmMagicError):
    """No vLLM can be installed on this machine, or not the one that the user asks for. Nothing was downloaded."""


class ServerFailed(VllmMagicError):
    """The server ended by itself.

    Attributes:
        cause: what happened, in one line.
        hint: what to do, in one line.
        log_tail: the lines of the server's log that show the cause, oldest first.
    """

    def __init__(self, cause: str, hint: str = "", log_tail: Sequence[str] = ()) -> None:
        super().__init__(f"{cause}. {hint}" if hint else f"{cause}.")
        self.cause = written(one_line(cause))
        self.hint = written(one_line(hint))
        self.log_tail = tuple(map(mask, log_tail))

    @property
    def details(self) -> list[str]:
        """The lines of the log that show the cause."""
        return [f"  {line}" for line in self.log_tail]


class StartFailed(ServerFailed):
    """The server ended before it was ready."""


class StartTimeout(StartFailed):
    """The server was not ready in time. A start releases the server then; `Server.wait` does not."""


class StartInterrupted(StartFailed):
    """The wait for the server was interrupted; the server was released."""


class SleepFailed(VllmMagicError):
    """A server did not sleep or wake up, or its memory did not come back."""


class RequestFailed(VllmMagicError):
    """A request to a server had no answer, or was refused.

    Attributes:
        status: the HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoChatTemplate(RequestFailed):
    """The model has no chat template, so it accepts only plain text."""


class ClusterError(VllmMagicError):
    """A Ray cluster refused a request."""


class ClusterUnreachable(ClusterError):
    """A Ray cluster does not answer."""


class ReleaseFailed(VllmMagicError):
    """A process did not end, or memory did not come back.

    Attributes:
        left: (pid, name) of each process that has not ended.
    """

    def __init__(self, message: str, left: Sequence[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.left = tuple(left)
