"""Compare one GPU before and after a release, in a table of situations with the expected verdicts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vllm_magic.gpu.devices import ComputeProcess, Gpu
from vllm_magic.release.gpu_comparison import (
    SETTLE_LIMIT,
    SMALL_REST,
    TOLERANCE,
    GpuHistory,
    arrivals,
    compare,
    weakened,
)
from vllm_magic.release.result import Proof

GIB = 2**30
OURS, HELPER, FIRST, SECOND, X = 11, 12, 21, 22, 31
LAST = math.inf
Rows = dict[int, float | None]


def gpu(used: float | None, listed: Rows | None = None, *, draws: tuple[int, ...] = (X,)) -> Gpu:
    """A GPU of 80 GiB; all sizes are in GiB."""
    processes = tuple(
        ComputeProcess(pid, None if held is None else int(held * GIB), computes=pid not in draws)
        for pid, held in (listed or {}).items()
    )
    bytes_ = None if used is None else int(used * GIB)
    free = None if bytes_ is None else 80 * GIB - bytes_
    return Gpu(0, "GPU-a", "H200", 80 * GIB, bytes_, free, processes)


def nameless(used: float | None) -> Gpu:
    return replace(gpu(used), processes=None)


def case(baseline: Gpu, snapshots: list[Gpu], now: Gpu | None, **facts) -> GpuHistory:
    """A server with two processes; the driver has listed it if a snapshot has its processes."""
    ours = frozenset({OURS, HELPER})
    named = any(one.pid in ours for look in snapshots for one in look.processes or ())
    return GpuHistory(baseline, tuple(snapshots), now, ours, **{"named": named, **facts})


RAN = gpu(60, {OURS: 60})  # alone on the GPU

# What it is, the case, and the proof at the first look and at the last one: None for "not back", WEAK for no more than
# without the driver.
WEAK = "weak"
FULL, LISTED = Proof.NVML_MEMORY, Proof.NVML_PROCESSES
MEMORY = {
    "all is back": (case(gpu(0), [RAN], gpu(0)), FULL, FULL),
    "a little more": (case(gpu(0), [RAN], gpu(TOLERANCE / GIB)), FULL, FULL),
    "still listed": (case(gpu(0), [RAN], gpu(60, {OURS: 60})), None, None),
    "still listed, without its bytes": (case(gpu(0), [RAN], gpu(0, {OURS: 0})), None, None),
    "its pid is another's": (case(gpu(0), [RAN], gpu(4, {OURS: 4}), reused=frozenset({OURS})), FULL, FULL),
    "out of sight": (case(gpu(0), [RAN], None), WEAK, WEAK),
    "held, and nobody listed": (case(gpu(0), [RAN], gpu(60)), None, None),
    "half of it held, and nobody listed": (case(gpu(0), [RAN], gpu(31)), None, None),
    "a small rest, and nobody listed": (case(gpu(0), [RAN], gpu(0.5)), None, LISTED),
    "a rest of a small server": (case(gpu(0), [gpu(1, {OURS: 1})], gpu(0.6)), None, None),
    "never listed, and it ended early": (case(gpu(0), [], gpu(3)), None, WEAK),
    # Others, whom the driver names.
    "a neighbour came": (case(gpu(0), [gpu(65, {OURS: 60, FIRST: 5})], gpu(5, {FIRST: 5})), FULL, FULL),
    "a neighbour came late": (case(gpu(0), [RAN], gpu(5, {FIRST: 5})), FULL, FULL),
    "a neighbour grew": (case(gpu(1, {FIRST: 1}), [RAN], gpu(5, {FIRST: 5})), FULL, FULL),
    "a neighbour left": (case(gpu(5, {FIRST: 5}), [gpu(65, {OURS: 60, FIRST: 5})], gpu(0)), FULL, FULL),
    "a neighbour left, and it is held": (
        case(gpu(60, {FIRST: 60}), [gpu(75, {OURS: 15, FIRST: 60})], gpu(15)),
        None,
        None,
    ),
    # Who draws.
    "a display grew": (
        case(gpu(1, {X: 1}), [gpu(61, {OURS: 60, X: 1})], gpu(1.2, {X: 1.2})),
        FULL,
        FULL,
    ),
    "a display says no bytes": (
        case(gpu(1, {X: None}), [gpu(61, {OURS: 60, X: None})], gpu(1, {X: None})),
        FULL,
        FULL,
    ),
    # Memory that the driver names nobody for.
    "it grew while the server started": (case(gpu(0), [gpu(60.2, {OURS: 60})], gpu(0.2)), LISTED, LISTED),
    "it grew while the server ran": (case(gpu(0), [RAN, gpu(60.2, {OURS: 60})], gpu(0.2)), LISTED, LISTED),
    "it grew a lot while the server ran": (case(gpu(0), [RAN, gpu(70, {OURS: 60})], gpu(10)), LISTED, LISTED),
    "it grew beside a neighbour": (
        case(gpu(0), [gpu(65.2, {OURS: 60, FIRST: 5})], gpu(7.2, {FIRST: 5, SECOND: 2})),
        LISTED,
        LISTED,
    ),
    "it grew after the last snapshot": (case(gpu(0), [RAN], gpu(0.2)), None, LISTED),
    "it grew a lot after the last snapshot": (case(gpu(0), [RAN], gpu(10)), None, None),
    "it grew on a GPU that it left alone": (case(gpu(0), [gpu(0)], gpu(0.2), named=True), None, LISTED),
    "it grew while the server slept": (case(gpu(0), [RAN, gpu(2.2, {OURS: 2})], gpu(0.2)), None, LISTED),
    "the engine had ended at the last look": (
        case(gpu(0), [gpu(61, {OURS: 60, HELPER: 1}), gpu(61, {HELPER: 1})], gpu(60)),
        None,
        None,
    ),
    # Where it says less.
    "all have 0 bytes, and it is held": (case(gpu(0), [gpu(60, {OURS: 0})], gpu(60)), None, None),
    "all have 0 bytes": (case(gpu(0), [gpu(60, {OURS: 0})], gpu(0)), FULL, FULL),
    "all have 0 bytes, and a neighbour came": (
        case(gpu(0), [gpu(60, {OURS: 0}), gpu(65, {OURS: 0, FIRST: 0})], gpu(5, {FIRST: 0})),
        WEAK,
        WEAK,
    ),
    "nobody is listed, and it is held": (case(nameless(0), [nameless(60)], nameless(60)), None, None),
    "nobody is listed": (case(nameless(0), [nameless(60)], nameless(0)), FULL, FULL),
    "nobody is listed, and a little came": (case(nameless(0), [nameless(60)], nameless(0.2)), None, WEAK),
    "nobody is listed, and a lot came": (case(nameless(0), [nameless(60)], nameless(5)), None, None),
    "nobody is listed, and a lot came while it ran": (
        case(nameless(0), [nameless(60), nameless(65)], nameless(5)),
        WEAK,
        WEAK,
    ),
    "others were listed only now": (case(nameless(60), [RAN], gpu(60)), FULL, FULL),
    "no memory is told": (case(gpu(None), [gpu(None, {OURS: None})], gpu(None)), LISTED, LISTED),
    "nothing is told": (case(nameless(None), [nameless(None)], nameless(None)), WEAK, WEAK),
}


def proof(one: GpuHistory, waited: float) -> Proof | str | None:
    judged = compare(one, waited)
    return (judged.proof or WEAK) if judged.back else None


@pytest.mark.parametrize("situation", MEMORY)
def test_memory(situation):
    one, first, last = MEMORY[situation]
    assert (proof(one, 0.0), proof(one, LAST)) == (first, last)
    weak = compare(one, LAST)
    assert bool(weak.note) is (weak.proof is not Proof.NVML_MEMORY)


def test_a_small_rest_gets_time_to_come_back():
    one = case(gpu(0), [RAN], gpu(0.5))
    assert not compare(one, SETTLE_LIMIT - 0.1).back
    assert compare(one, SETTLE_LIMIT).back
    assert not compare(case(gpu(0), [RAN], gpu(SMALL_REST / GIB + 0.1)), SETTLE_LIMIT).back


@pytest.mark.parametrize(
    ("one", "note"),
    [
        (
            case(gpu(0), [RAN], gpu(60, {OURS: 59, HELPER: 1})),
            f"GPU 0: the driver still lists pid {OURS}, {HELPER}",
        ),
        (
            case(gpu(0), [RAN], gpu(65, {FIRST: 5})),
            f"GPU 0 has 60.00 GiB more in use than before the start (in use: pid {FIRST}: 5.00 GiB)",
        ),
        (
            case(gpu(0), [gpu(60.2, {OURS: 60})], gpu(0.2)),
            "GPU 0 has 0.20 GiB more in use than before the start, and the driver lists no process that holds it",
        ),
        (
            case(nameless(0), [nameless(60), nameless(65)], nameless(5)),
            "GPU 0 has 5.00 GiB more in use than before the start, and the driver does not say whose that is",
        ),
        (case(gpu(None), [gpu(None, {OURS: None})], gpu(None)), "GPU 0 does not report its memory"),
        (case(gpu(0), [RAN], None), "GPU 0 cannot be seen any more"),
    ],
)
def test_the_note(one, note):
    assert compare(one, LAST).note == note


# Who is listed before the start and now, what is known of them, and who of them came.
CAME = {
    "nobody": ({}, {}, {}, []),
    "one": ({}, {FIRST: 4}, {}, [FIRST]),
    "one without its bytes": ({}, {FIRST: None}, {}, [FIRST]),
    "two beside one who was there": ({FIRST: 4}, {FIRST: 4, SECOND: 1, 99: 1}, {}, [SECOND, 99]),
    "one who was there and grew": ({FIRST: 1}, {FIRST: 4}, {}, []),
    "one who has the pid of one who was there": (
        {FIRST: 1},
        {FIRST: 4},
        {"young": frozenset({FIRST})},
        [FIRST],
    ),
    "one who draws": ({}, {X: 4}, {}, []),
    "one of ours": ({}, {OURS: 4}, {}, []),
    "one who has a pid of ours": ({}, {OURS: 4}, {"reused": frozenset({OURS})}, [OURS]),
    "one that is not visible here": ({}, {FIRST: 4}, {"hidden": frozenset({FIRST})}, [FIRST]),
}


@pytest.mark.parametrize("situation", CAME)
def test_arrivals(situation):
    before, after, facts, came = CAME[situation]
    one = case(gpu(0, before), [RAN], gpu(4, after), **facts)
    assert [process.pid for process in arrivals(one)] == came


def test_arrivals_if_the_driver_listed_no_process_before():
    """Then only processes that are younger than the server are sure to have come."""
    one = case(nameless(0), [RAN], gpu(4, {FIRST: 3, SECOND: 1}), young=frozenset({SECOND}))
    assert [process.pid for process in arrivals(one)] == [SECOND]
    assert arrivals(replace(one, now=None)) == []


def test_an_ended_process_of_another_server_gets_time_to_disappear():
    """The driver lists ended processes for a moment. They are named only if it lists them for longer."""
    one = case(gpu(0), [RAN], gpu(4, {FIRST: 4}), hidden=frozenset({FIRST}))
    assert compare(one, 0.0) == (False, None, f"GPU 0: the driver still lists pid {FIRST}")
    assert compare(one, LAST).back


@pytest.mark.parametrize(
    ("snapshots", "said", "proof"),
    [
        ([RAN], Proof.NVML_MEMORY, Proof.NVML_PROCESSES),
        ([RAN], Proof.NVML_PROCESSES, Proof.NVML_PROCESSES),
        ([nameless(60)], Proof.NVML_MEMORY, None),
        ([nameless(60)], None, None),
    ],
)
def test_an_arrival_weakens_the_proof(snapshots, said, proof):
    one = case(gpu(0), snapshots, gpu(4, {FIRST: 4}))
    assert weakened(compare(one, LAST)._replace(proof=said), one).proof is proof
