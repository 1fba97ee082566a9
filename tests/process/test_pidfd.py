"""Pythons without `os.pidfd_open`, and systems without pidfds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import by_hand
import pytest
import stand_in
from by_hand import until

from vllm_magic import ledger
from vllm_magic.children import flag_reading
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.provisioning.base import StartKind
from vllm_magic.provisioning.standby_pool import StandbyMode

PROGRAM = Path(by_hand.__file__).with_name("python_without_pidfd.py")
KERNEL = """
import os, signal, sys
import vllm_magic
assert not hasattr(os, "pidfd_open") and not hasattr(signal, "pidfd_send_signal")
server = vllm_magic.start("tiny")
print(server.pid, flush=True)
if sys.stdin.readline() == "stop\\n":
    print(server.stop().verified, flush=True)
"""


@pytest.fixture
def kernel(home, executable, tmp_path, monkeypatch):
    """A program with a server, in a Python that has neither function; so have its guards."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    (tmp_path / "kernel.py").write_text(KERNEL)
    words = [sys.executable, PROGRAM, tmp_path / "python", tmp_path / "kernel.py"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def family() -> set[Identity]:
    """The guards and the leader of the only server."""
    (entry,) = ledger.entries()
    assert entry.record
    found = {Identity(*one) for one in (entry.record.outer, entry.record.inner, entry.record.leader) if one}
    assert len(found) == 3
    return found


def test_a_start_and_a_stop(kernel, traces):
    assert kernel.stdout.readline().strip().isdigit()
    everyone = family()
    assert sum(PROGRAM.name in processes.title(one.pid) for one in everyone) == 2  # the guards run so too
    print("stop", file=kernel.stdin, flush=True)
    assert kernel.stdout.readline() == "True\n"
    assert kernel.wait(60) == 0
    assert pidfd.wait_for_all(everyone, 60) == set()
    traces.check()


def test_a_killed_kernel(kernel, traces):
    assert kernel.stdout.readline().strip().isdigit()
    everyone = family()
    kernel.kill()
    assert pidfd.wait_for_all(everyone, 60) == set()
    traces.wait()


WITHOUT_PIDFDS = """
import ctypes, struct
# seccomp(2): pidfd_open and pidfd_send_signal are answered with ENOSYS, and everything else is allowed.
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *one) for one in (
    (LOAD, 0, 0, 0), (EQUAL, 1, 0, 434), (EQUAL, 0, 1, 424), (RETURN, 0, 0, 0x50000 | 38), (RETURN, 0, 0, 0x7FFF0000),
))
kept = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(kept)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance(colors="nocolor").run_cell("%load_ext vllm_magic")
"""


def test_load_ext_on_a_system_without(home):
    said = subprocess.run([sys.executable, "-c", WITHOUT_PIDFDS], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("VllmMagicError: vllm_magic needs Linux 5.3 or newer"), said
    assert len(said.stdout.strip().splitlines()) == 1


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_load_ext_on_another_system(platform):
    """The package is imported there, without a module of Unix alone, and says in one line what it needs."""
    said = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, platform], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("vllm_magic needs Linux 5.3 or newer (or WSL 2)")
    assert said.endswith(f"This is {platform}: run the kernel on a Linux machine.\n")
    assert said.count("\n") == 1


ELSEWHERE = """
import sys
sys.platform = sys.argv[1]
sys.modules.update(dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios")))
import vllm_magic
try:
    vllm_magic.load_ipython_extension(None)
except vllm_magic.VllmMagicError as error:
    print(error)
"""
# Python executes the lines of a .pth file that begin with "import" (site).
PTH = """\
import os, signal; del os.pidfd_open, signal.pidfd_send_signal
"""


def test_a_vllm_whose_python_lacks_them(manager, spec, traces, tmp_path):
    """Its Python reads the flags, and imports ahead of a start."""
    vllm = stand_in.install_environment(tmp_path / "vllm")
    (packages,) = vllm.parents[1].glob("lib/python*/site-packages")
    (packages / "without_pidfd.pth").write_text(PTH)
    lacks = [vllm.parent / "python", "-c", "import os, signal; os.pidfd_open"]
    assert "AttributeError" in subprocess.run(lacks, capture_output=True, text=True, check=False).stderr

    wanted = spec("tiny", executable=str(vllm))
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(wanted)
    until(lambda: manager.spares.status().warm, "the spare is not ready")
    server = manager.start(wanted).server
    assert server.start_kind is StartKind.WARM
    until(lambda: flag_reading.table(str(vllm)), "the flags are not read")
    flag_reading.end()
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    assert manager.stop("tiny").verified
    traces.check()
