"""The versions of vLLM, and what is promised for each: the one table from which the messages and README.md are made.

vllm_magic starts a server of any version, and says what the version lacks. It refuses none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

VersionNumber: TypeAlias = tuple[int, int]  # (0, 33) for 0.33.0

NEWEST: VersionNumber = (0, 33)  # the newest version of the tests
# The first version that is known to read UUIDs in CUDA_VISIBLE_DEVICES. 0.20.2 takes each entry for a number
# (device_id_to_physical_device_id in platforms/interface.py), 0.24.0 does not (platforms/cuda.py).
UUIDS: VersionNumber = (0, 24)

# A version in its normal form, as metadata has it: 0.17.0, 0.17.0rc1, 0.17.0.post1, 0.19.1.dev3+g1a2b3c (PEP 440).
_FULL = re.compile(r"(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?(?:\+.*)?")
_PHASES = ("dev", "a", "b", "rc", "final")  # of one release, the oldest first


class Promise(Enum):
    """What is promised for a version; the value says it to a person."""

    TESTED = "tested: all of vllm_magic works"
    WORKS = "works, not promised: it was tried, and is not tested with each change"
    OLD = "not promised, and not tried: what its source shows to be missing is listed below"
    NEW = "not known yet: newer than what was tested"


@dataclass(frozen=True)
class VersionRange:
    """A range of versions.

    Attributes:
        first: the first version; None for all up to the last.
        last: the last version; None for all from the first.
        promise: what is promised for them.
    """

    first: VersionNumber | None
    last: VersionNumber | None
    promise: Promise

    def __str__(self) -> str:
        """Return the range as text: "0.12 to 0.14"."""
        if self.first and self.last:
            return f"{_text(self.first)} to {_text(self.last)}"
        return f"{_text(self.first)} and newer" if self.first else f"{_text(self.last or NEWEST)} and older"


@dataclass(frozen=True)
class Limitation:
    """Something that older versions lack.

    Attributes:
        until: the first version that has it.
        what: what is missing with the versions before.
    """

    until: VersionNumber
    what: str


RANGES = (
    VersionRange(None, (0, 11), Promise.OLD),
    VersionRange((0, 12), (0, 14), Promise.WORKS),
    VersionRange((0, 15), NEWEST, Promise.TESTED),
    VersionRange((NEWEST[0], NEWEST[1] + 1), None, Promise.NEW),
)
LIMITATIONS = (
    # v1/engine/core_client.py, and /health in entrypoints/openai/api_server.py
    Limitation((0, 11), "the end of a server whose engine has died alone: vLLM goes on to answer"),
    # utils/system_utils.py, set_process_title
    Limitation((0, 11), "the names of vLLM's processes in lists"),
    Limitation((0, 12), "stages of a start and causes of failures whose log lines were worded differently"),
)


def parse(version: str) -> VersionNumber | None:
    """Return the number of a version such as "0.33.0" or "0.32.0+cpu"; None if the version is not known.

    A checkout without its tags calls itself 0.1.dev, or 0.0.0, whatever it contains.
    """
    match = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    return number if number > (0, 1) else None


def sort_key(version: str) -> tuple[tuple[int, ...], int, int, int, float]:
    """Return a key that sorts versions from the oldest to the newest, as PEP 440 orders them.

    The part after a "+" does not count. A text that is no version comes first.
    """
    found = _FULL.fullmatch(version)
    if not found:
        return (), 0, 0, 0, 0.0
    release, letter, candidate, post, dev = found.groups()
    numbers = [int(number) for number in release.split(".")]
    while numbers and numbers[-1] == 0:  # 1.0 is 1.0.0
        numbers.pop()
    phase = letter or ("dev" if dev and not post else "final")
    return (
        tuple(numbers),
        _PHASES.index(phase),
        int(candidate or 0),
        int(post) + 1 if post else 0,
        float(dev or "inf"),
    )


def promise(number: VersionNumber) -> Promise:
    """Return what is promised for a version."""
    return next(versions.promise for versions in RANGES if versions.last is None or number <= versions.last)


def missing(number: VersionNumber) -> list[str]:
    """Return what is missing with this version."""
    return [limitation.what for limitation in LIMITATIONS if number < limitation.until]


def reads_uuids(version: str | None) -> bool:
    """Whether this version reads UUIDs in CUDA_VISIBLE_DEVICES; True for an unknown version. Indices are read by each version."""
    number = parse(version or "")
    return number is None or number >= UUIDS


def note(version: str | None) -> str:
    """Return what a user should know of a version, in one line; "" for nothing.

    Args:
        version: the version as vLLM's package has it; None if it is not known.
    """
    number = parse(version or "")
    if number is None:
        return ""
    tested = next(versions for versions in RANGES if versions.promise is Promise.TESTED)
    match promise(number):
        case Promise.TESTED:
            return ""
        case Promise.WORKS:
            return f"vLLM {version} works with vllm_magic, but only {tested} are tested with each change."
        case Promise.OLD:
            lacks = "; ".join(missing(number))
            return f"vLLM {version} is old: vllm_magic is tested with {tested}. It is started all the same; what is missing: {lacks}."
        case Promise.NEW:
            return (
                f"vLLM {version} is newer than those that this vllm_magic was tested with ({tested}). "
                "If something is missing, look for a newer vllm_magic."
            )


def table() -> str:
    """Return the promises as a table in Markdown, with what is missing with old versions."""
    promises = [f"| {versions} | {versions.promise.value} |" for versions in RANGES]
    lacks = [
        f"| before {_text(limitation.until)} | missing: {limitation.what} |" for limitation in LIMITATIONS
    ]
    return "\n".join(["| vLLM | |", "|---|---|", *promises, *lacks])


def _text(number: VersionNumber) -> str:
    return f"{number[0]}.{number[1]}"
