"""What is said of a failure where the words need more than the log's: a flag that was meant, a value that would fit."""

from __future__ import annotations

import re
import signal
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.engine.flags import flags

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST_SHARE = 0.1  # of a GPU; with less there is no use in starting
MOST_MEANT = 5  # unknown flags for which a known one is looked for, which takes milliseconds each
MOST_GPUS = 64  # up to which tensor parallel sizes are named

# What signals mostly mean that a process got without anybody sending them.
_SIGNALS: dict[int, str] = {
    signal.SIGKILL: "Mostly the machine's memory has run out then (dmesg tells): free some, or take a smaller model",
    signal.SIGBUS: "Mostly /dev/shm is full then: make it larger (docker run --shm-size), or free some of it",
    signal.SIGILL: "This build of vLLM uses instructions that the processor does not have: install another",
    signal.SIGTERM: "Somebody else ended it: a batch system, or kill",
    signal.SIGINT: "Somebody else interrupted it",
}
SEE_LOGS = "%vllm logs shows more"


class Known(NamedTuple):
    """What is known besides the log: the flags that vLLM has, and the model that was asked for ("" if unknown)."""

    flags: Sequence[str]
    model: str


def flag_meant(match: re.Match[str], known: Known) -> str:
    """The hint that vLLM itself gives, else the known flags that look like those it did not know."""
    if match[2]:
        return match[2].rstrip(".")
    flagged = [word for word in match[1].split() if word.startswith("-")][:MOST_MEANT]
    unknown = [word.partition("=")[0].replace("_", "-") for word in flagged]
    meant = {word: " or ".join(close) for word in unknown if (close := flags.meant(word, known.flags))}
    told = [f"{close} for {word}" if len(unknown) > 1 else close for word, close in meant.items()]
    return f"Did you mean {', '.join(told)}?" if told else "Look it up: vllm serve --help=all"


def choice_meant(match: re.Match[str], _: Known) -> str:
    """The choices, and the one that was meant."""
    choices = [choice.strip().strip("'") for choice in match[3].split(",")]
    meant = get_close_matches(match[2].strip("'"), choices, 1)
    return f"{f'Did you mean {meant[0]}? ' if meant else ''}Choose from {', '.join(choices)}"


def number_meant(match: re.Match[str], _: Known) -> str:
    """Which kind of number the flag takes (vllm/utils/argparse_utils.py, human_readable_int)."""
    if "human" in match[2]:
        return "Give a whole number, such as 8192 or 8k"
    kinds = {"int": "a whole number", "float": "a number"}
    return f"Give {kinds[match[2]]}" if match[2] in kinds else f"Correct the value of {match[1]}"


def not_on_this_machine(match: re.Match[str], _: Known) -> str:
    """With the name that vLLM says further below, since it may be a tokenizer's or an adapter's."""
    told = re.search(r"Invalid repository ID or local directory specified: *'(.*?)'", match.string)
    what = told[1] if told else "The model"
    return f"{what} is not on this machine, and going online is disabled"


def gated(match: re.Match[str], known: Known) -> str:
    """Which model is gated."""
    return f"{_gated_repository(match, known) or 'The model'} is gated"


def gated_page(match: re.Match[str], known: Known) -> str:
    """Where its terms are accepted."""
    repository = _gated_repository(match, known)
    page = f"https://huggingface.co/{repository}" if repository else "its Hugging Face page"
    return f"Accept its terms on {page}, and set HF_TOKEN to a token of that account"


def _gated_repository(match: re.Match[str], known: Known) -> str:
    """What the lines name that follow, or that very line; else the model, where that is the name of a repository."""
    following = match.string[match.start() :].split("\n", 3)[:3]
    found = re.search(r"https://huggingface\.co/(?:api/models/)?([\w.-]+/[\w.-]+)", "\n".join(following))
    repository = found[1].rstrip(".") if found else known.model
    return repository if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) else ""


def revisions(match: re.Match[str], _: Known) -> str:
    """The page that lists them."""
    page = re.compile(r"https://huggingface\.co/[\w.-]+/[\w.-]+").search(match.string, match.end())
    return f"Correct --revision: {page[0]} lists them" if page else "Correct --revision"


def parallel_sizes(match: re.Match[str], _: Known) -> str:
    """The tensor parallel sizes that would do."""
    heads, size = int(match[1]), int(match[2])
    *others, last = [str(one) for one in range(1, max(1, min(2 * size, MOST_GPUS)) + 1) if heads % one == 0]
    return f"Set --tensor-parallel-size to {', '.join(others)}{' or ' if others else ''}{last}"


def capability(match: re.Match[str], _: Known) -> str:
    """CUDA's compute capabilities, which vLLM writes without their point here."""
    needed, there = (f"{text[:-1]}.{text[-1]}" for text in (match[2], match[3]))
    return f"The quantization {match[1]} needs a GPU of compute capability {needed}, and this one has {there}"


def dtypes(match: re.Match[str], _: Known) -> str:
    """Those that the quantization method takes."""
    listed = [name.strip().removeprefix("torch.") for name in (match[3] or "").split(",")]
    return f"Set --dtype to {' or '.join(listed)}" if listed[0] else "Choose another --dtype"


def no_bfloat16(match: re.Match[str], _: Known) -> str:
    """With the GPU's name and what it has."""
    cause = "bfloat16 needs a GPU of compute capability 8.0"
    return f"{cause}: {match[1]} {match[2]}" if match[1] else cause


def utilization(match: re.Match[str], _: Known) -> str:
    """The share of the GPU that is free, rounded down, where that is of use."""
    free, total = float(match["free"]), float(match["total"])
    share = int(100 * free / total) / 100 if total else 0.0
    fits = (
        f"lower --gpu-memory-utilization to {share:g}"
        if share >= SMALLEST_SHARE
        else "choose other GPUs (--gpus)"
    )
    return f"Release what holds it (%vllm gpu shows it), or {fits}"


def length_that_fits(match: re.Match[str], _: Known) -> str:
    """As vLLM has estimated it."""
    length = f" to {match[4]}" if match[4] else ""
    return f"Lower --max-model-len{length}, or raise --gpu-memory-utilization"


def more_time(match: re.Match[str], _: Known) -> str:
    """Twice of what it had."""
    return f"Give it more time: --env VLLM_ENGINE_READY_TIMEOUT_S={2 * int(match[1])}"


def process_died(match: re.Match[str], _: Known) -> str:
    """How it ended."""
    return f"{match[1]} ended {ending(_code(match[2]))}"


def process_hint(match: re.Match[str], _: Known) -> str:
    """What that mostly means."""
    return ending_hint(_code(match[2]))


def field(match: re.Match[str], known: Known) -> str:
    """A field of one of vLLM's configurations, as the flag that sets it."""
    return f"{_flag(match[1], known)} {match[2]}"


def field_hint(match: re.Match[str], known: Known) -> str:
    """Its value."""
    return f"Correct {_flag(match[1], known)}{f': it is {match[3]}' if match[3] else ''}"


def ending(exit_code: int | None) -> str:
    """An exit code in words: "with exit code 1", "by signal 9 (SIGKILL)"."""
    if exit_code is None:
        return "for an unknown reason"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        name = f" ({signal.Signals(-exit_code).name})"
    except ValueError:
        name = ""
    return f"by signal {-exit_code}{name}"


def ending_hint(exit_code: int | None) -> str:
    """What helps where nothing else is known than the exit code; negative for a signal."""
    return _SIGNALS.get(-exit_code, SEE_LOGS) if exit_code is not None and exit_code < 0 else SEE_LOGS


def _code(text: str) -> int | None:
    return None if text == "None" else int(text)


def _flag(name: str, known: Known) -> str:
    name = name.partition(".")[0]
    flag = f"--{name.replace('_', '-')}"
    return flag if flag in known.flags else name
