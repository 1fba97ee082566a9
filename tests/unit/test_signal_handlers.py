"""A program's own signal handler may use this package in the middle of any call, and waits for threads which use it too."""

from __future__ import annotations

import each_line
import pytest

from vllm_magic import masking
from vllm_magic.engine import free_port
from vllm_magic.linux import lookups
from vllm_magic.masking import mask

# Which ends a wait of the main thread for itself.
pytestmark = pytest.mark.timeout(30, method="signal")


def test_keys_are_masked():
    def remember() -> None:
        masking.remember("some-key-of-a-handler")
        assert mask("some-key-of-a-handler") == "***"

    assert each_line.run(remember, remember) > 1


def test_names_are_looked_up():
    def look() -> None:
        assert lookups.within(20.0, "a name", lambda: 5) == 5

    assert each_line.run(look, look) > 1
    assert lookups._pending == {}


def test_free_ports_are_chosen():
    given: list[int] = []

    def choose() -> None:
        given.append(free_port.choose("127.0.0.1"))

    assert each_line.run(choose, choose) > 1
    assert len(set(given)) == len(given)
