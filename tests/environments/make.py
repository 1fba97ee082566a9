"""Make environments of `catalog.py`, with uv: `python -m environments.make NAME...` (or `all`), with `tests/` on the path.

An environment that is there, and was made from the same description, is kept. vllm_magic is installed in it as a user
installs it, but for `--editable`, so that a test runs the code of this checkout.

A Python is searched for on the PATH and among pyenv's, then uv is asked to bring it. STANDALONE_PYTHON names a Python of
python-build-standalone for the environment "standalone". Where no Python is had, nothing is made: the tests say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from environments.catalog import ALL, FOLDER, PINS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from environments.catalog import Environment

RECORD = "record.json"  # in the folder of an environment
_VERSION = "import sys; print(*sys.version_info[:3], sep='.'); print(sys._base_executable)"


class NoPythonError(Exception):
    """No Python of the wanted versions can be had."""


def main() -> int:
    """Make the environments, and return 1 if one of them could not be made."""
    failed = 0
    for name in ALL if sys.argv[1:] == ["all"] else sys.argv[1:]:
        environment = ALL[name]
        try:
            state = "is there" if is_made(environment) else _make(environment)
        except NoPythonError as error:
            state = str(error)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(environment.folder, ignore_errors=True)
            state, failed = f"failed: {error.stderr.strip()[-2000:]}", 1
        print(f"{name}: {state}", flush=True)
    return failed


def is_made(environment: Environment) -> bool:
    """Return whether an environment is there as `catalog.py`, its pins and pyproject.toml describe it."""
    record = environment.folder / RECORD
    return record.exists() and json.loads(record.read_text())["description"] == _description(environment)


def _description(environment: Environment) -> str:
    """Return what the environment is made from, in short."""
    files = [ROOT / "pyproject.toml", *(PINS / one for one in environment.pins)]
    parts = [json.dumps(asdict(environment)).encode(), *(one.read_bytes() for one in files)]
    return sha256(b"\0".join(parts)).hexdigest()


def _make(environment: Environment) -> str:
    FOLDER.mkdir(parents=True, exist_ok=True)
    version, python = _python(environment.pythons)
    _uv("venv", "--quiet", "--clear", "--python", python, str(environment.folder))
    for pins in environment.pins:
        _install(environment, *environment.before, "--constraints", str(PINS / pins))
    before = _versions(environment)
    # Without the pins: what a user's `pip install vllm-magic` would do there.
    _install(environment, *environment.beside, *environment.options, "--editable", str(ROOT))
    record = {
        "description": _description(environment),
        "python": version,
        "before": before,
        "after": _versions(environment),
    }
    (environment.folder / RECORD).write_text(json.dumps(record, indent=1))
    return f"made, with Python {version}"


def _install(environment: Environment, *arguments: str) -> None:
    _uv("pip", "install", "--quiet", "--python", str(environment.python), *arguments)


def _versions(environment: Environment) -> dict[str, str]:
    listed = _uv("pip", "list", "--quiet", "--format", "json", "--python", str(environment.python))
    return {one["name"]: one["version"] for one in json.loads(listed)}


def _python(versions: tuple[str, ...]) -> tuple[str, str]:
    """Return the full version and the path of the first Python that can be had.

    Raises:
        NoPythonError: there is none.
    """
    for wanted in versions:
        for candidate in _candidates(wanted):
            asked = subprocess.run(
                [candidate, "-I", "-c", _VERSION], capture_output=True, text=True, check=False
            )
            if asked.returncode == 0:
                version, path = asked.stdout.split("\n")[:2]
                return version, path
    raise NoPythonError(f"not made: there is no Python {' or '.join(versions)}")


def _candidates(wanted: str) -> Iterator[str]:
    """Yield the paths at which this version may be; the last after uv has tried to bring it."""
    if wanted == "standalone":
        yield from filter(None, [os.environ.get("STANDALONE_PYTHON")])
        return
    name = f"python{wanted}"
    for folder in os.get_exec_path():
        if (path := Path(folder, name)).exists():
            yield str(path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob(f"versions/{wanted}.*/bin/{name}")))
    try:
        _uv("python", "install", "--quiet", wanted)
        yield _uv("python", "find", "--managed-python", wanted).strip()
    except subprocess.CalledProcessError:
        return


def _uv(*arguments: str) -> str:
    beside = Path(sys.executable).parent
    uv = shutil.which("uv", path=os.pathsep.join([str(beside), *os.get_exec_path()])) or "uv"
    return subprocess.run([uv, *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
