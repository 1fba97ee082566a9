"""The progress of an installation, from the lines that uv and pip print. No I/O.

uv, if its output is no terminal, prints a line when the versions are chosen, when the download of a large package begins
and ends, and when the packages are installed (uv 0.13). pip prints a line for each package. Neither says how much of
a package has arrived; `build` measures that on the disk.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any

from vllm_magic.sizes import gib

LONGEST_NAME = 100  # characters of the name of a package
MOST_PACKAGES = 1000  # that arrive at the same time; uv downloads 50 at the same time
_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SIZE = r"\((?P<number>[\d.]{1,12})\s?(?P<unit>[kKMG]i?B|B)\)"
_CHOSEN = re.compile(r"Resolved (\d{1,6}) packages?\b")
_BEGINS = re.compile(rf"Downloading (?P<name>\S+)(?: \(download\))? {_SIZE}$")
_ARRIVED = re.compile(r"Downloaded (?P<name>\S+)")
_COLLECTS = re.compile(r"Collecting (?P<name>[\w.-]+)")
_PREPARED = re.compile(r"Prepared \d+ packages? |Installing collected packages: ")
_WHEEL = re.compile(r"(?:\S*/)?(?P<name>[A-Za-z0-9_.]+)-[^/-]+(?:-[^/]+)?\.(?:whl|tar\.gz|zip)")


class Step(Enum):
    """What an installation does now. The values are shown to users."""

    PREPARE = "making the environment"
    CHOOSE = "choosing the versions of all packages"
    DOWNLOAD = "downloading"
    INSTALL = "installing the packages"
    PROVE = "checking that vLLM works"
    DONE = "done"


@dataclass(frozen=True)
class InstallProgress:
    """How far an installation is.

    Attributes:
        step: what is done now.
        detail: the check of `Step.PROVE` that is under way; "" in other steps.
        packages: the number of packages; None if it is not known yet.
        arriving: the names of the packages that are being downloaded, each with its size in bytes.
        arrived: the bytes of the packages whose download has ended. Small packages do not count.
        partial: the bytes of those in ``arriving`` that are here already, about.
        expected: the bytes of the whole download, about; 0 if nobody knows.
    """

    step: Step = Step.PREPARE
    detail: str = ""
    packages: int | None = None
    arriving: tuple[tuple[str, int], ...] = ()
    arrived: int = 0
    partial: int = 0
    expected: int = 0

    @property
    def done(self) -> int:
        """The bytes that are here, about."""
        return self.arrived + self.partial

    @property
    def total(self) -> int:
        """The bytes of the whole download, about; 0 if it is not known."""
        return max(self.expected, self.arrived + sum(size for _, size in self.arriving))

    @property
    def text(self) -> str:
        """The progress as one line for people."""
        if self.step is Step.DOWNLOAD:
            largest = sorted(self.arriving, key=lambda one: one[1], reverse=True)[:3]
            names = ", ".join(name for name, _ in largest) or "packages"
            more = f" and {len(self.arriving) - 3} more" if len(self.arriving) > 3 else ""  # noqa: PLR2004
            return f"{self.step.value} {names}{more}: {gib(self.done, 1)} of about {gib(self.total, 1)}"
        if self.step is Step.INSTALL and self.packages:
            return f"installing {self.packages} packages"
        return f"{self.step.value}: {self.detail}" if self.detail else self.step.value


def after_line(progress: InstallProgress, line: str) -> InstallProgress:
    """Return the progress after a line of the output of uv or pip. A line that says nothing about it changes nothing."""
    line = line.strip()
    if chosen := _CHOSEN.match(line):
        return replace(progress, step=Step.DOWNLOAD, packages=int(chosen[1]))
    if begins := _BEGINS.match(line):
        name = _package(begins["name"])
        others = tuple(one for one in progress.arriving if one[0] != name)
        is_python = progress.step is Step.PREPARE  # uv brings a Python
        if progress.step is Step.CHOOSE and _WHEEL.fullmatch(
            begins["name"]
        ):  # pip downloads one after the other
            progress, others = _all_arrived(progress), ()
        return replace(
            progress,
            step=Step.PREPARE if is_python else Step.DOWNLOAD,
            arriving=(*others, (name, _bytes(begins["number"], begins["unit"])))[-MOST_PACKAGES:],
            partial=0 if not others else progress.partial,
        )
    if arrived := _ARRIVED.match(line):
        return _one_arrived(progress, _package(arrived["name"]))
    if _COLLECTS.match(line):
        return replace(_all_arrived(progress), step=Step.CHOOSE)
    if _PREPARED.match(line):
        count = line.count(",") + 1 if line.startswith("Installing") else progress.packages
        return replace(_all_arrived(progress), step=Step.INSTALL, packages=count)
    return progress


def with_partial(progress: InstallProgress, on_disk: int) -> InstallProgress:
    """Return the progress with the bytes of unfinished downloads that are on the disk.

    uv unpacks a package while it arrives, so there may be more bytes than the package has.
    """
    return replace(progress, partial=min(on_disk, sum(size for _, size in progress.arriving)))


def to_json(progress: InstallProgress) -> bytes:
    """Return the progress as JSON, for other kernels."""
    return json.dumps({**asdict(progress), "step": progress.step.name}).encode()


def from_json(data: bytes) -> InstallProgress:
    """Return the progress that another kernel has written.

    Raises:
        ValueError: the data is no progress.
    """
    try:
        content: dict[str, Any] = json.loads(data)
        known = {field.name: content[field.name] for field in fields(InstallProgress)}
        known["step"] = Step[known["step"]]
        known["arriving"] = tuple(
            (_printable(name), int(size)) for name, size in known["arriving"][:MOST_PACKAGES]
        )
        known["detail"] = _printable(known["detail"])
        known["packages"] = None if known["packages"] is None else int(known["packages"])
        for name in ("arrived", "partial", "expected"):
            known[name] = int(known[name])
    except (TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"this is no progress of an installation: {error}") from None
    return InstallProgress(**known)


def _one_arrived(progress: InstallProgress, name: str) -> InstallProgress:
    size = dict(progress.arriving).get(name, 0)
    rest = tuple(one for one in progress.arriving if one[0] != name)
    if progress.step is Step.PREPARE:  # a Python is no part of the packages' bytes
        return replace(progress, arriving=rest, partial=0)
    return replace(
        progress, arriving=rest, arrived=progress.arrived + size, partial=max(0, progress.partial - size)
    )


def _all_arrived(progress: InstallProgress) -> InstallProgress:
    for name, _ in progress.arriving:
        progress = _one_arrived(progress, name)
    return replace(progress, partial=0)


def _package(word: str) -> str:
    """Return the name of the package for the name or the address of its file."""
    wheel = _WHEEL.fullmatch(word)
    return _printable(wheel["name"].replace("_", "-") if wheel else word)


def _printable(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(text)
    return "".join(character for character in text if character.isprintable())[:LONGEST_NAME]


def _bytes(number: str, unit: str) -> int:
    try:
        return int(float(number) * _UNITS[unit])
    except ValueError:
        return 0
