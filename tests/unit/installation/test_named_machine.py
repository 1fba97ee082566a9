"""The facts of another machine, as a user names them."""

from __future__ import annotations

import pytest

from vllm_magic.errors import InvalidOption
from vllm_magic.installation import named_machine
from vllm_magic.installation.decision import decide


def chosen(text: str, version: str | None = None) -> str:
    return decide(named_machine.parse(text), version, cpu=False, pre=False).name


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("driver=550,cc=7.5,python=3.12", "cu128"),  # CUDA 12 on a driver of CUDA 12.4
        ("driver=580.65.06, cc=9.0, python=3.12, glibc=2.31", "cu"),
        ("driver=580,cc=9.0,python=3.12,arch=aarch64", "cu"),
        ("python=3.11", "cpu"),  # without a GPU
    ],
)
def test_a_machine(text, backend):
    _version, build, python = chosen(text).split("-")
    assert build.startswith(backend)
    assert python == "py" + text.partition("python=")[2][:4].replace(".", "")


def test_the_version_that_is_wanted():
    assert chosen("driver=550,cc=8.0,python=3.12", "0.17").startswith("0.17.")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the Python of that machine is missing"),
        ("driver=550,cc=7.5", "the Python of that machine is missing"),
        ("driver=550,python=3.12", "cc is missing"),
        ("cc=7.5,python=3.12", "driver is missing"),
        ("driver=new,cc=7.5,python=3.12", "a version like 550"),
        ("driver=550,cc=seven,python=3.12", "--for cc=seven: two numbers are needed"),
        ("python=3", "--for python=3: two numbers are needed"),
        ("python=3.12,os=linux", "'os=linux' is not understood"),
        ("python", "'python' is not understood"),
    ],
)
def test_what_is_not_understood(text, says):
    with pytest.raises(InvalidOption, match=r"Example|needed|leave out") as raised:
        named_machine.parse(text)
    assert says in str(raised.value)
