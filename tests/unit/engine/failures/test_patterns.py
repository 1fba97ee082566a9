"""Logs that are made to take long: no line costs more than some milliseconds, and no log more than some seconds."""

from __future__ import annotations

import importlib
import re
import string
import sys
import time
from itertools import islice

import pytest

from vllm_magic.engine.failures import constraints, error_kinds, explanations, places, tracebacks, unexplained
from vllm_magic.engine.failures.explanations import explain, explain_death
from vllm_magic.engine.failures.signs import SIGNS
from vllm_magic.engine.failures.signs.engine import ENGINE_DIED, EXITED
from vllm_magic.engine.startup import stages

parser = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

LINE = 0.05  # seconds of the processor for one line and one pattern; a quadratic one took 0.5 and more
# Of a log: more than the places that are compared. Its time grows with their number, up to some 500 (MOST_READ in tracebacks.py).
LINES = explanations.MOST_PLACES + 10
LOG = 5.0  # seconds of the processor for so many lines; takes up to 1
SEARCHED = {
    **{sign.pattern: re.compile(sign.pattern, re.MULTILINE) for sign in (*SIGNS, *EXITED, ENGINE_DIED)},
    **{pattern.pattern: pattern for _, pattern in stages._SIGNS},
    **{kind.message: re.compile(kind.message) for kind in (*error_kinds.KINDS, *constraints._CONSTRAINTS)},
    **{message: re.compile(message) for message, _ in constraints._REMEDIES},
    **{
        pattern.pattern: pattern
        for pattern in (
            *(
                explanations._STOPPED,
                explanations._FINISHED,
                unexplained._ADVICE,
                unexplained._CONDITION,
                explanations._OF_WORKER,
            ),
            *(explanations._OF_CALL, explanations._OF_VALUE, explanations._OF_OTHERS, tracebacks._LIBRARY),
            *(places._PACKAGE, constraints._LIST),
        )
    },
}
MATCHED = {  # at the beginning of a line only
    value.pattern: value
    for module in (explanations, tracebacks, unexplained)
    for value in vars(module).values()
    if isinstance(value, re.Pattern) and value.pattern not in SEARCHED
}


def example(tokens) -> str:
    """A text that these tokens of a pattern match, with each optional part."""
    text = ""
    for kind, value in tokens:
        name = str(kind)
        if name == "LITERAL":
            text += chr(value)
        elif name == "IN":
            text += next(one for one in "x1 -.:/'[]" + string.ascii_letters if _is_in(value, one))
        elif name in ("NOT_LITERAL", "ANY"):
            text += "x"
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            text += example(value[2]) * max(1, value[0])
        elif name == "SUBPATTERN":
            text += example(value[3])
        elif name == "BRANCH":
            text += example(value[1][0])
    return text


def _is_in(tokens, one: str) -> bool:
    classes = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
    found = negated = False
    for kind, value in tokens:
        name = str(kind)
        negated |= name == "NEGATE"
        found |= name == "LITERAL" and chr(value) == one
        found |= name == "RANGE" and value[0] <= ord(one) <= value[1]
        if name == "CATEGORY":
            *other, word = str(value).removeprefix("CATEGORY_").split("_")
            found |= (re.match(classes[word], one) is None) == bool(other)
    return found != negated


def beginnings(pattern: str) -> list[str]:
    """What begins like a match, and ends before or behind something that the pattern repeats."""
    tokens = list(parser.parse(pattern, re.MULTILINE))
    ends = {
        end
        for at, (kind, _) in enumerate(tokens)
        if str(kind) not in ("LITERAL", "AT")
        for end in (at, at + 1)
    }
    return [text for end in sorted({*ends, len(tokens) - 1}) if (text := example(tokens[:end]))]


def hostile(pattern: str):
    for begin in ("", *beginnings(pattern)):
        for repeated in {*beginnings(pattern), "x", "1", " ", ".", "-", "/", "x.", "'", "`", "(1", "x "}:
            yield (begin + repeated * tracebacks.LONGEST_READ)[: tracebacks.LONGEST_READ]


@pytest.mark.parametrize("pattern", [*SEARCHED, *MATCHED])
def test_no_line_takes_long(pattern):
    for line in hostile(pattern):
        began = time.thread_time()
        if pattern in MATCHED:
            MATCHED[pattern].match(line)
        else:
            for _ in islice(SEARCHED[pattern].finditer(line), explanations.MOST_PLACES):
                pass
        assert time.thread_time() - began < LINE, line[:100]


HOSTILE = {
    "choices": "error: argument x: invalid choice: x, maybe x ",
    "an argument without an end": "error: argument " + "x" * 1000,
    "types": "has model type `",
    "JSON": "error: argument --x: ",
    "GPUs": "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your x GPU ",
    "libraries": "ImportError: " + ".so" * 500,
    "an error on each line": "[Errno 98] ",
    "values": "  Value error, x",
    "errors of other files": "ERROR 11-23 20:49:30 [a.py:1] KeyError: x_y_z. Use ",
    "unknown flags": "error: unrecognized arguments: " + "--model-x " * 100,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("most", [1, LINES])
def test_no_log_takes_long(kind, most):
    line = (HOSTILE[kind] * 2**16)[: 2**16]
    began = time.thread_time()
    explain([line] * most, 1)
    explain_death(["EngineCore encountered a fatal error", *[line] * most], 1)
    assert time.thread_time() - began < LOG


def test_of_a_very_long_log_the_beginning_of_each_line_is_searched(monkeypatch):
    monkeypatch.setattr(tracebacks, "MOST_READ", 2**16)
    lines = ["x" * 1000] * 300
    assert explain([*lines, "ModuleNotFoundError: No module named 'flashinfer'"], 1).cause == (
        "vLLM misses the module flashinfer"
    )
    assert explain(["x" * 1900 + " [Errno 98]"], 1).port_taken
    assert not explain([*lines, "x" * 1900 + " [Errno 98]"], 1).port_taken
