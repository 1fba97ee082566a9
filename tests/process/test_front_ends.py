"""Front ends that ignore updates of an output: they show a whole start and a whole answer."""

from __future__ import annotations

import os
import re
import select
import sys
import time

import pytest
import stand_in
from jupyter_client.manager import KernelManager
from ptyprocess import PtyProcess

LIMIT = 120.0
SAYS = "**one** two three four five six seven eight nine ten"
ASK = "get_ipython().run_cell_magic('vllm', '', 'x')"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


@pytest.fixture
def env(home, executable) -> dict[str, str]:
    says = stand_in.options(says=SAYS, token_s=0.02, load_s=0.5)
    return {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable, **says, "TERM": "dumb"}


class Console:
    """``jupyter console`` in a terminal."""

    def __init__(self, env: dict[str, str]) -> None:
        simple = "--ZMQTerminalInteractiveShell.simple_prompt=True"
        self._terminal = PtyProcess.spawn([sys.executable, "-m", "jupyter_console", simple], env=env)
        self._read_to("In [1]:")

    def run(self, code: str, number: int) -> str:
        """Run a line, the one with this number, and return what the console shows until the next prompt."""
        self._terminal.write(f"{code}\n".encode())
        return self._read_to(f"In [{number + 1}]:")

    def close(self) -> None:
        self._terminal.write(b"exit\n")
        deadline = time.monotonic() + LIMIT
        while self._terminal.isalive() and time.monotonic() < deadline:
            self._read(0.1)
        self._terminal.close(force=True)

    def _read_to(self, end: str) -> str:
        seen, deadline = "", time.monotonic() + LIMIT
        while end not in seen:
            assert time.monotonic() < deadline, seen
            seen = _CONTROL.sub("", seen + self._read(1.0))
        return seen

    def _read(self, limit: float) -> str:
        if not select.select([self._terminal.fd], [], [], limit)[0]:
            return ""
        try:
            return self._terminal.read().decode(errors="replace")
        except EOFError:
            return ""


def test_jupyter_console(env, traces):
    console = Console(env)
    try:
        console.run("%load_ext vllm_magic", 1)
        started = console.run("server = %vllm start tiny --max-model-len 4096", 2)
        asked = console.run(ASK, 3)
        console.run("%vllm stop", 4)
    finally:
        console.close()
    assert re.search(r"tiny: .*\ntiny: .*\ntiny is ready after ", started), started
    assert f"\n{SAYS}\n(1 tokens in, 10 out · " in asked
    assert traces.processes() == []


def test_a_program_that_ignores_updates(env, capsys):
    """``execute_interactive`` prints what comes, but no update; as a person's console, and as a program's."""
    manager = KernelManager(kernel_name="python3", transport_encryption="auto")
    manager.start_kernel(env=env)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)

        def run(code: str, *, allow_stdin: bool) -> str:
            client.execute_interactive(code, allow_stdin=allow_stdin, timeout=LIMIT)
            return capsys.readouterr().out

        run("%load_ext vllm_magic", allow_stdin=False)
        started = run("server = %vllm start tiny", allow_stdin=True).splitlines()
        assert len(started) > 2
        assert started[-1].startswith("tiny is ready after ")
        assert run("%%vllm\nx", allow_stdin=True).startswith(f"{SAYS}\n(1 tokens in, ")
        assert run("%%vllm\nx", allow_stdin=False).startswith(f"{SAYS}1 tokens in, ")  # two outputs
        assert run("_ = %vllm restart", allow_stdin=False).startswith("tiny is ready after ")
        run("%config VllmMagics.display = 'append'", allow_stdin=False)
        assert run("%%vllm\nx", allow_stdin=False).startswith(f"{SAYS}\n(1 tokens in, ")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
