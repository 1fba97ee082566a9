"""Reading a log that holds anything, and any amount of it."""

from __future__ import annotations

import os
import time

import pytest

from vllm_magic.engine.startup import log
from vllm_magic.engine.startup.log import LONGEST_LINE, MOST_AT_ONCE, Follower, clean, tail

ESCAPES = [
    (b"\x1b[31mred\x1b[0m", "red"),
    (b"\x1b[1;38;2;255;0;0mred\x1b[K", "red"),
    (b"\x1b]0;title\x07text", "text"),
    (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    (b"\x1b(Btext\x1b)0", "text"),
    (b"\x1b7saved\x1b8", "saved"),
    (b"\x1bcreset", "reset"),
    (b"\x1b=\x1b>keypad", "keypad"),
    (b"bell\x07 back\x08 null\x00", "bell back null"),
    ("C1: \x9b31mred".encode(), "C1: 31mred"),  # xterm takes U+009B for ESC [
    (b"tab\tstays", "tab\tstays"),
    (b"\xff\xfe bytes", "\ufffd\ufffd bytes"),
    ("wide 模型 ✓".encode(), "wide 模型 ✓"),
    (b"\x1b", ""),
    (b"  left  ", "  left"),
]


@pytest.mark.parametrize(("raw", "text"), ESCAPES)
def test_what_a_terminal_would_obey_is_taken_out(raw, text):
    assert clean(raw) == text


def test_a_line_is_cut():
    assert clean(b"x" * 10_000_000) == "x" * LONGEST_LINE
    assert clean("模".encode() * LONGEST_LINE * 2) == "模" * LONGEST_LINE


LOOKS = (
    b'INFO:     127.0.0.1:46572 - "GET /metrics HTTP/1.0" 200 OK\n',
    b'INFO:     127.0.0.1:46572 - "GET /health HTTP/1.1" 200 OK\n',
    b'(APIServer pid=7) INFO:     127.0.0.1:1 - "GET /metrics HTTP/1.1" 200 OK\n',
    # vLLM 0.12 to 0.15 colour the prefix, also in a file.
    b'\x1b[0;36m(APIServer pid=7)\x1b[0;0m INFO:     127.0.0.1:1 - "GET /metrics HTTP/1.1" 200 OK\n',
)
NO_LOOKS = (
    b'INFO:     127.0.0.1:46572 - "GET /health HTTP/1.1" 503 Service Unavailable\n',
    b'INFO:     10.0.0.7:46572 - "GET /metrics HTTP/1.1" 200 OK\n',
    b'INFO:     127.0.0.1:46572 - "GET /v1/models HTTP/1.1" 200 OK\n',
    b'INFO:     127.0.0.1:46572 - "POST /metrics HTTP/1.1" 200 OK\n',
    b'ERROR: INFO:     127.0.0.1:46572 - "GET /metrics HTTP/1.0" 200 OK\n',
)


def test_our_own_looks_at_a_server_are_not_shown(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"".join([*LOOKS, *NO_LOOKS, *LOOKS]))
    told = [line.decode().rstrip() for line in NO_LOOKS]
    assert tail(path, 100) == told
    assert tail(path, 2) == told[-2:]
    assert Follower(path).new_lines() == told


def test_behind_a_night_of_looks_the_log_is_found(tmp_path):
    path = tmp_path / "log"
    night = LOOKS[0] * (3 * MOST_AT_ONCE // len(LOOKS[0]))
    path.write_bytes(b"one\ntwo\n" + night)
    assert tail(path, 1) == ["two"]
    assert tail(path, 50) == ["one", "two"]


class TestTail:
    def test_the_last_lines_oldest_first(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"".join(b"line %d\n" % number for number in range(100)))
        assert tail(path, 3) == ["line 97", "line 98", "line 99"]
        assert len(tail(path, 1000)) == 100
        assert tail(path, 0) == []

    def test_a_line_without_its_end(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"one\ntwo")
        assert tail(path, 5) == ["one", "two"]

    def test_a_carriage_return_ends_a_line(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"one\r\n10%\r50%\r100%\ntwo\r\n")
        assert tail(path, 9) == ["one", "10%", "50%", "100%", "two"]

    def test_lines_that_show_nothing_are_not_counted(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"one\n\n   \n\x1b[0m\n\x00\ntwo\n")
        assert tail(path, 2) == ["one", "two"]

    def test_no_log(self, tmp_path):
        assert tail(tmp_path / "none", 5) == []
        assert tail(tmp_path, 5) == []

    def test_of_a_huge_log_the_end_is_read(self, tmp_path):
        path = tmp_path / "log"
        with path.open("wb") as file:
            file.truncate(100 * 2**20)
            file.seek(0, os.SEEK_END)
            file.write(b"\nlast\n")
        began = time.process_time()
        assert tail(path, 1) == ["last"]
        assert time.process_time() - began < 5

    def test_a_line_that_was_cut_in_front_is_left_out(self, tmp_path):
        path = tmp_path / "log"
        line = b"SECRET" + b"x" * 93 + b"\n"
        path.write_bytes(line * (MOST_AT_ONCE // 100 + 10))
        assert {len(line) for line in tail(path, 10**6)} == {99}

    def test_one_endless_line(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"x" * (MOST_AT_ONCE + 5))
        assert tail(path, 5) == ["x" * LONGEST_LINE]

    def test_no_more_lines_are_cleaned_than_are_wanted(self, tmp_path, monkeypatch):
        path = tmp_path / "log"
        path.write_bytes(b"\n" * 3 + b"".join(b"line %d\n\n" % number for number in range(50000)))
        cleaned = []

        def count(line, secrets):
            cleaned.append(line)
            return clean(line, secrets)

        monkeypatch.setattr(log, "clean", count)
        assert tail(path, 3) == ["line 49997", "line 49998", "line 49999"]
        assert len(cleaned) < 10
        assert tail(path, 0) == []


class TestFollower:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "log"

    @pytest.fixture
    def add(self, path):
        def write(data: bytes) -> None:
            with path.open("ab") as file:
                file.write(data)

        return write

    def test_each_line_once_and_whole(self, path, add):
        follower = Follower(path)
        assert follower.new_lines() == []
        add(b"one\ntw")
        assert follower.new_lines() == ["one"]
        assert follower.new_lines() == []
        add(b"o\n\nthree\n")
        assert follower.new_lines() == ["two", "three"]

    def test_progress_bars(self, path, add):
        follower = Follower(path)
        add(b"  0%\r 50%\r")
        assert follower.new_lines() == ["  0%", " 50%"]
        add(b"100%\r")
        assert follower.new_lines() == ["100%"]
        add(b"\nnext\r\nlast\n")  # the newline belongs to the return before it
        assert follower.new_lines() == ["next", "last"]

    def test_a_character_that_comes_in_two_parts(self, path, add):
        follower = Follower(path)
        raw = "模型\n".encode()
        add(raw[:2])
        assert follower.new_lines() == []
        add(raw[2:])
        assert follower.new_lines() == ["模型"]

    def test_bytes_and_escapes(self, path, add):
        add(b"\x00\xff\x1b[31mred\x1b[0m\n\x1b[0m\n")
        assert Follower(path).new_lines() == ["\ufffdred"]

    def test_a_flood_is_skipped(self, path, add):
        follower = Follower(path)
        add(b"first\n")
        assert follower.new_lines() == ["first"]
        with path.open("ab") as file:
            file.truncate(100 * 2**20)
        add(b"\nlast\n")
        began = time.process_time()
        assert follower.new_lines()[-1] == "last"
        assert time.process_time() - began < 5
        add(b"more\n")
        assert follower.new_lines() == ["more"]

    def test_a_line_that_never_ends_takes_no_memory(self, path, add):
        follower = Follower(path)
        for _ in range(5):
            add(b"x" * (MOST_AT_ONCE // 2))
            assert follower.new_lines() == []
            assert len(follower._rest) <= MOST_AT_ONCE
        add(b"\nlast\n")
        assert follower.new_lines()[-1] == "last"

    def test_a_log_that_was_emptied_is_read_from_its_beginning(self, path, add):
        follower = Follower(path)
        add(b"one\ntwo\nthr")
        assert follower.new_lines() == ["one", "two"]
        path.write_bytes(b"new\n")
        assert follower.new_lines() == ["new"]

    def test_a_log_that_is_gone_and_comes_back(self, path, add):
        follower = Follower(path)
        add(b"one\n")
        assert follower.new_lines() == ["one"]
        path.rename(path.with_name("kept"))
        assert follower.new_lines() == []
        path.with_name("kept").rename(path)
        add(b"two\n")
        assert follower.new_lines() == ["two"]
