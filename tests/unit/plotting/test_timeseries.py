"""The curve of a server: it spans the whole life, keeps the peaks, and never grows beyond its size."""

from __future__ import annotations

import threading
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_magic.plotting.timeseries import MOST_SAMPLES, Curve, Sample

counts = st.none() | st.integers(0, 100)
memory = st.lists(st.none() | st.integers(0, 2**37), max_size=3).map(tuple)
rates = st.none() | st.floats(0, 1e6)
looks = st.tuples(memory, memory, counts, counts, rates, rates)


def peak(values) -> float | None:
    return max((one for one in values if one is not None), default=None)


@given(st.lists(looks, min_size=1, max_size=40), st.integers(1, 5 * MOST_SAMPLES))
@settings(deadline=None, max_examples=60)
def test_whatever_comes(pattern, length):
    curve = Curve()
    assert curve.samples() == ()
    added = [Sample(1000.0 + at, *pattern[at % len(pattern)]) for at in range(length)]
    for one in added:
        curve.add(one)
    kept = curve.samples()
    assert len(kept) <= MOST_SAMPLES
    assert len(kept) == length or len(kept) > MOST_SAMPLES // 2
    assert kept[0].at == added[0].at
    assert kept[-1] == added[-1]  # as it was seen
    assert [one.at for one in kept] == sorted({one.at for one in kept})
    for name in ("running", "waiting", "prompt_rate", "generation_rate"):
        assert peak(getattr(one, name) for one in kept) == peak(getattr(one, name) for one in added)
    for gpu in range(3):
        for name in ("used", "held"):
            of_gpu = [
                peak(getattr(one, name)[gpu] for one in some if gpu < len(getattr(one, name)))
                for some in (kept, added)
            ]
            assert of_gpu[0] == of_gpu[1]
    assert set(curve.gpus) == {gpu for one in added for gpu, held in enumerate(one.held) if held}


def test_its_resolution_is_the_same_all_along():
    curve = Curve()
    for at in range(10 * MOST_SAMPLES):
        curve.add(Sample(float(at)))
    kept = curve.samples()
    gaps = {later.at - one.at for one, later in pairwise(kept[:-1])}
    assert len(gaps) == 1


def test_the_gpus_that_it_was_started_for_count_as_its_own():
    curve = Curve()
    curve.begin([7, None, 9], [2])
    assert (curve.baseline, curve.gpus) == ((7, None, 9), (2,))
    curve.add(Sample(1.0, held=(0, 5, None)))
    assert curve.gpus == (1, 2)


def test_several_threads():
    curve = Curve()

    def add() -> None:
        for at in range(2 * MOST_SAMPLES):
            curve.add(Sample(float(at), running=1))
            assert len(curve.samples()) <= MOST_SAMPLES

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.running for one in curve.samples()} == {1}
