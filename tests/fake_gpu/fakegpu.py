"""Make a fake NVIDIA driver in a folder, and hold its VRAM.

The folder (ROOT) has `lib/libnvidia-ml.so.1`, the fake NVML, found through LD_LIBRARY_PATH; `dev/nvidia*`,
plain files which a holder opens and maps as the real driver's; `alloc/`, what is held; `config`, the
settings. fakenvml.c says how a byte is held, and lists the settings.

    python fakegpu.py hold GIB [GPU [TEARDOWN_S [LISTS [UID]]]]     # prints "ready", then holds until it is killed
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCE = Path(__file__).with_name("fakenvml.c")
_MAKER = (
    os.getpid()
)  # in the UUIDs, for which a user has one lock each: tests beside each other have GPUs of their own
_MOST_GPUS, _MOST_PARTS = 16, 7  # as in fakenvml.c
_sequence = itertools.count()
_mapped: dict[tuple[Path, int], mmap.mmap] = {}


def build(root: str | os.PathLike[str], **config: object) -> Path:
    """Make a fake driver in `root`, by default with one GPU of 24 GiB, and return the resolved folder."""
    root = Path(root).resolve()
    for folder in ("lib", "dev", "alloc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "lib" / "libnvidia-ml.so.1").write_bytes(_library())
    settings = {"gpus": 1, "total_mib": 24576, "maker": _MAKER, **config}
    configure(root, **settings)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{i}" for i in range(int(str(settings["gpus"]))))):
        (root / "dev" / name).write_bytes(bytes(mmap.PAGESIZE))
    return root


def configure(root: str | os.PathLike[str], **settings: object) -> None:
    """Merge `settings` into those of `root`; they count from the next NVML call on.

    `total_mib__1=8192` sets a key for GPU 1 alone, and None takes a key away.
    """
    path = Path(root) / "config"
    lines = path.read_text().splitlines() if path.exists() else []
    merged: dict[str, object] = {key: value for key, _, value in (line.partition("=") for line in lines)}
    merged.update({key.replace("__", "."): value for key, value in settings.items()})
    text = "".join(f"{key}={value}\n" for key, value in merged.items() if value is not None)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def env(root: str | os.PathLike[str]) -> dict[str, str]:
    """Return this process's environment with the fake driver of `root` in place of a real one."""
    folders = [f"{root}/lib", os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "FAKE_GPU_DIR": str(root), "LD_LIBRARY_PATH": ":".join(filter(None, folders))}


def uuid(gpu: int) -> str:
    """Return the UUID of fake GPU `gpu` of the drivers that this process has made."""
    return f"{'GPU' if gpu < _MOST_GPUS else 'MIG'}-{_MAKER:08x}-fa4e-4000-8000-{gpu:012d}"


def part(place: int, gpu: int = 0) -> int:
    """Return the number of a part (MIG device) of fake GPU `gpu`, which `hold` and `uuid` take for the number of a GPU."""
    return _MOST_GPUS + _MOST_PARTS * gpu + place


def hold(
    nbytes: int,
    gpu: int = 0,
    root: str | os.PathLike[str] | None = None,
    teardown_s: float = 0.0,
    lists: str = "c",
) -> int:
    """Hold `nbytes` of `gpu` until this process, and whoever it forked, is dead.

    Args:
        nbytes: bytes; no RAM and no disk is used for them.
        gpu: index of the GPU, or number of a part.
        root: folder of the fake driver, by default $FAKE_GPU_DIR.
        teardown_s: seconds for which the bytes stay used, and the dead pid listed, after the first query
            that finds no holder: a driver that is slow to give memory back.
        lists: in which of the driver's lists this process is: those that compute (c), that draw (g), that
            compute by way of MPS (m); "" for none of them.

    Returns:
        A file descriptor; closing it gives the bytes back.
    """
    root = Path(root or os.environ["FAKE_GPU_DIR"]).resolve()
    if (root, gpu) not in _mapped:
        whole = gpu if gpu < _MOST_GPUS else (gpu - _MOST_GPUS) // _MOST_PARTS
        device = os.open(root / "dev" / f"nvidia{whole}", os.O_RDWR | os.O_CLOEXEC)
        _mapped[root, gpu] = mmap.mmap(device, mmap.PAGESIZE, mmap.MAP_SHARED)
    name = f"gpu{gpu}-{os.getpid()}-{next(_sequence)}"
    if teardown_s:
        name += f"-{int(teardown_s * 1000)}"
    if lists != "c":
        name += f"@{lists}"
    path = root / "alloc" / name
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.ftruncate(held, nbytes)
    if not teardown_s:
        path.unlink()  # nothing is left behind, whatever kills this process
    return held


@contextlib.contextmanager
def holding(
    root: str | os.PathLike[str],
    gib: float,
    gpu: int = 0,
    teardown_s: float = 0.0,
    lists: str = "c",
    uid: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds `gib` GiB of `gpu`, as another user where one is given; it is killed at the end, if it still lives."""
    command = [sys.executable, __file__, "hold", str(gib), str(gpu), str(teardown_s), lists]
    command += [] if uid is None else [str(uid)]
    with subprocess.Popen(command, env=env(root), stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == "ready\n"
            yield holder
        finally:
            holder.kill()


@functools.cache
def _library() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "libnvidia-ml.so.1"
        flags = f"-shared -fPIC -O1 -Wall -Wextra -fvisibility=hidden -Wl,-soname,{built.name}".split()
        subprocess.run(["gcc", *flags, "-o", built, _SOURCE, "-ldl"], check=True)
        return built.read_bytes()


if __name__ == "__main__":
    _, _verb, _gib, *_rest = sys.argv
    hold(
        int(float(_gib) * 2**30),
        gpu=int(_rest[0]) if _rest else 0,
        teardown_s=float(_rest[1]) if len(_rest) > 1 else 0.0,
        lists=_rest[2] if len(_rest) > 2 else "c",
    )
    if len(_rest) > 3:
        os.setresuid(*[int(_rest[3])] * 3)
    print("ready", flush=True)
    while True:
        time.sleep(3600)
