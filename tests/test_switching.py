"""Several models, one at a time: who is in the way sleeps, or is stopped."""

from __future__ import annotations

import pytest

from vllm_magic import switching
from vllm_magic.errors import InvalidOption, ServerNotFound, SleepFailed
from vllm_magic.jupyter import arguments
from vllm_magic.jupyter.arguments import Verb
from vllm_magic.release import Release


class TestSwitch:
    def test_between_two_that_cannot_sleep(self, manager, spec, traces):
        first = switching.switch(manager, spec("one"), timeout=60)
        assert (first.server.state, first.done) == ("ready", ())
        second = switching.switch(manager, spec("two"), timeout=60)
        (release,) = second.done
        assert isinstance(release, Release)
        assert (release.server, release.verified) == ("one", True)
        assert list(manager.servers()) == ["two"]
        again = switching.switch(manager, spec("two"), timeout=60)
        assert (again.server, again.done) == (second.server, ())
        manager.stop()
        traces.check()

    def test_one_that_starts_is_in_the_way_too(self, manager, spec):
        starting = manager.start(spec("one", faults={"init_s": 60.0}), wait=False).server
        switching.switch(manager, spec("two"), timeout=60)
        assert starting.state == "released"

    @pytest.mark.parametrize(
        ("one", "other", "apart"),
        [
            ("0", "1", True),
            ("0,1", "2, 3", True),
            ("0,1", "1", False),
            ("0", None, False),
            (None, None, False),
            ("auto", "1", False),
            ("0", "GPU-1234", False),
        ],
    )
    def test_on_other_gpus_nobody_is_in_the_way(self, one, other, apart):
        assert switching._apart(one, other) is apart


class TestSleep:
    def test_one_without_sleep_mode(self, manager, spec):
        manager.start(spec(), timeout=60)
        with pytest.raises(SleepFailed, match=r"has no sleep mode: .* %vllm stop tiny gives its memory back"):
            switching.sleep(manager)

    def test_there_is_none(self, manager):
        for go in (switching.sleep, switching.wake):
            with pytest.raises(ServerNotFound):
                go(manager)

    def test_its_routes_have_no_key(self, manager, spec):
        with pytest.raises(InvalidOption, match=r"not with --host 0\.0\.0\.0"):
            manager.start(spec("m", "--enable-sleep-mode", "--host", "0.0.0.0"))


def test_the_words():
    assert arguments.sleep(["m", "--level", "2"]) == arguments.SleepWords("m", 2)
    assert arguments.sleep([]) == arguments.SleepWords(None, 1)
    assert arguments.start(["m", "-tp", "2"], verb=Verb.SWITCH).spec.args == ("-tp", "2")
    for words in (["m", "--no-wait"], []):
        with pytest.raises(InvalidOption, match="switch"):
            arguments.start(words, verb=Verb.SWITCH)
    with pytest.raises(InvalidOption, match="level"):
        arguments.sleep(["--level", "3"])
