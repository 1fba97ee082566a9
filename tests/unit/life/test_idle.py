"""`--ttl`: a server that nobody asks for anything is released, and no other."""

from __future__ import annotations

import pytest

from vllm_magic import durations
from vllm_magic.engine.api import Activity
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.life.idle import LONGEST, SHORTEST, Idleness


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestJudgement:
    @pytest.fixture
    def clock(self):
        return Clock()

    def until_over(self, idleness: Idleness, clock: Clock, answers=None) -> float:
        """Look as often as it asks for; returns the seconds until it said so."""
        began = clock.now
        while not idleness.judge(answers(clock.now - began) if answers else Activity(0, 7.0)):
            assert idleness.rest() >= min(SHORTEST, 0.001)
            clock.now += idleness.rest()
            assert clock.now - began < 10**6
        return clock.now - began

    @pytest.mark.parametrize("ttl", [0.5, 2.0, 90.0, 1800.0, 86400.0])
    def test_after_just_that_time(self, clock, ttl):
        assert self.until_over(Idleness(ttl, clock), clock) == pytest.approx(ttl, abs=1e-6)

    def test_how_often_it_looks(self, clock):
        for ttl, pause in ((4.0, SHORTEST), (100.0, 10.0), (1800.0, LONGEST)):
            idleness = Idleness(ttl, clock)
            assert idleness.rest() == 0
            assert not idleness.judge(Activity(0, 0.0))
            assert idleness.rest() == pytest.approx(pause)

    def test_a_request_begins_the_time_anew(self, clock):
        def one_at_50(at: float) -> Activity:
            return Activity(0, 7.0 if at < 50 else 8.0)

        assert self.until_over(Idleness(100, clock), clock, one_at_50) == pytest.approx(150)

    def test_a_request_that_takes_long_is_no_idleness(self, clock):
        def busy_until_500(at: float) -> Activity:
            return Activity(1 if at < 500 else 0, 7.0)

        assert self.until_over(Idleness(100, clock), clock, busy_until_500) >= 590

    def test_no_answer_is_no_idleness(self, clock):
        idleness = Idleness(10, clock)
        assert not idleness.judge(Activity(0, 7.0))
        for _ in range(100):
            clock.now += idleness.rest()
            assert not idleness.judge(None)
            assert idleness.rest() >= SHORTEST
        assert idleness.judge(Activity(0, 7.0))

    def test_one_that_never_answered_is_not_idle_at_its_first_answer(self, clock):
        idleness = Idleness(10, clock)
        assert not idleness.judge(None)
        clock.now += 1000
        assert not idleness.judge(Activity(0, 7.0))


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_no_time_to_live(ttl):
    with pytest.raises(InvalidOption, match="how long"):
        ServerSpec("m", ttl=ttl)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("90", 90), ("0", 0), ("2.5", 2.5), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400),
            ("1h2m3s", 3723), ("1.5h", 5400), ("1h5s", 3605), ("0m", 0),
        ],
    )  # fmt: skip
    def test_what_is_written(self, text, seconds):
        assert durations.parse(text) == seconds

    @pytest.mark.parametrize(
        "text", ["", "m", ".", ".m", "soon", "-1", "-1m", "1h30", "30m1h", "1d", "1.2.3h", "inf", "nan", "infh", "1 h", "٣m", "1m1m"]
    )  # fmt: skip
    def test_what_is_none(self, text):
        with pytest.raises(ValueError, match=r"could not convert|not a length"):
            durations.parse(text)

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0 s"),
            (1.5, "1.5 s"),
            (90, "1 min 30 s"),
            (1800, "30 min"),
            (3600, "1 h"),
            (5400, "1 h 30 min"),
        ],
    )
    def test_what_is_told(self, seconds, text):
        assert durations.told(seconds) == text
