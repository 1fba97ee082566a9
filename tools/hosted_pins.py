"""Renew the pins of Google Colab and Kaggle in tests/environments/pins, from the public lists of these services.

    .venv/bin/python tools/hosted_pins.py COLAB KAGGLE

COLAB is a checkout of https://github.com/googlecolab/backend-info, KAGGLE one of https://github.com/Kaggle/docker-python, or
each the address of the raw files on a branch, such as https://raw.githubusercontent.com/googlecolab/backend-info/main.
Kaggle builds its image from Colab's, and installs a list of its own over it (Dockerfile.tmpl). Lines that are no `NAME==VERSION`, such as a wheel's address, and local versions (+cu128), are left out.
"""

from __future__ import annotations

import re
import sys
import urllib.request
from pathlib import Path

PINS = Path(__file__).parents[1] / "tests" / "environments" / "pins"
COLAB_LIST = "pip-freeze.gpu.txt"
KAGGLE_LIST = "kaggle_requirements.txt"
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)\s*")


def main() -> None:
    """Write both files."""
    lists = (("colab", _read(sys.argv[1], COLAB_LIST)), ("kaggle", _read(sys.argv[2], KAGGLE_LIST)))
    for name, text in lists:
        pins = _pins(text)
        lines = [f"{package}=={version}\n" for package, version in sorted(pins.items())]
        (PINS / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        sys.stdout.write(f"{name}: {len(lines)} packages\n")


def _pins(text: str) -> dict[str, str]:
    found = filter(None, map(_PIN.fullmatch, text.splitlines()))
    return {re.sub(r"[-_.]+", "-", one[1]).lower(): one[2] for one in found}


def _read(where: str, name: str) -> str:
    if where.startswith("https://"):
        with urllib.request.urlopen(f"{where}/{name}", timeout=60) as answer:  # noqa: S310 - https alone
            text: str = answer.read().decode()
            return text
    return (Path(where) / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
