"""vLLM itself on a GPU: whatever ends a server, the memory that it took is back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.gpu import card
from tests.real.environment import GPU_FLAGS
from vllm_magic import ledger
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import NotEnoughMemory
from vllm_magic.linux import processes
from vllm_magic.provisioning.base import StartKind
from vllm_magic.provisioning.standby_pool import StandbyMode
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release.result import Proof

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.real.environment import RealVllm
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.manager.manager import Manager
    from vllm_magic.server.server import Server

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300), pytest.mark.usefixtures("back")]

REPOSITORY = Path(__file__).resolve().parents[2]
LONG = 120.0  # seconds
ENGINE = "VLLM::EngineCor"  # as the kernel cuts the name
# A user's kernel: it serves, tells who its processes are, and waits to be killed.
KERNEL = """
import json, sys, vllm_magic
server = vllm_magic.start({model!r}, *{flags!r}, name="m", executable={executable!r}, env={env!r})
print(json.dumps(server.pid), flush=True)
sys.stdin.read()
"""


def asked(vllm: RealVllm, *flags: str, name: str = "m", env: dict[str, str] | None = None) -> ServerSpec:
    return ServerSpec(
        str(vllm.model),
        (*GPU_FLAGS, *flags),
        name,
        executable=str(vllm.executable),
        env=tuple(sorted({**vllm.env, **(env or {})}.items())),
    )


def share(fraction: float) -> tuple[str, str]:
    return "--gpu-memory-utilization", str(fraction)


def engine(server: Server) -> int:
    (found,) = (one.identity.pid for one in server.processes() if one.name == ENGINE)
    return found


def answer(server: Server) -> str:
    return server.chat("Say something.", max_tokens=16, temperature=0).text


def test_start_stop_and_at_once_again(vllm: RealVllm, manager: Manager, back: int, traces) -> None:
    answers = set()
    for _ in range(3):
        server = manager.start(asked(vllm)).server
        answers.add(answer(server))
        assert card.used() > 0.8 * card.total()
        release = server.stop()
        assert card.used() <= back + 64 * card.MIB  # when it returns, not some time later
        assert (release.proof, release.verified, release.note) == (Proof.NVML_MEMORY, True, "")
        (memory,) = release.vram
        assert memory.freed is not None
        assert memory.freed > 0.8 * card.total()
    assert len(answers) == 1
    traces.check()


def test_a_stop_while_the_engine_takes_its_memory(vllm: RealVllm, manager: Manager, back: int) -> None:
    server = manager.start(asked(vllm), wait=False).server
    card.seconds_until(lambda: card.used() > back + 256 * card.MIB, LONG)
    release = server.stop()
    assert card.used() <= back + 64 * card.MIB
    assert (release.proof, release.verified) == (Proof.NVML_MEMORY, True)


@pytest.mark.parametrize("victim", [lambda server: server.pid, engine], ids=["leader", "engine"])
def test_a_process_of_it_is_killed(
    vllm: RealVllm, manager: Manager, back: int, victim: Callable[[Server], int]
) -> None:
    server = manager.start(asked(vllm)).server
    os.kill(victim(server), signal.SIGKILL)
    assert server._run.wait_over(LONG)
    assert card.used() <= back + 64 * card.MIB
    assert server.state.over
    assert server.release
    assert (server.release.proof, server.release.verified) == (Proof.NVML_MEMORY, True)


@pytest.mark.parametrize("with_guards", [False, True], ids=["alone", "and its guards"])
def test_the_kernel_is_killed(
    vllm: RealVllm, home: Path, probe: Probe, back: int, with_guards: bool, traces
) -> None:
    code = KERNEL.format(
        model=str(vllm.model), flags=GPU_FLAGS, executable=str(vllm.executable), env=vllm.env
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as kernel:
        assert kernel.stdout
        leader = json.loads(kernel.stdout.readline())
        inner = processes.read(leader).parent
        outer = processes.read(inner).parent
        assert card.used() > 0.8 * card.total()
        for pid in (kernel.pid, *((outer, inner) if with_guards else ())):
            os.kill(pid, signal.SIGKILL)
    if with_guards:
        assert card.used() > 0.8 * card.total()  # nobody is left to release it
        (swept,) = sweep(probe)
        assert swept.release
        assert swept.release.verified
        assert card.used() <= back + 64 * card.MIB
    card.seconds_until(lambda: card.used() <= back + 64 * card.MIB)
    card.seconds_until(lambda: ledger.entries() == [])
    traces.check()


def test_two_side_by_side(vllm: RealVllm, manager: Manager, back: int) -> None:
    one = manager.start(asked(vllm, *share(0.3), name="one")).server
    with_one = card.used()
    two = manager.start(asked(vllm, *share(0.3), name="two")).server
    assert card.used() > with_one + 0.2 * card.total()
    release = one.stop()
    assert (release.verified, release.vram[0].freed is not None) == (True, True)
    assert (release.proof, release.note) == (Proof.NVML_MEMORY, "")  # the other one is known
    assert answer(two)
    assert card.used() > back + 0.2 * card.total()
    assert two.stop().verified


def test_it_is_refused_where_another_program_holds_the_memory(vllm: RealVllm, manager: Manager) -> None:
    hold = f"import sys, torch; x = torch.empty({int(0.5 * card.total())}, dtype=torch.uint8, device='cuda'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [str(vllm.python), "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "1\n"
        with pytest.raises(NotEnoughMemory, match=str(holder.pid)):
            manager.start(asked(vllm))
        assert holder.poll() is None
        holder.kill()


def test_a_neighbour_that_came_is_named(vllm: RealVllm, manager: Manager) -> None:
    server = manager.start(asked(vllm, *share(0.3))).server
    hold = "import sys, torch; x = torch.empty(2**30, dtype=torch.uint8, device='cuda'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [str(vllm.python), "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "1\n"
        release = server.stop()
        assert (release.proof, release.verified) == (Proof.NVML_PROCESSES, True)
        assert f"GPU 0: pid {holder.pid} of " in release.note
        assert "it came while this server ran" in release.note
        holder.kill()


def test_a_spare_forks_its_engine(vllm: RealVllm, manager: Manager, back: int, traces) -> None:
    cold = manager.start(asked(vllm)).server
    expected = answer(cold), sorted(one.name for one in cold.processes())
    assert cold.stop().verified
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(asked(vllm))
    card.seconds_until(lambda: manager.spares.status().warm, LONG)
    assert card.used() <= back + 64 * card.MIB  # a spare that waits has touched no GPU
    warm = manager.start(asked(vllm)).server
    assert (warm.start_kind, warm.cold_because) == (StartKind.WARM, "")
    said = warm.log_path.read_text()
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in said  # vLLM did not hold that it must spawn
    forked = answer(warm), sorted(one.name for one in warm.processes())
    assert forked[0] == expected[0]
    assert set(forked[1]) <= set(expected[1])  # a fork needs no resource tracker
    release = warm.stop()
    assert card.used() <= back + 64 * card.MIB
    assert (release.proof, release.verified) == (Proof.NVML_MEMORY, True)
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    traces.check()
