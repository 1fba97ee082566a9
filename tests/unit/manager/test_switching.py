"""Several models, one at a time: who is in the way sleeps, or is stopped."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from vllm_magic.errors import InvalidOption, ServerNotFound
from vllm_magic.jupyter.commands import registry
from vllm_magic.jupyter.commands.models import LoraAction, LoraArguments
from vllm_magic.jupyter.commands.sleep import SleepArguments


def test_the_routes_of_sleep_mode_have_no_key(manager, spec):
    with pytest.raises(InvalidOption, match=r"cannot be used with --host 0\.0\.0\.0"):
        manager.start(spec("m", "--enable-sleep-mode", "--host", "0.0.0.0"))


def test_there_is_no_server_to_sleep(manager):
    with pytest.raises(ServerNotFound):
        manager.get()


def parse(command: str, *words: str):
    return registry.commands()[command].parse(words)


def test_the_words(shell):
    assert parse("sleep", "m", "--level", "2") == SleepArguments("m", 2)
    assert parse("sleep") == SleepArguments(None, 1)
    assert parse("switch", "m", "-tp", "2").rest == ("m", "-tp", "2")
    for line in ("switch m --no-wait", "switch"):
        with pytest.raises(UsageError, match="switch"):
            shell.run_line_magic("vllm", line)
    with pytest.raises(InvalidOption, match="level"):
        parse("sleep", "--level", "3")


class TestAdapters:
    def test_the_words(self):
        load = LoraArguments(LoraAction.LOAD, "a", "b", "s")
        assert parse("lora", "load", "a", "b", "--server", "s") == load
        assert parse("lora", "unload", "a") == LoraArguments(LoraAction.UNLOAD, "a", "", None)
        assert parse("lora", "list") == LoraArguments(LoraAction.LIST, "", "", None)
        for words in ([], ["load", "a"], ["other"], ["list", "x"]):
            with pytest.raises(InvalidOption, match=r"See %vllm help lora\."):
                parse("lora", *words)
