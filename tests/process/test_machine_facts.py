"""The facts of a machine, read from a fake driver, a fake nvidia-smi, a fake uv and the real Pythons of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_gpu import fakegpu

from vllm_magic.gpu.probe import Probe
from vllm_magic.installation import machine_facts
from vllm_magic.installation.machine_facts import (
    FoundGpu,
    FoundPython,
    InstallationFacts,
    parse_nvidia_smi,
    read,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 60.0  # seconds; no test waits this long unless it fails
OWN = (sys.version_info[0], sys.version_info[1])


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH. It is empty at first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(folder: Path, name: str, text: str) -> str:
    """Make a script that prints this text, and return its path."""
    script = folder / name
    script.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}\nEND\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fakegpu.build(tmp_path / "gpu", gpus=2)


@pytest.fixture
def probe(root: Path) -> Iterator[Probe]:
    probe = Probe(start_timeout=LONG, env=fakegpu.env(root))
    yield probe
    probe.close()


@pytest.fixture
def blind() -> Iterator[Probe]:
    """A probe without a driver."""
    probe = Probe(start_timeout=LONG, env={"LD_LIBRARY_PATH": "/nowhere"})
    yield probe
    probe.close()


def test_driver_and_gpus_are_those_of_nvml(root: Path, probe: Probe, programs: Path, tmp_path: Path) -> None:
    fakegpu.configure(
        root, driver="550.54.15", cuda=12040, capability=75, name="Tesla T4", capability__1=90, name__1="H100"
    )
    facts = read(probe, tmp_path / "not" / "there")
    assert (facts.driver, facts.branch, facts.cuda) == ("550.54.15", 550, (12, 4))
    assert facts.gpus == (FoundGpu("Tesla T4", (7, 5)), FoundGpu("H100", (9, 0)))
    assert facts.gpu_problem == ""
    assert facts.machine == platform.machine()
    assert facts.glibc == tuple(map(int, (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[1].split(".")))
    assert facts.free is not None
    assert 0 < facts.free <= shutil.disk_usage(tmp_path).total
    assert facts.uv is None


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("450.248.02", (11, 0)),
        ("525.60.13", (12, 0)),
        ("535.183.01", (12, 2)),
        ("550.54.15", (12, 4)),
        ("570.86.10", (12, 8)),
        ("580.65.06", (13, 0)),
        ("590.44.01", (13, 1)),
        ("418.87.01", None),
    ],
)
def test_the_cuda_of_a_driver_that_does_not_say_it(
    root: Path, probe: Probe, programs: Path, tmp_path: Path, driver: str, cuda: tuple[int, int] | None
) -> None:
    fakegpu.configure(root, driver=driver, cuda=0)
    assert read(probe, tmp_path).cuda == cuda


def test_nvidia_smi_where_nvml_is_not_found(blind: Probe, programs: Path, tmp_path: Path) -> None:
    put(programs, "nvidia-smi", "550.54.15, Tesla T4, 7.5\n550.54.15, NVIDIA L4, 8.9")
    facts = read(blind, tmp_path)
    assert (facts.driver, facts.cuda) == ("550.54.15", (12, 4))
    assert facts.gpus == (FoundGpu("Tesla T4", (7, 5)), FoundGpu("NVIDIA L4", (8, 9)))


def test_an_old_nvidia_smi_does_not_know_the_compute_capability(
    blind: Probe, programs: Path, tmp_path: Path
) -> None:
    script = programs / "nvidia-smi"
    script.write_text(
        '#!/bin/sh\ncase "$*" in *compute_cap*) exit 2;; esac\necho "470.82.01, Tesla V100-SXM2-16GB"\n'
    )
    script.chmod(0o755)
    facts = read(blind, tmp_path)
    assert (facts.driver, facts.cuda) == ("470.82.01", (11, 4))
    assert facts.gpus == (FoundGpu("Tesla V100-SXM2-16GB", None),)


def test_a_driver_that_is_not_there(blind: Probe, programs: Path, tmp_path: Path) -> None:
    facts = read(blind, tmp_path)
    assert (facts.driver, facts.cuda, facts.gpus, facts.branch) == (None, None, (), 0)
    assert facts.gpu_problem == "no NVIDIA driver found"


@pytest.mark.parametrize(
    ("vendor", "kind", "is_there"),
    [
        ("0x10de", "0x030200", True),
        ("0x10de", "0x030000", True),
        ("0x10de", "0x040300", False),  # the sound of a graphics card
        ("0x1002", "0x030000", False),  # another maker
    ],
)
def test_a_gpu_on_the_bus_that_no_driver_shows(
    blind: Probe,
    programs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vendor: str,
    kind: str,
    is_there: bool,
) -> None:
    device = tmp_path / "devices" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    monkeypatch.setattr(machine_facts, "_PCI", device.parent)
    assert read(blind, tmp_path).has_nvidia_device is is_there


def pythons(facts: InstallationFacts) -> dict[tuple[int, int], FoundPython]:
    return {one.version: one for one in facts.pythons}


def test_the_pythons_of_uv(
    blind: Probe, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed = tmp_path / "uv"
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(managed))
    for name in ("cpython-3.19.2-linux-x86_64-gnu", "cpython-3.18.0-linux-aarch64-gnu"):
        (managed / name / "bin").mkdir(parents=True)
    headers = managed / "cpython-3.19.2-linux-x86_64-gnu" / "include" / "python3.19"
    headers.mkdir(parents=True)
    (headers / "Python.h").touch()
    for name in (
        "cpython-3.17.0+freethreaded-linux-x86_64-gnu",
        "pypy-3.16.9-linux-x86_64-gnu",
        ".temp",
        "cpython-3.20",
    ):
        (managed / name).mkdir()
    (managed / f"cpython-{OWN[0]}.{OWN[1]}.0-linux-x86_64-gnu").mkdir()
    assert set(pythons(read(blind, tmp_path))) == {OWN}  # without uv, nobody can use them
    uv = put(programs, "uv", "")
    facts = read(blind, tmp_path)
    assert facts.uv == uv
    assert facts.pythons[0].path == sys.executable
    assert set(pythons(facts)) == {OWN, (3, 19), (3, 18)}
    assert pythons(facts)[3, 19].has_headers
    assert not pythons(facts)[3, 18].has_headers


def test_the_pythons_on_path(blind: Probe, programs: Path, tmp_path: Path) -> None:
    real = os.path.realpath(sys.executable)
    other = 12 if OWN[1] != 12 else 13
    shim = 10 if OWN[1] != 10 else 14
    (programs / f"python3.{other}").symlink_to(real)
    put(programs, f"python3.{shim}", "a shim of pyenv")
    found = pythons(read(blind, tmp_path))
    assert set(found) == {OWN, (3, other)}


def test_the_lines_of_nvidia_smi() -> None:
    assert parse_nvidia_smi("") == (None, None, ())
    assert parse_nvidia_smi("580.65.06, NVIDIA B200, 10.0\n") == (
        "580.65.06",
        None,
        (FoundGpu("NVIDIA B200", (10, 0)),),
    )
    assert parse_nvidia_smi("580.65.06, NVIDIA B200, [N/A]\n")[2] == (FoundGpu("NVIDIA B200", None),)
    assert parse_nvidia_smi("No devices were found\n") == (None, None, ())
