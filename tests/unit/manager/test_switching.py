"""Several models, one at a time: who is in the way sleeps, or is stopped."""

from __future__ import annotations

import pytest

from vllm_magic.errors import InvalidOption, ServerNotFound
from vllm_magic.jupyter.commands import arguments, start_arguments
from vllm_magic.jupyter.commands.arguments import LoraDeed, LoraWords
from vllm_magic.jupyter.commands.parser import Verb
from vllm_magic.manager import switching


class TestSwitch:
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
    assert start_arguments.start(["m", "-tp", "2"], verb=Verb.SWITCH).spec.args == ("-tp", "2")
    for words in (["m", "--no-wait"], []):
        with pytest.raises(InvalidOption, match="switch"):
            start_arguments.start(words, verb=Verb.SWITCH)
    with pytest.raises(InvalidOption, match="level"):
        arguments.sleep(["--level", "3"])


class TestAdapters:
    def test_the_words(self):
        assert arguments.lora(["load", "a", "b", "--server", "s"]) == LoraWords(LoraDeed.LOAD, "a", "b", "s")
        assert arguments.lora(["unload", "a"]) == LoraWords(LoraDeed.UNLOAD, "a", "", None)
        assert arguments.lora(["list"]) == LoraWords(LoraDeed.LIST, "", "", None)
        for words in ([], ["load", "a"], ["other"], ["list", "x"]):
            with pytest.raises(InvalidOption, match=r"See %vllm help\."):
                arguments.lora(words)
