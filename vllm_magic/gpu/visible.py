"""The GPUs that CUDA will show to a program, from the program's environment.

CUDA numbers the fastest GPU first unless CUDA_DEVICE_ORDER is PCI_BUS_ID; NVML numbers GPUs by their place on the bus. The
two orders agree if all GPUs are of one kind (CUDA C++ Programming Guide, "CUDA Environment Variables").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.gpu.devices import Gpu


class VisibleGpus(NamedTuple):
    """GPUs in CUDA's order; if ``ordered`` is False, neither the order nor the choice among them is known."""

    gpus: tuple[Gpu, ...]
    ordered: bool


def visible(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> VisibleGpus:
    """Return the GPUs that a program with this environment will see; none if it will see none.

    Where GPUs are divided (MIG), CUDA shows one part of one GPU, and its choice is only known if the environment names one.

    Args:
        gpus: all GPUs.
        environ: the environment of the program.
    """
    ordered = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) <= 1
    divided = any(gpu.is_part for gpu in gpus)
    ordered = ordered and not divided
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return VisibleGpus(tuple(gpus), ordered)
    chosen: list[Gpu] = []
    for entry in (each.strip() for each in listed.split(",")):
        if entry.isdecimal() and not ordered:
            return VisibleGpus(tuple(gpus), ordered=False)
        named = [
            gpu for gpu in gpus if (entry.isdecimal() and entry == str(gpu.index)) or _begins(gpu.uuid, entry)
        ]
        if divided and not named and entry.lower().startswith("gpu-"):  # the UUID of a divided GPU
            return VisibleGpus(tuple(gpus), ordered=False)
        if len(named) != 1:  # CUDA ignores everything after an entry that names no GPU
            break
        chosen += named
    return VisibleGpus(tuple(chosen), ordered=True)


def without_uuids(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> str | None:
    """Return CUDA_VISIBLE_DEVICES with indices, for CUDA_DEVICE_ORDER=PCI_BUS_ID, if this environment has UUIDs there.

    Args:
        gpus: all GPUs.
        environ: the environment of the program.

    Returns:
        The new value; None if there is no UUID, or an entry that names no whole GPU.
    """
    entries = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if not any(entry.strip().lower().startswith("gpu-") for entry in entries):
        return None
    chosen = visible([gpu for gpu in gpus if not gpu.is_part], environ).gpus
    return ",".join(str(gpu.index) for gpu in chosen) if len(chosen) == len(entries) else None


def _begins(uuid: str, entry: str) -> bool:
    return entry.lower().startswith(("gpu-", "mig-")) and uuid.lower().startswith(entry.lower())
