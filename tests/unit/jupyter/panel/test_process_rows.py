"""What the rows of the panel's process tree say that processes use."""

from __future__ import annotations

import os

from vllm_magic.jupyter.panel.process_rows import ProcessUsage
from vllm_magic.linux import processes
from vllm_magic.linux.processes import Identity


def test_the_first_read_knows_no_cpu_time():
    usage, me = ProcessUsage(), processes.read(os.getpid()).identity
    resident, share, threads = usage.of(me)
    assert resident > 2**20
    assert share is None
    assert threads >= 1
    assert usage.of(me)[1] >= 0


def test_a_process_that_is_gone_is_not_known():
    assert ProcessUsage().of(Identity(2**22 + 1, 1)) == (None, None, None)


def test_those_that_have_ended_are_forgotten():
    usage, me = ProcessUsage(), processes.read(os.getpid()).identity
    usage.of(me)
    usage.keep([])
    assert usage.of(me)[1] is None
