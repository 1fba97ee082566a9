"""The cause of a server's failure, read from the end of vLLM's log.

The last line is often useless ("Engine core initialization failed. See root cause above."). What counts instead, in this
order: a known sign, in the process that failed first; the first error that the engine logged, or else the last line of a
traceback; how a process ended, which counts before errors that were logged after it. An error without a sign is told in its
own words, with what vLLM advises in it, the process, and where it was raised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.engine.failures import places, tracebacks, unexplained
from vllm_magic.engine.failures.hints import NOTHING_KNOWN, HintContext, ending, ending_hint
from vllm_magic.engine.failures.signs import SIGNS
from vllm_magic.engine.failures.signs.engine import ENGINE_DIED, EXITED
from vllm_magic.sizes import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_magic.engine.failures.machine_facts import MachineFacts
    from vllm_magic.engine.failures.signs.sign import MessageFunction, Sign
    from vllm_magic.engine.failures.tracebacks import LogLine

MOST_PLACES = 50  # the most matches of one pattern that are compared
LAST_LINES = 3  # lines of the log that are shown if the log does not show the cause
LONGEST_VALUE_ERROR = 10  # lines of the message of an error of pydantic


@dataclass(frozen=True)
class Failure:
    """A failure, as far as the log shows it.

    Attributes:
        cause: the cause, in one line.
        hint: what to do, in one line.
        lines: the lines of the log that show the cause, oldest first: of a traceback, the deepest frames and the message.
        port_taken: whether another process has the server's TCP port.
        memory_wanted: the bytes of a GPU that should have been free; 0 for any other failure.
        transient: whether the same start is likely to succeed if it is tried again at once.
    """

    cause: str
    hint: str
    lines: tuple[str, ...]
    port_taken: bool = False
    memory_wanted: int = 0
    transient: bool = False


_EXCEPTION = re.compile(
    r"(?P<text>(?:[\w.]*(?:Error|Exception)|torch\.[\w.]+|[\w.]*\.(?:exc|exceptions|errors)\.\w+)(?:: .+)?)$"
)
# An error of a worker, and of a call, as the engine raises it again.
_OF_WORKER = re.compile(
    r"Worker failed with error ['\"](?P<error>.*)['\"], please check the stack trace above"
)
_OF_CALL = re.compile(r"Call to \w+ method failed: (?P<error>.+)")
_OF_OTHERS = re.compile(
    rf"root cause|^cancelled$|{ENGINE_DIED.pattern}"
)  # what follows from the error of another process
_VALUE_ERROR = re.compile(r"\s*Value error, (?P<text>.*)$")
_OF_VALUE = re.compile(r" \[type=\w+(?:\]|, input_value=.*)$")  # what pydantic adds behind the message
_ENGINE = re.compile(r"(?:.*/)?(?:core|multiproc_executor)\.py:\d+")
# What vLLM logs when a ready server ends by itself: v1/engine/core.py and exceptions.py, v1/executor/multiproc_executor.py,
# and v1/utils.py for several API servers.
_FATAL = re.compile(
    r"EngineCore encountered a fatal error|Worker proc \S+ died unexpectedly|RayWorkerProc rank=\S+ died unexpectedly|"
    r"(?:[\w.]+\.)?EngineDeadError: EngineCore encountered an issue|Exception occurred while running API servers"
)
# entrypoints/launcher.py: since vLLM 0.24; before.
_STOPPED = re.compile(
    r"\[launcher\.py:\d+\] (?:\[shutdown\] API server: shutdown triggered|Shutting down FastAPI HTTP server\.)$"
)

_FINISHED = re.compile(r"INFO: {1,10}Application shutdown complete\.$")  # uvicorn


def explain(
    lines: Sequence[str],
    exit_code: int | None,
    context: HintContext = NOTHING_KNOWN,
) -> Failure:
    """Return the cause of a start's failure.

    Args:
        lines: the last lines of the log.
        exit_code: the exit code of the leader; negative for a signal, None if unknown.
        context: what is known beside the log.
    """
    log = tracebacks.read(lines)
    return _explain(log, context) or _unknown(lines, exit_code, context.machine)


def explain_death(
    lines: Sequence[str], exit_code: int | None, context: HintContext = NOTHING_KNOWN
) -> Failure:
    """Return the cause of the unexpected end of a ready server.

    Errors of earlier requests in the log are not the cause. The exit code is misleading: it is 0 for an API server whose
    engine died.

    Args:
        lines: the last lines of the log.
        exit_code: the exit code of the leader; negative for a signal, None if unknown.
        context: what is known beside the log.
    """
    log = tracebacks.read(lines)
    if _was_stopped(lines):
        return _stopped_from_elsewhere(lines)
    begin = _begin_of_death(log)
    if (
        begin is None
        and exit_code == 0
        and _has_finished(lines)
        and not re.search(ENGINE_DIED.pattern, _text(log))
    ):
        return _stopped_from_elsewhere(lines)
    if begin is None:
        return _unknown(lines, exit_code, context.machine)
    return _explain(log[begin:], context) or _unknown(lines, exit_code, context.machine)


class _Error(NamedTuple):
    """An error in the log, for which there may be no sign, and the numbers of its first and its last line."""

    text: str
    first: int
    last: int


class _Found(NamedTuple):
    """A sign in the log, and the number of its line."""

    sign: Sign
    match: re.Match[str]
    line: int


def _explain(log: Sequence[LogLine], context: HintContext) -> Failure | None:
    text = _text(log)
    found = _best(_found(SIGNS, log, text), log)
    if found is not None:
        return _failure(found, log, context)
    errors = [error for one in _errors(log) if (error := one._replace(text=_bare(one.text))).text]
    telling = [one for one in errors if not _OF_OTHERS.search(one.text)]
    ends = _found(EXITED, log, text)
    if ends and not any(one.first < ends[0].line for one in telling):
        return _failure(ends[0], log, context)
    if telling:
        return _unexplained(telling[0], log, context)
    died = _found((ENGINE_DIED,), log, text)
    if died:
        return _failure(died[0], log, context)
    return _unexplained(errors[0], log, context) if errors else None


def _text(log: Sequence[LogLine]) -> str:
    return "\n".join("" if one.frame else one.text for one in log)


def _found(signs: Sequence[Sign], log: Sequence[LogLine], text: str) -> list[_Found]:
    """Return the signs that are in the log, in the order of ``signs``, each at its most telling place."""
    found = []
    for sign in signs:
        matches = islice(re.finditer(sign.pattern, text, re.MULTILINE), MOST_PLACES)
        places = [_Found(sign, match, text.count("\n", 0, match.start())) for match in matches]
        # vLLM may log an error, try again, and only then raise it: the place in a traceback is the better one.
        raised = [one for one in places if tracebacks.is_raised(log, one.line)]
        found += [*raised, *places][:1]
    return found


def _best(found: Sequence[_Found], log: Sequence[LogLine]) -> _Found | None:
    """Return the first sign of the process that failed first; lines that name no process may be of each."""
    if not found:
        return None
    raised = [one for one in found if tracebacks.is_raised(log, one.line)]
    first = log[min(one.line for one in raised or found)].process
    return next(one for one in found if log[one.line].process in (first, ""))


def _failure(found: _Found, log: Sequence[LogLine], context: HintContext) -> Failure:
    sign, match, first = found
    context = replace(context, frames=tracebacks.frames_above(log, first))
    hints = [
        *(places.called_by(context.frames) if sign.kernel else []),
        _filled_in(sign.hint, match, context),
    ]
    return Failure(
        _filled_in(sign.cause, match, context),
        tracebacks.brief(". ".join(hints)),
        tracebacks.telling_lines(log, first, first + match[0].count("\n")),
        sign.port_taken,
        int(float(match.groupdict().get("needed", 0)) * GIB),
        sign.transient,
    )


def _filled_in(message: str | MessageFunction, match: re.Match[str], context: HintContext) -> str:
    filled = message.format(*match.groups("")) if isinstance(message, str) else message(match, context)
    return tracebacks.brief(filled.strip(" .:"))


def _unexplained(error: _Error, log: Sequence[LogLine], context: HintContext) -> Failure:
    """Return an error for which there is no sign."""
    frames = tracebacks.frames_above(log, error.first)
    cause, hint = unexplained.cause_and_hint(error.text, log[error.first].process, frames, context.flags)
    return Failure(cause, hint, tracebacks.telling_lines(log, error.first, error.last))


def _errors(log: Sequence[LogLine]) -> Iterator[_Error]:
    """Yield the errors in the log, the most telling first."""
    between = [(one, number) for number, one in enumerate(log) if not one.frame]
    for one, number in between:
        if match := _VALUE_ERROR.match(one.text):
            yield _value_error(match["text"], log, number)
    exceptions = [
        (one, number, match["text"]) for one, number in between if (match := _EXCEPTION.match(one.text))
    ]
    for one, number, text in exceptions:
        if _ENGINE.match(one.source):
            yield _Error(text, number, tracebacks.end_of_message(log, number))
    for one, number, text in reversed(exceptions):
        if not one.source:
            yield _Error(text, number, number)
    for one, number, text in exceptions:
        if one.source and not _ENGINE.match(one.source) and tracebacks.is_raised(log, number):
            yield _Error(text, number, tracebacks.end_of_message(log, number))


def _value_error(text: str, log: Sequence[LogLine], first: int) -> _Error:
    """Return an error of pydantic, whose message may have several lines."""
    said: list[str] = []
    for last, one in enumerate(log[first : first + LONGEST_VALUE_ERROR], first):
        if one.process not in ("", log[first].process):
            continue
        part = one.text.strip() if said else text
        match = _OF_VALUE.search(part)
        said.append(part[: match.start()] if match else part)
        if match:
            return _Error(" ".join(said), first, last)
    return _Error(text, first, first)


def _bare(text: str) -> str:
    for pattern in (_OF_WORKER, _OF_CALL):
        if match := pattern.search(text):
            text = match["error"].replace("\\n", "\n").strip().rpartition("\n")[2]
    return text.removeprefix("ValueError: ").removeprefix("RuntimeError: ").strip().rstrip(".")


def _begin_of_death(log: Sequence[LogLine]) -> int | None:
    """Return the number of the first line about the engine's death; None if there is none.

    If lines of a worker stand right above this line, the first of them counts, since they have more details.
    """
    fatal = (number for number, one in enumerate(log) if not one.frame and _FATAL.match(one.text))
    begin = next(fatal, None)
    while begin and log[begin - 1].process.startswith("(Worker"):
        begin -= 1
    return begin


def _was_stopped(lines: Sequence[str]) -> bool:
    """Whether the API server got a signal before its engine died."""
    stopped = next((number for number, line in enumerate(lines) if _STOPPED.search(line)), None)
    return stopped is not None and _begin_of_death(tracebacks.read(lines[:stopped])) is None


def _unknown(lines: Sequence[str], exit_code: int | None, machine: MachineFacts) -> Failure:
    return Failure(
        f"vLLM ended {ending(exit_code)}", ending_hint(exit_code, machine), tuple(lines[-LAST_LINES:])
    )


def _has_finished(lines: Sequence[str]) -> bool:
    """Whether the HTTP server ended in order: up to vLLM 0.20 that may be all that a signal leaves in the log."""
    return any(_FINISHED.search(line) for line in lines[-LAST_LINES:])


def _stopped_from_elsewhere(lines: Sequence[str]) -> Failure:
    cause, hint = "Somebody else asked it to end (SIGTERM or SIGINT)", "Start it again"
    return Failure(cause, hint, tuple(lines[-LAST_LINES:]))
