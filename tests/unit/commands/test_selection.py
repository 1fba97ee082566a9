"""What is suggested for a name that is no command."""

from __future__ import annotations

import pytest

from vllm_magic.commands.front_end import NOTEBOOK
from vllm_magic.commands.selection import select
from vllm_magic.errors import InvalidOption

NAMES = ("start", "stop", "status", "spare")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("serve", "start"),
        ("run", "start"),
        ("list", "status"),
        ("kill", "stop"),
        ("stat", "start"),
        ("stoop", "stop"),
    ],
)
def test_the_command_that_is_meant(name, suggested):
    with pytest.raises(
        InvalidOption, match=f"There is no command '{name}'. Did you mean .*{suggested}(\\(\\))?\\?"
    ):
        select(NAMES, [name], NOTEBOOK, alone="status")


def test_nothing_is_suggested_for_a_name_that_is_like_none():
    with pytest.raises(InvalidOption, match=r"There is no command 'xyz'\. See "):
        select(NAMES, ["xyz"], NOTEBOOK, alone="status")
