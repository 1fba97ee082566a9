"""The notation of commands in messages: magics, Python calls, or commands of a terminal.

The package writes its messages with magics (``%vllm stop tiny``) and their options (``--name NAME``); `written` rewrites them
in the notation of the front end that is in use. If neither the magics nor the terminal command are in use, that is Python calls.
"""

from __future__ import annotations

import re
from enum import Enum


class Notation(Enum):
    """A way to write a command."""

    MAGIC = "%vllm stop tiny"
    CALL = 'vllm_magic.stop("tiny")'
    TERMINAL = "vllm-magic stop tiny"


_notation = Notation.CALL
# For each magic or option in a message, the Python call in its place. A word after a magic is the name of a server, but not if
# it is a verb of the message, as in "%vllm logs shows more".
_CALLS = [
    (re.compile(r"%vllm start MODEL \[flags\]"), 'vllm_magic.start("MODEL", *flags)'),
    (re.compile(r"%vllm start \.\.\. --keep (\w+)"), r'vllm_magic.start(..., keep="\1")'),
    (re.compile(r"%vllm start ([A-Z]+(?:/[A-Z]+)?)\b"), r'vllm_magic.start("\1")'),
    (re.compile(r"%vllm (stop|attach) ([A-Za-z0-9][\w.-]*[\w-])"), r'vllm_magic.\1("\2")'),
    (re.compile(r"%vllm restart(?: [A-Za-z0-9][\w.-]*[\w-])?"), "vllm_magic.start(...)"),
    (
        re.compile(r"%vllm logs (?!tells|shows|may)([A-Za-z0-9][\w.-]*[\w-])"),
        r'vllm_magic.servers()["\1"].log()',
    ),
    (re.compile(r"%vllm wake ([A-Za-z0-9][\w.-]*[\w-])"), r'vllm_magic.servers()["\1"].wake()'),
    (re.compile(r"%vllm logs"), "vllm_magic.servers()[NAME].log()"),
    (re.compile(r"%vllm install (\d[\w.+]*\w)"), r'vllm_magic.install("\1")'),
    (re.compile(r"%vllm ((?:install --|use )[\w. -]*\w)"), r"vllm-magic \1 in a terminal"),
    (re.compile(r"%vllm (start|stop|attach|fit|install)\b"), r"vllm_magic.\1()"),
    (re.compile(r"%vllm (gpu|doctor|reap)\b"), r"vllm-magic \1 in a terminal"),
    (re.compile(r"%vllm(?! [a-z]+\b(?<! shows))"), "vllm_magic.servers()"),
    (
        re.compile(
            r"(?<![\w-])--(name|gpus|ttl|keep|timeout|cluster) (auto|http://[\w:]+|[A-Z0-9](?:[\w,]*\w)?)"
        ),
        r'\1="\2"',
    ),
    (re.compile(r"(?<![\w-])--(name|gpus|ttl|keep|timeout|cluster)(?![\w-])"), r"\1="),
    (re.compile(r"(?<![\w-])--vllm (\d[\w.+]*\w)"), r'vllm="\1"'),
    (re.compile(r"(?<![\w-])--force(?![\w-])"), "force=True"),
]


def use(notation: Notation) -> None:
    """Write the messages of this process in this notation from now on."""
    global _notation  # noqa: PLW0603 - one for each process
    _notation = notation


def written(text: str) -> str:
    """Return a message in the notation that is in use."""
    if _notation is Notation.CALL:
        for magic, call in _CALLS:
            text = magic.sub(call, text)
    elif _notation is Notation.TERMINAL:
        text = text.replace("%vllm", "vllm-magic")
    return text
