"""`--ttl`: a server that nobody asks for anything is released, and no other."""

from __future__ import annotations

import pytest

from vllm_magic import durations
from vllm_magic.engine.client.metrics import Activity
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.lifecycle.idle_timeout import (
    CLOSE_LIMIT,
    KEEP_ALIVE,
    LONGEST,
    SHORTEST,
    SHORTEST_REQUEST,
    WAIT_LIMIT,
    Idleness,
    Requests,
    ServerUse,
    keep_alive,
    read_use,
)
from vllm_magic.linux import connections
from vllm_magic.linux.connections import TcpConnection

NOW = 1000.0  # by time.monotonic


def work(in_flight: int, served: float) -> Activity:
    return Activity(in_flight, 0, int(served), 0, 0)


class TestJudgement:
    def until_over(self, idleness: Idleness, answers=None) -> float:
        """Look as often as it asks for; returns the seconds until it said so."""
        now = NOW
        while not idleness.observe(ServerUse(answers(now - NOW) if answers else work(0, 7.0)), now):
            assert idleness.next_reading - now >= min(SHORTEST, 0.001)
            now = idleness.next_reading
            assert now - NOW < 10**6
        return now - NOW

    @pytest.mark.parametrize("ttl", [0.5, 2.0, 90.0, 1800.0, 86400.0])
    def test_after_just_that_time(self, ttl):
        assert self.until_over(Idleness(ttl)) == pytest.approx(ttl, abs=1e-6)

    def test_how_often_it_looks(self):
        for ttl, pause in ((4.0, SHORTEST), (100.0, 10.0), (1800.0, LONGEST)):
            idleness = Idleness(ttl)
            assert idleness.next_reading <= NOW
            assert not idleness.observe(ServerUse(work(0, 0.0)), NOW)
            assert idleness.next_reading == pytest.approx(NOW + pause)

    def test_a_request_begins_the_time_anew(self):
        def one_at_50(at: float) -> Activity:
            return work(0, 7 if at < 50 else 8.0)

        assert self.until_over(Idleness(100), one_at_50) == pytest.approx(150)

    def test_a_request_that_takes_long_is_no_idleness(self):
        def busy_until_500(at: float) -> Activity:
            return work(1 if at < 500 else 0, 7)

        assert self.until_over(Idleness(100), busy_until_500) >= 590

    def test_no_answer_is_no_idleness(self):
        idleness, now = Idleness(10), NOW
        assert not idleness.observe(ServerUse(work(0, 7.0)), now)
        for _ in range(100):
            now = idleness.next_reading
            assert not idleness.observe(ServerUse(None), now)
            assert idleness.next_reading >= now + SHORTEST
        assert idleness.observe(ServerUse(work(0, 7.0)), now)

    def test_one_that_never_answered_is_not_idle_at_its_first_answer(self):
        idleness = Idleness(10)
        assert not idleness.observe(ServerUse(None), NOW)
        assert not idleness.observe(ServerUse(work(0, 7.0)), NOW + 1000)

    def test_a_connection_that_waits_puts_the_end_off(self):
        """And no more: its request is counted once it is answered."""
        idleness, waiting, now = Idleness(10), asked(), NOW
        assert not idleness.observe(ServerUse(QUIET, (waiting,)), now)
        for _ in range(30):
            now = idleness.next_reading
            assert not idleness.observe(ServerUse(QUIET, (waiting,)), now)
        assert now >= NOW + 10
        assert idleness.next_reading == now + SHORTEST
        assert idleness.observe(ServerUse(QUIET), idleness.next_reading)


QUIET = work(0, 7)


def asked(
    received: int | None = 100, *, since_received: float = 0.2, since_sent: float = 9.0
) -> TcpConnection:
    """A connection that has received bytes, and sent none since."""
    return TcpConnection(b"a", received, since_received, since_sent)


def answered(received: int | None = 100, *, since: float = 0.2) -> TcpConnection:
    """A connection that has been sent bytes, in the end or in the beginning of an answer."""
    return TcpConnection(b"a", received, since + 0.1, since)


class TestRequests:
    def test_none(self):
        assert Requests().under_way(ServerUse(QUIET), NOW) is False

    def test_what_is_not_said(self):
        assert Requests().under_way(ServerUse(None, (answered(),)), NOW) is None

    def test_those_that_are_counted(self):
        assert Requests().under_way(ServerUse(work(1, 7.0)), NOW) is True

    def test_one_that_is_not_answered(self):
        requests = Requests()
        for seconds in (0.1, 5.0, 500.0):
            assert (
                requests.under_way(
                    ServerUse(QUIET, (asked(since_received=seconds, since_sent=seconds + 1),)), NOW
                )
                is True
            )

    def test_a_stream_whose_first_token_is_not_there_yet(self):
        requests = Requests()
        for seconds in (0.1, 3.0, KEEP_ALIVE + CLOSE_LIMIT + 0.1, 500.0):
            assert requests.under_way(ServerUse(QUIET, (answered(since=seconds),)), NOW) is True

    def test_a_client_that_keeps_its_connection_open(self):
        requests = Requests()
        assert requests.under_way(ServerUse(QUIET, (answered(since=4.0),)), NOW) is True
        assert requests.under_way(ServerUse(QUIET), NOW) is False  # the server has closed it

    def test_one_that_polls(self):
        requests = Requests()
        assert requests.under_way(ServerUse(QUIET, (answered(100),)), NOW) is True
        for received in (200, 300):
            assert requests.under_way(ServerUse(QUIET, (answered(received),)), NOW) is False
        assert (
            requests.under_way(ServerUse(QUIET, (answered(300, since=KEEP_ALIVE + CLOSE_LIMIT + 0.1),)), NOW)
            is True
        )
        assert requests.under_way(ServerUse(QUIET, (asked(400),)), NOW) is True

    @pytest.mark.parametrize("polls", [(100,), (100, 200), (300, 500, 900)])
    def test_one_that_polls_and_then_asks(self, polls):
        """The head of a stream is sent at once, the first token perhaps much later."""
        requests = Requests()
        for received in polls:
            requests.under_way(ServerUse(QUIET, (answered(received),)), NOW)
        for seconds in (0.1, 3.0, KEEP_ALIVE + CLOSE_LIMIT + 0.1):
            use = ServerUse(QUIET, (answered(polls[-1] + 843, since=seconds),))
            assert requests.under_way(use, NOW) is True

    def test_one_that_asks_and_then_polls(self):
        """The first poll may be anything; those after it have its length."""
        requests = Requests()
        seen = [
            requests.under_way(ServerUse(QUIET, (answered(received),)), NOW)
            for received in (843, 943, 1043, 1343)
        ]
        assert seen == [True, True, False, False]

    def test_a_request_that_comes_in_pieces_is_no_poll(self):
        requests = Requests()
        for pieces in (
            asked(100),
            asked(200, since_sent=float("inf")),
            answered(300),
            answered(300, since=4.0),
        ):
            assert requests.under_way(ServerUse(QUIET, (pieces,)), NOW) is True
        assert requests.under_way(ServerUse(QUIET, (asked(400),)), NOW) is True
        assert requests.under_way(ServerUse(QUIET, (answered(500),)), NOW) is True

    def test_one_whose_requests_are_counted_does_not_poll(self):
        requests = Requests()
        requests.under_way(ServerUse(QUIET, (answered(100),)), NOW)
        assert requests.under_way(ServerUse(work(0, 8.0), (answered(200),)), NOW) is True

    def test_one_over_which_nothing_came(self):
        assert Requests().under_way(ServerUse(QUIET, (TcpConnection(b"a", 0, 900.0, 900.0),)), NOW) is False

    def test_one_that_is_too_short_for_a_request(self):
        assert Requests().under_way(ServerUse(QUIET, (asked(5), asked(SHORTEST_REQUEST - 1))), NOW) is False

    @pytest.mark.parametrize("received", [lambda _: 100, lambda number: 100 + number, lambda _: None])
    def test_one_that_waits_for_ever(self, received):
        """Anybody can connect and send half a request, all at once or a byte at a time: vLLM waits for the rest."""
        requests = Requests()
        for number in range(20):
            now = number * WAIT_LIMIT / 10
            waits = requests.under_way(
                ServerUse(QUIET, (asked(received(number), since_sent=float("inf")),)), now
            )
            assert waits is (number <= 10), number
        # something was served meanwhile
        assert requests.under_way(ServerUse(work(0, 8.0), (asked(),)), now) is True

    def test_several_that_wait_have_a_time_each(self):
        requests, later = Requests(), NOW + WAIT_LIMIT + 1
        assert requests.under_way(ServerUse(QUIET, (asked(),)), NOW) is True
        assert requests.under_way(ServerUse(QUIET, (asked(), asked()._replace(name=b"b"))), later) is True
        assert requests.under_way(ServerUse(QUIET, (asked(),)), later) is False

    def test_one_of_which_the_kernel_does_not_say(self):
        there = TcpConnection(b"a", None, float("inf"), float("inf"))
        assert Requests().under_way(ServerUse(QUIET, (there,)), NOW) is True

    def test_how_long_the_server_leaves_it_open(self):
        assert Requests(60.0).under_way(ServerUse(QUIET, (answered(100, since=30.0),)), NOW) is True
        polled = Requests(60.0)
        polled.under_way(ServerUse(QUIET, (answered(100),)), NOW)
        assert polled.under_way(ServerUse(QUIET, (answered(200, since=30.0),)), NOW) is False
        assert keep_alive({"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60"}) == 60.0
        assert keep_alive({"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "x"}) == keep_alive({}) == KEEP_ALIVE


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_no_time_to_live(ttl):
    with pytest.raises(InvalidOption, match="is not possible"):
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
        assert durations.exact_text(seconds) == text


def test_connections_that_cannot_be_read_in_time_tell_nothing(monkeypatch):
    """So such a server is not released, and drains for as long as it may."""

    def late(_port):
        raise TimeoutError

    monkeypatch.setattr(connections, "established", late)
    seen = read_use(Answering(), 1)
    assert Requests().under_way(seen, NOW) is None
    idleness = Idleness(0.0)
    assert idleness.observe(ServerUse(work(0, 7.0)), NOW)
    assert not idleness.observe(seen, NOW)


class Answering:
    """In place of a server's API: nothing is in flight."""

    def activity(self):
        return work(0, 7)
