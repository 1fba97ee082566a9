"""The progress of an installation, from what uv and pip print."""

from __future__ import annotations

import pytest

from vllm_magic.installation.progress import (
    InstallProgress,
    Step,
    after_line,
    from_json,
    to_json,
    with_partial,
)

# uv 0.13.9, its output no terminal.
UV = """\
Using CPython 3.11.7 interpreter at: /usr/bin/python3.11
Creating virtual environment at: e
Using Python 3.11.7 environment at: e
Resolved 6 packages in 3.07s
Downloading torch (888.1MiB)
Downloading numpy (16.0MiB)
 Downloaded numpy
 Downloaded torch
Prepared 6 packages in 6.94s
Installed 6 packages in 215ms
 + certifi==2026.10.19
"""
# pip 23.2 to 26.
PIP = """\
Looking in indexes: https://host/simple
Collecting vllm==0.17.0
  Downloading vllm-0.17.0-cp38-abi3-manylinux_2_31_x86_64.whl (400.0 MB)
Collecting torch==2.10.0 (from vllm==0.17.0)
  Downloading https://host/files/torch-2.10.0-cp311-cp311-manylinux_2_28_x86_64.whl (900.0 MB)
Collecting nvidia_nccl_cu12
  Using cached nvidia_nccl_cu12-2.27.3-py3-none-manylinux2014_x86_64.whl (322.4 MB)
Installing collected packages: nvidia-nccl-cu12, torch, vllm
Successfully installed nvidia-nccl-cu12-2.27.3 torch-2.10.0 vllm-0.17.0
"""
MIB = 2**20


def followed(text: str, **values) -> list[InstallProgress]:
    """Return the progress after each line."""
    seen = [InstallProgress(**values)]
    for line in text.splitlines():
        seen.append(after_line(seen[-1], line))
    return seen[1:]


def test_what_uv_prints():
    seen = followed(UV, step=Step.CHOOSE)
    assert list(dict.fromkeys(one.step for one in seen)) == [Step.CHOOSE, Step.DOWNLOAD, Step.INSTALL]
    assert seen[5].arriving == (("torch", int(888.1 * MIB)), ("numpy", 16 * MIB))
    assert (seen[6].arriving, seen[6].arrived) == ((("torch", int(888.1 * MIB)),), 16 * MIB)
    assert (seen[-1].packages, seen[-1].arriving, seen[-1].arrived) == (6, (), int(904.1 * MIB))


def test_what_pip_prints():
    seen = followed(PIP, step=Step.CHOOSE)
    assert seen[2].arriving == (("vllm", 400_000_000),)
    assert (seen[4].arriving, seen[4].arrived) == ((("torch", 900_000_000),), 400_000_000)
    assert (seen[-1].step, seen[-1].packages, seen[-1].arrived) == (Step.INSTALL, 3, 1_300_000_000)


def test_a_python_is_no_package():
    (begun, done) = followed(
        "Downloading cpython-3.12.1-linux (download) (30.1MiB)\n Downloaded cpython-3.12.1-linux"
    )
    assert (begun.step, begun.arriving) == (Step.PREPARE, (("cpython-3.12.1-linux", int(30.1 * MIB)),))
    assert (done.arriving, done.arrived) == ((), 0)


@pytest.mark.parametrize(
    "line",
    ["", "Downloading", "Downloading x (many)", "Resolved x packages", "\0", "Downloading x (1.2.3MiB)"],
)
def test_other_lines(line):
    before = InstallProgress(Step.DOWNLOAD, packages=3)
    after = after_line(before, line)
    assert (after.step, after.packages, after.total) == (Step.DOWNLOAD, 3, 0)


def test_bytes_on_the_disk():
    """uv unpacks while it downloads: there may be more bytes than the package has."""
    progress = InstallProgress(Step.DOWNLOAD, arriving=(("torch", 100),), arrived=50, expected=400)
    assert (with_partial(progress, 30).done, with_partial(progress, 1000).done) == (80, 150)
    assert progress.total == 400
    assert InstallProgress(arriving=(("torch", 100),), arrived=50, expected=20).total == 150


def test_the_text():
    many = tuple((name, 2**30) for name in "abcde")
    assert InstallProgress(Step.DOWNLOAD, arriving=many, arrived=2**30).text == (
        "downloading a, b, c and 2 more: 1.0 GiB of about 6.0 GiB"
    )
    assert InstallProgress(Step.INSTALL, packages=6).text == "installing 6 packages"
    assert InstallProgress(Step.PROVE, "import vllm").text == "checking that vLLM works: import vllm"


def test_for_other_kernels():
    progress = InstallProgress(Step.DOWNLOAD, "", 6, (("torch", 100),), 50, 3, 400)
    assert from_json(to_json(progress)) == progress


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 5000,
        to_json(InstallProgress()).replace(b"PREPARE", b"OTHER"),
        b'{"step": "DONE"}',
    ],
)
def test_what_is_no_progress(data):
    with pytest.raises(ValueError, match=r"."):
        from_json(data)
