"""The names in the package: none has a word that was retired, and no two classes or type aliases have the same name.

A retired word is a picture that a reader has to know the story of. The field's standard term stands in its place.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_magic

PACKAGE = Path(vllm_magic.__file__).parent

# Each as it stands in a name, in lower case, between underscores or capitals. In alphabetical order, one in a line.
RETIRED = [
    "attendance",
    "audience",
    "deed",
    "deeds",
    "desk",
    "errand",
    "errands",
    "farewell",
    "fate",
    "foresight",
    "hear",
    "heard",
    "hush",
    "judge",
    "judged",
    "kin",
    "luggage",
    "nap",
    "portrait",
    "stranger",
    "strangers",
    "told",
    "visitor",
    "visitors",
]

TYPE = re.compile(r"_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Every name that a module defines or uses."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, (ast.arg, ast.keyword)):
            yield node.arg or ""
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield from (node.name, node.asname or "")


def parts(name: str) -> set[str]:
    """The words of a name, in lower case."""
    return {part.lower() for part in _PARTS.findall(name)}


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Each module of the package, parsed, by its path in the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def test_no_name_has_a_retired_word(modules):
    retired = set(RETIRED)
    found = {
        f"{path}: {name}"
        for path, tree in modules.items()
        for name in {path.removesuffix(".py"), *identifiers(tree)}
        if parts(name) & retired
    }
    assert found == set()


def types(tree: ast.Module) -> Iterator[str]:
    """The name of every class, and of every type alias at the top of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        yield from (one.id for one in targets if isinstance(one, ast.Name) and TYPE.fullmatch(one.id))


def test_no_two_types_have_the_same_name(modules):
    count = Counter(name for tree in modules.values() for name in types(tree))
    assert [name for name, times in count.items() if times > 1] == []


def test_the_list_is_in_alphabetical_order():
    assert sorted(set(RETIRED)) == RETIRED


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("_order_desk", {"order", "desk"}),
        ("GPUDesk2", {"gpu", "desk"}),
        ("TOLD_OF", {"told", "of"}),
        ("snap", {"snap"}),
    ],
)
def test_the_words_of_a_name(name, found):
    assert parts(name) == found
