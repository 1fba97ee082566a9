"""Causes and hints that must be computed: the flag that the user meant, a value that would fit.

Each function gets the match of the pattern of a sign in `signs`, and the `HintContext`.
"""

from __future__ import annotations

import dataclasses
import re
import signal
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vllm_magic.engine.failures.machine_facts import MachineFacts
from vllm_magic.engine.flags import flags, other_versions
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.tracebacks import Frame

SMALLEST_SHARE = 0.1  # the smallest share of a GPU that a hint names; a start with less is useless
MOST_MEANT = 5  # unknown flags for which a similar flag is searched; each search takes milliseconds
ANSWER = 6  # lines of a log in which the Hub's answer about a gated model stands
MOST_ALIKE = 3  # flags about the same that are named in place of an unknown flag, at most
MOST_GPUS = 64  # the largest tensor parallel size that a hint names

# What usually is the reason when a signal ends a process unexpectedly.
_SIGNALS: dict[int, str] = {
    signal.SIGKILL: "Usually the machine's memory has run out (dmesg tells): free some, or take a smaller model",
    signal.SIGBUS: "Usually /dev/shm is full: make it larger (docker run --shm-size), or free some of it",
    signal.SIGILL: "This build of vLLM uses instructions that the processor does not have: install another",
    signal.SIGSEGV: "A compiled part has crashed: usually packages do not fit together. Install vLLM again, in an environment of its own (%vllm install)",
    signal.SIGTERM: "Somebody else ended it: a batch system, or kill",
    signal.SIGINT: "Somebody else interrupted it",
}
# A warning of vLLM (platforms/interface.py, cpu.py and rocm.py), after which it goes on.
_UNLOADABLE = re.compile(
    r"^Failed to import from (?P<part>vllm\.\w{1,100})(?: with|:) \w{1,100}\([\"'](?P<reason>.{1,1000})[\"']\)$",
    re.MULTILINE,
)
SEE_LOGS = "%vllm logs shows more"
OTHER_VERSION = "Leave it out, or use the vLLM that has it: vllm serve --help=all lists what this one knows"
FREE_MEMORY = "Free some of it, raise the container's limit, or choose a smaller model"


@dataclasses.dataclass(frozen=True)
class HintContext:
    """Facts that are not in the log.

    Attributes:
        flags: all flags of vLLM, with their dashes.
        model: the model of the server; "" if unknown.
        python: the Python of vLLM's environment, as one types it.
        machine: the limits of the machine.
        frames: the frames of the error's traceback, the deepest first.
    """

    flags: Sequence[str] = flags.WELL_KNOWN
    model: str = ""
    python: str = "python"
    machine: MachineFacts = dataclasses.field(default_factory=MachineFacts)
    frames: Sequence[Frame] = ()


NOTHING_KNOWN = HintContext()


def flag_meant(match: re.Match[str], context: HintContext) -> str:
    """Return vLLM's own hint, or what to do about flags of other versions, or the known flags that look like the unknown ones."""
    if match[2]:
        return match[2].rstrip(".")
    flagged = [word for word in match[1].split() if word.startswith("-")][:MOST_MEANT]
    unknown = [word.partition("=")[0].replace("_", "-") for word in flagged]
    has = () if context.flags is flags.WELL_KNOWN else context.flags
    for word in unknown:
        _, _, what_to_do = other_versions.advice(word, has, "").partition(". ")
        if what_to_do:
            return (f"{word}: {what_to_do}" if len(unknown) > 1 else what_to_do).rstrip(".")
    meant = {word: " or ".join(close) for word in unknown if (close := flags.similar(word, context.flags))}
    suggestions = [f"{close} for {word}" if len(unknown) > 1 else close for word, close in meant.items()]
    if suggestions:
        return f"Did you mean {', '.join(suggestions)}? Else leave it out"
    alike = [flag for word in unknown for flag in context.flags if _topic(flag) == _topic(word)]
    if alike and len(alike) <= MOST_ALIKE:
        return f"Leave it out, or use the vLLM that has it; of this kind this one has {' and '.join(alike)}"
    return OTHER_VERSION


def _topic(flag: str) -> str:
    """Return the first word of a flag: "--lora-modules" is about "lora"."""
    return flag.strip("-").partition("-")[0]


def choice_meant(match: re.Match[str], _: HintContext) -> str:
    """Return the choices, and the choice that was probably meant."""
    choices = [choice.strip().strip("'") for choice in match[3].split(",")]
    meant = get_close_matches(match[2].strip("'"), choices, 1)
    return f"{f'Did you mean {meant[0]}? ' if meant else ''}Choose from {', '.join(choices)}"


def number_meant(match: re.Match[str], _: HintContext) -> str:
    """Return which kind of number the flag takes (vllm/utils/argparse_utils.py, human_readable_int)."""
    if "human" in match[2]:
        return "Give a whole number, such as 8192 or 8k"
    kinds = {"int": "a whole number", "float": "a number"}
    return f"Give {kinds[match[2]]}" if match[2] in kinds else f"Correct the value of {match[1]}"


def not_on_this_machine(match: re.Match[str], _: HintContext) -> str:
    """Return the cause with the name from a later line of the log: it may be the name of a tokenizer or an adapter."""
    named = re.search(r"Invalid repository ID or local directory specified: *'(.*?)'", match.string)
    what = named[1] if named else "The model"
    return f"{what} is not on this machine, and going online is disabled"


def gated(match: re.Match[str], context: HintContext) -> str:
    """Return which model is gated, and how far a request for access to it has come."""
    model = _gated_repository(match, context) or "The model"
    said = _said_of_access(match)
    if "awaiting a review" in said:
        return f"{model} is gated, and the request for access to it waits for its authors"
    if "has been rejected" in said:
        return f"{model} is gated, and its authors have rejected the request for access to it"
    return f"{model} is gated"


def gated_page(match: re.Match[str], context: HintContext) -> str:
    """Return what gives access to a gated model, by what the Hub says of the account and its token."""
    repository = _gated_repository(match, context)
    page = f"https://huggingface.co/{repository}" if repository else "its Hugging Face page"
    said = _said_of_access(match)
    if "awaiting a review" in said:
        return f"Wait until {page} shows that it is granted, or choose another model"
    if "has been rejected" in said:
        return "Choose another model, or the token of another account (HF_TOKEN)"
    if "fine-grained" in said:
        return (
            "Allow the token in HF_TOKEN access to public gated repositories (https://huggingface.co/settings/tokens), or make one "
            "of the type read"
        )
    if "not in the authorized list" in said:
        return f"Ask for access on {page} with the account whose token is in HF_TOKEN"
    return f"Accept its terms on {page}, and set HF_TOKEN to a token of that account"


def _said_of_access(match: re.Match[str]) -> str:
    """Return the line of the match and those after it, where huggingface_hub quotes the answer of the Hub."""
    return "\n".join(match.string[match.start() :].split("\n", ANSWER)[:ANSWER])


def _gated_repository(match: re.Match[str], context: HintContext) -> str:
    """Return the repository that the Hub's answer names, or else the model; "" if that is no repository's name."""
    said = _said_of_access(match)
    found = re.search(
        r"https://huggingface\.co/(?:api/models/)?([\w.-]+/[\w.-]+)|\baccess model ([\w.-]+/[\w.-]+)|Access to model ([\w.-]+/[\w.-]+)",
        said,
    )
    repository = next(filter(None, found.groups())).rstrip(".") if found else context.model
    return repository if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) else ""


def revisions(match: re.Match[str], _: HintContext) -> str:
    """Return the page that lists the model's revisions."""
    page = re.compile(r"https://huggingface\.co/[\w.-]+/[\w.-]+").search(match.string, match.end())
    return f"Correct --revision: {page[0]} lists them" if page else "Correct --revision"


def parallel_sizes(match: re.Match[str], _: HintContext) -> str:
    """Return the tensor parallel sizes that divide the attention heads."""
    heads, size = int(match[1]), int(match[2])
    candidates = range(1, max(1, min(2 * size, MOST_GPUS)) + 1)
    *others, last = [str(candidate) for candidate in candidates if heads % candidate == 0]
    return f"Set --tensor-parallel-size to {', '.join(others)}{' or ' if others else ''}{last}"


def capability(match: re.Match[str], _: HintContext) -> str:
    """Return the cause with CUDA's compute capabilities, which vLLM logs here without their point."""
    needed, there = (f"{text[:-1]}.{text[-1]}" for text in (match[2], match[3]))
    return f"The quantization {match[1]} needs a GPU of compute capability {needed}, and this one has {there}"


def dtypes(match: re.Match[str], _: HintContext) -> str:
    """Return the types that the quantization method supports."""
    listed = [name.strip().removeprefix("torch.") for name in (match[3] or "").split(",")]
    return f"Set --dtype to {' or '.join(listed)}" if listed[0] else "Choose another --dtype"


def no_bfloat16(match: re.Match[str], _: HintContext) -> str:
    """Return the cause with the GPU's name and its compute capability."""
    cause = "bfloat16 needs a GPU of compute capability 8.0"
    return f"{cause}: {match[1]} {match[2]}" if match[1] else cause


def utilization(match: re.Match[str], _: HintContext) -> str:
    """Return a hint with the free share of the GPU, rounded down, if a start with that share makes sense."""
    free, total = float(match["free"]), float(match["total"])
    share = int(100 * free / total) / 100 if total else 0.0
    fits = (
        f"lower --gpu-memory-utilization to {share:g}"
        if share >= SMALLEST_SHARE
        else "choose other GPUs (--gpus)"
    )
    return f"Release what holds it (%vllm gpu shows it), or {fits}"


def length_that_fits(match: re.Match[str], _: HintContext) -> str:
    """Return a hint with the length that fits, as vLLM has estimated it."""
    length = f" to {match[4]}" if match[4] else ""
    return f"Lower --max-model-len{length}, or raise --gpu-memory-utilization"


def more_time(match: re.Match[str], _: HintContext) -> str:
    """Return a hint with twice the time that the engine had."""
    return f"Give it more time: --env VLLM_ENGINE_READY_TIMEOUT_S={2 * int(match[1])}"


def process_died(match: re.Match[str], _: HintContext) -> str:
    """Return how the process ended."""
    return f"{match[1]} ended {ending(_code(match[2]))}"


def process_hint(match: re.Match[str], context: HintContext) -> str:
    """Return what such an end of a process usually means."""
    return ending_hint(_code(match[2]), context.machine)


def engine_died(match: re.Match[str], context: HintContext) -> str:
    """Return the cause for an engine that ended without an error in the log: how, or that memory ran out."""
    if not context.machine.was_out_of_memory:
        code = _engine_code(match)
        how = f" {ending(code)}" if code is not None and code < 0 else ""
        return f"The engine ended{how}, and did not say why"
    return f"The engine ended, and the kernel has killed a process because memory ran out{_limit(context.machine)}"


def engine_died_hint(match: re.Match[str], context: HintContext) -> str:
    """Return what to do about an engine that ended without an error in the log."""
    if context.machine.was_out_of_memory:
        return FREE_MEMORY
    code = _engine_code(match)
    if code is not None and code < 0:
        return ending_hint(code, context.machine)
    limit = _limit(context.machine)
    return (
        f"The log does not say why. dmesg tells whether the kernel killed it for lack of memory{limit}; "
        "%vllm logs shows what it did before"
    )


def _engine_code(match: re.Match[str]) -> int | None:
    """Return the exit code of the engine that vLLM itself logs at the end of a start, negative for a signal."""
    found = re.search(r"Failed core proc\(s\): \{'\w{1,60}': (-?\d{1,4})", match.string)
    return int(found[1]) if found else None


def not_loaded(match: re.Match[str], _: HintContext) -> str:
    """Return which compiled part of vLLM could not be loaded, and why, if a warning above tells that."""
    found = _UNLOADABLE.search(match.string)
    if found is None:
        return f"A compiled part of vLLM was not loaded: {match[1]} has no {match[2]}"
    return f"vLLM's compiled part {found['part']} cannot be loaded: {found['reason']}"


def not_loaded_hint(match: re.Match[str], _: HintContext) -> str:
    """Return what to do about a compiled part that could not be loaded."""
    found = _UNLOADABLE.search(match.string)
    reason = found["reason"] if found else ""
    if "libstdc++" in reason:
        return (
            "This machine's libstdc++ is too old for this build of vLLM: install a newer one, or another vLLM"
        )
    if missing := re.match(r"(\S{1,300}): cannot open shared object file", reason):
        return f"Install the package that has {missing[1]}, or a vLLM that was built for this machine"
    return "Install vLLM again, in an environment of its own (%vllm install)"


def field(match: re.Match[str], context: HintContext) -> str:
    """Return the error in a field of vLLM's configuration, with the flag that sets the field."""
    return f"{_flag(match[1], context)} {match[2]}"


def field_hint(match: re.Match[str], context: HintContext) -> str:
    """Return a hint with the flag that sets the field, and its value."""
    return f"Correct {_flag(match[1], context)}{f': it is {match[3]}' if match[3] else ''}"


def ending(exit_code: int | None) -> str:
    """Return an exit code as text: "with exit code 1", "by signal 9 (SIGKILL)"."""
    if exit_code is None:
        return "for an unknown reason"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        name = f" ({signal.Signals(-exit_code).name})"
    except ValueError:
        name = ""
    return f"by signal {-exit_code}{name}"


def ending_hint(exit_code: int | None, machine: MachineFacts) -> str:
    """Return a hint if only the exit code is known; it is negative for a signal."""
    if exit_code == -signal.SIGKILL and machine.was_out_of_memory:
        return f"The kernel has killed a process because memory ran out{_limit(machine)}. {FREE_MEMORY}"
    return _SIGNALS.get(-exit_code, SEE_LOGS) if exit_code is not None and exit_code < 0 else SEE_LOGS


def _limit(machine: MachineFacts) -> str:
    return f" (the container may use {gib(machine.memory_limit, 1)})" if machine.memory_limit else ""


def _code(text: str) -> int | None:
    return None if text == "None" else int(text)


def _flag(name: str, context: HintContext) -> str:
    name = name.partition(".")[0]
    flag = f"--{name.replace('_', '-')}"
    return flag if flag in context.flags else name
