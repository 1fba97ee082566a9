"""Which processes of vLLM nobody owns, that only those can be reaped, and that nobody beside them is touched."""

from __future__ import annotations

import os

import pytest

from vllm_magic import ledger
from vllm_magic.doctor import reap, unowned
from vllm_magic.errors import InvalidOption

pytestmark = pytest.mark.usefixtures("home")


def refused(pid: int) -> str:
    with pytest.raises(InvalidOption) as caught:
        reap.find_candidate(pid, ledger.entries())
    return str(caught.value)


class TestCommandLines:
    @pytest.mark.parametrize(
        "words",
        [
            ["vllm", "serve", "tiny"],
            ["/venv/bin/vllm", "serve"],
            ["/usr/bin/python3.12", "/venv/bin/vllm", "serve", "tiny"],
            ["python", "-I", "-u", "/venv/bin/vllm", "serve", "tiny"],
            ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "tiny"],
            ["python3", "-m", "vllm", "serve", "tiny"],
        ],
    )
    def test_servers(self, words):
        assert unowned.serves(words)

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["vllm"],
            ["vllm", "bench", "serve"],
            ["vim", "serve", "vllm"],
            ["python", "train.py", "vllm", "serve"],
            ["python", "-m", "vllmish.entrypoints"],
            ["python", "-m"],
            ["python", "-c", "vllm serve"],
            ["bash", "-c", "vllm serve tiny"],
            ["grep", "vllm", "serve"],
        ],
    )
    def test_others(self, words):
        assert not unowned.serves(words)


class TestRefusals:
    def test_the_first_process(self):
        assert "left alone" in refused(1)

    def test_this_program_and_those_above(self):
        assert "this program" in refused(os.getpid())
        above = os.getppid()  # init, where who started the tests has ended
        assert ("system's first process" if above == 1 else "this program") in refused(above)
