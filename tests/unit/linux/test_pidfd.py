"""pidfds in a Python that lacks the functions for them, and on a system that lacks pidfds."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest

import vllm_magic
from vllm_magic import cli
from vllm_magic.errors import VllmMagicError
from vllm_magic.linux import pidfd_calls, support

PACKAGE = Path(vllm_magic.__file__).parent
NOBODY = 2**22 + 1  # above the greatest pid_max


@pytest.fixture(params=["with", "without"])
def python(request, monkeypatch) -> None:
    """This Python with its own functions for pidfds, and without them."""
    if request.param == "without":
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(signal, "pidfd_send_signal")


@pytest.mark.usefixtures("python")
class TestCalls:
    def test_open(self):
        fd = pidfd_calls.open_pid(os.getpid())
        try:
            assert "pidfd" in os.readlink(f"/proc/self/fd/{fd}")
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)

    def test_nobody(self):
        with pytest.raises(ProcessLookupError):
            pidfd_calls.open_pid(NOBODY)

    def test_a_signal(self):
        got = []
        before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
        fd = pidfd_calls.open_pid(os.getpid())
        try:
            pidfd_calls.send_to(fd, signal.SIGUSR1)
        finally:
            os.close(fd)
            signal.signal(signal.SIGUSR1, before)
        assert got == [signal.SIGUSR1]

    def test_no_pidfd(self):
        with open(os.devnull, "rb") as file, pytest.raises(OSError) as raised:  # noqa: PT011 - by its number
            pidfd_calls.send_to(file.fileno(), 0)
        assert raised.value.errno == errno.EBADF

    def test_this_system_has_them(self):
        support.check()


def test_one_file_calls_the_kernel():
    """Other modules that use these functions would fail in a Python without them."""
    named = re.compile(r"(?:os|signal)\.pidfd_|SYS_PIDFD")
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if named.search(path.read_text())
    }
    assert found == {"linux/pidfd_calls.py"}


class TestWithout:
    @pytest.fixture(params=[errno.ENOSYS, errno.EPERM], ids=lambda number: errno.errorcode[number])
    def missing(self, request, monkeypatch):
        def refuse(*_: object) -> int:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(pidfd_calls, "open_pid", refuse)

    @pytest.mark.usefixtures("missing")
    def test_load_ext(self):
        with pytest.raises(VllmMagicError, match=r"^vllm_magic needs Linux 5\.3 or newer .*This Linux"):
            vllm_magic.load_ipython_extension(None)

    @pytest.mark.usefixtures("missing")
    @pytest.mark.parametrize("name", ["start", "serve", "panel"])
    def test_the_functions(self, name):
        with pytest.raises(VllmMagicError, match="needs Linux"):
            getattr(vllm_magic, name)

    @pytest.mark.usefixtures("missing")
    def test_a_terminal(self, capsys):
        assert cli.main(["ps"]) == cli.TO_DO
        assert capsys.readouterr().err.startswith("vllm-magic: vllm_magic needs Linux 5.3")

    @pytest.mark.parametrize("platform", ["darwin", "win32"])
    def test_another_system(self, platform, monkeypatch):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(
            VllmMagicError, match=f"This is {platform}: run the kernel on a Linux machine"
        ) as raised:
            vllm_magic.load_ipython_extension(None)
        assert raised.value._render_traceback_() == [f"VllmMagicError: {raised.value}"]
        assert "\n" not in str(raised.value)

    def test_no_descriptor_is_free(self, monkeypatch):
        def refuse(_: int) -> int:
            raise OSError(errno.EMFILE, "")

        monkeypatch.setattr(pidfd_calls, "open_pid", refuse)
        support.check()  # that is another complaint
