"""Why a start failed, read from the end of vLLM's log (0.32).

The last line is often useless ("Engine core initialization failed. See root cause above."), so a known sign
anywhere in the tail comes first, then the first error that the engine logged, then the last line of a traceback.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Failure:
    """``cause`` and ``hint`` are one line each; ``lines`` are those of the log that tell."""

    cause: str
    hint: str
    lines: tuple[str, ...]


# pattern; cause; hint: the groups are put in by their numbers.
_SIGNS: tuple[tuple[str, str, str], ...] = (
    (
        r"error: unrecognized arguments: (.*)",
        "vLLM does not know {0}",
        "Look it up: vllm serve --help=all",
    ),
    (
        r"error: argument (\S+): invalid choice: (\S+) \(choose from (.*)\)",
        "{0} cannot be {1}",
        "Choose from {2}",
    ),
    (
        r"^\s*(Invalid JSON: .*?) \[type=",
        "{0}",
        "Put JSON in single quotes: --flag '{{\"name\": 1}}'",
    ),
    (r"error: argument (\S+): (.+)", "{0}: {1}", "Correct the value of {0}"),
    (r"\[Errno 98\]", "The port is taken", "Choose another --port, or leave it out for a free one"),
    (
        r"Repo id must be in the form .*?: '(.*?)'",
        "There is no model at {0}",
        "Check the path, or give a Hugging Face name such as Qwen/Qwen3-0.6B",
    ),
    (
        r"Cannot find an appropriate cached snapshot folder",
        "The model is not on this machine, and going online is disabled",
        "Check the name, or unset HF_HUB_OFFLINE to download it",
    ),
    (
        r"(\S+) is not a local folder and is not a valid model identifier",
        "There is no model called {0}",
        "Check the name; a private one needs HF_TOKEN in the environment",
    ),
    (
        r"You are trying to access a gated repo|Cannot access gated repo",
        "The model is gated",
        "Accept its terms on its Hugging Face page, and set HF_TOKEN",
    ),
    (
        (
            r"Free memory on device (\S+) \(([\d.]+)/([\d.]+) GiB\) on startup is less than .*?"
            r"\(([\d.]+), ([\d.]+) GiB\)"
        ),
        "GPU {0} has {1} GiB free, and vLLM wants {4} GiB of its {2} GiB",
        "Release what holds it (%vllm gpu shows it), or lower --gpu-memory-utilization",
    ),
    (
        r"No available memory for the cache blocks",
        "The weights leave no room for the KV cache",
        "Raise --gpu-memory-utilization, or use more GPUs (--tensor-parallel-size)",
    ),
    (
        r"max seq len \((\d+)\), \(?([\d.]+) GiB KV cache is needed.*estimated maximum model length is (\d+)",
        "One request of {0} tokens needs {1} GiB of KV cache, more than there is",
        "Lower --max-model-len to {2}",
    ),
    (
        r"max seq len \((\d+)\), \(?([\d.]+) GiB KV cache is needed",
        "One request of {0} tokens needs {1} GiB of KV cache, more than there is",
        "Lower --max-model-len",
    ),
    (
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)",
        "The model takes {1} tokens, and --max-model-len asks for {0}",
        "Lower --max-model-len to {1}",
    ),
    (r"OutOfMemoryError: (.*)", "Out of GPU memory: {0}", "Lower --gpu-memory-utilization or --max-num-seqs"),
    (
        r"Worker proc (\S+) died unexpectedly \(exit code: (\S+)\)",
        "{0} died (exit code {1})",
        "-9 is mostly the machine out of memory; %vllm logs shows more",
    ),
    (r"(No such file or directory: '.*?')", "{0}", "Check the path"),
    (r"ModuleNotFoundError: No module named '(.*?)'", "vLLM misses the module {0}", "Install it beside vLLM"),
)

LONGEST_CAUSE = 300  # characters

# The process that logs, and what logging puts before each line of an error.
_START = r"^(?:\([^)]*\) )?(?:ERROR [^\]]*\] )?"
_EXCEPTION = r"(?P<text>(?:[\w.]*(?:Error|Exception)|torch\.[\w.]+)(?:: .+)?)$"

_VALUE_ERROR = re.compile(_START + r"\s*Value error, (?P<text>.*?)(?: \[type=.*)?$")
# The line before it names the option.
_INPUT_ERROR = re.compile(_START + r"\s+(?P<text>Input should .*?) \[type=")
_ENGINE_ERROR = re.compile(r"ERROR .*?\[(?:core|multiproc_executor)\.py:\d+\] " + _EXCEPTION)
_ANY_ERROR = re.compile(r"^(?:\([^)]*\) )?" + _EXCEPTION)


def explain(lines: Sequence[str], exit_code: int | None) -> Failure:
    """The cause of a start's failure.

    Args:
        lines: the end of the log.
        exit_code: of the leader; negative for a signal, None if unknown.
    """
    for pattern, cause, hint in _SIGNS:
        for line in lines:
            match = re.search(pattern, line)
            if match:
                return Failure(_brief(cause.format(*match.groups())), hint.format(*match.groups()), (line,))
    told = list(_telling(lines))
    for text, line in [one for one in told if "root cause" not in one[0]] or told:
        return Failure(_brief(text), "%vllm logs shows more", (line,))
    return Failure(f"vLLM ended {ending(exit_code)}", "%vllm logs shows what it said", tuple(lines[-3:]))


def _telling(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What the log says of the failure, each with its line; the most telling first."""
    yield from _found(_VALUE_ERROR, lines)
    for before, line in pairwise(lines):
        for text, _ in _found(_INPUT_ERROR, [line]):
            yield f"{re.sub(_START, '', before)}: {text}", line
    yield from _found(_ENGINE_ERROR, lines)
    yield from reversed(list(_found(_ANY_ERROR, lines)))


def _found(sign: re.Pattern[str], lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    return (
        (text, line) for line in lines if (match := sign.search(line)) and (text := match["text"].strip())
    )


def _brief(text: str) -> str:
    text = text.removeprefix("ValueError: ").removeprefix("RuntimeError: ").strip().rstrip(".")
    return text if len(text) <= LONGEST_CAUSE else f"{text[: LONGEST_CAUSE - 1]}…"


def ending(exit_code: int | None) -> str:
    """An exit code in words: "with exit code 1", "by signal 9 (SIGKILL)"."""
    if exit_code is None:
        return "for an unknown reason"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    import signal

    try:
        name = f" ({signal.Signals(-exit_code).name})"
    except ValueError:
        name = ""
    return f"by signal {-exit_code}{name}"
