"""The facts of another machine, as the user names them: ``--for driver=550,cc=7.5,python=3.12``."""

from __future__ import annotations

import re

from vllm_magic.errors import InvalidOption
from vllm_magic.installation.machine_facts import FoundGpu, FoundPython, InstallationFacts, cuda_of

FIELDS = {
    "driver": "the version of the NVIDIA driver, 550 or 550.54.15",
    "cc": "the compute capability of its GPUs, 7.5",
    "python": "its Python, 3.12",
    "glibc": "its C library, 2.35",
    "arch": "x86_64 or aarch64",
}
EXAMPLE = "driver=550,cc=7.5,python=3.12,glibc=2.35"
_NUMBER = re.compile(r"(\d{1,3})\.(\d{1,3})")
_DRIVER = re.compile(r"\d{3}(\.\d{1,4}){0,3}")
_USUAL = {"glibc": "2.35", "arch": "x86_64"}


def parse(text: str) -> InstallationFacts:
    """Return the facts of the machine. Without a driver, it has no GPU.

    Args:
        text: the fields, ``NAME=VALUE`` with commas between them. ``python`` must be there; a driver needs ``cc``.

    Raises:
        InvalidOption: a field is missing, unknown or not valid.
    """
    given: dict[str, str] = dict(_USUAL)
    for field in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = field.partition("=")
        if name not in FIELDS or not equals:
            known = "; ".join(f"{name}: {about}" for name, about in FIELDS.items())
            raise InvalidOption(
                f"--for {text}: {field!r} is not understood. {known}. Example: --for {EXAMPLE}."
            )
        given[name] = value.strip()
    if "python" not in given:
        raise InvalidOption(f"--for {text}: the Python of that machine is missing. Example: --for {EXAMPLE}.")
    driver, capability = given.get("driver"), given.get("cc")
    if (driver is None) != (capability is None):
        missing = "driver" if driver is None else "cc"
        raise InvalidOption(
            f"--for {text}: {missing} is missing ({FIELDS[missing]}). Without a GPU, leave out both."
        )
    if driver is not None and not _DRIVER.fullmatch(driver):
        raise InvalidOption(f"--for driver={driver}: a version like 550 or 550.54.15 is needed.")
    gpus = (FoundGpu("its GPU", _number("cc", capability)),) if capability is not None else ()
    return InstallationFacts(
        machine=given["arch"],
        glibc=_number("glibc", given["glibc"]),
        driver=driver,
        cuda=cuda_of(driver),
        gpus=gpus,
        gpu_problem="" if gpus else "--for names none",
        has_nvidia_device=False,
        pythons=(FoundPython(_number("python", given["python"]), ""),),
        uv=None,  # without internet it brings no Python
        free=None,
    )


def _number(name: str, value: str) -> tuple[int, int]:
    found = _NUMBER.fullmatch(value)
    if found is None:
        raise InvalidOption(f"--for {name}={value}: two numbers are needed ({FIELDS[name]}).")
    return int(found[1]), int(found[2])
