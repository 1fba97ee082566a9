"""YAML that somebody may have written to hold its reader up: what it says, in bounded time and memory."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 50  # lists and mappings in each other
LONGEST = 2**17  # characters, where each alias stands for what it names


def load(text: bytes) -> Any:
    """What the text says. The caller bounds its length: the parser is in Python, and takes a second for 32 kB.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it is too deep, holds itself, or is far longer than it looks (by its aliases).
        Exception: PyYAML raises anything where a value does not fit its tag.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        size, depth = _measure(node, {})
        if depth > DEEPEST:
            raise ValueError(f"it is deeper than {DEEPEST} lists and mappings")
        if size > LONGEST:
            raise ValueError("it is far longer than it looks (by its aliases)")
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Gives up where it is deep, before its parser takes long: that one looks ahead, at a cost that grows with the depth."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"it is deeper than {DEEPEST} lists and mappings")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Characters and depth of a node, each alias written out; ``known`` has the nodes that were measured."""
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise ValueError("something in it holds itself (by an alias)")
        return measured
    known[id(node)] = None
    size, depth = 1, 0
    if isinstance(node.value, str):
        size += len(node.value)
    else:
        for part in node.value:  # of a mapping a pair
            for one in part if isinstance(part, tuple) else (part,):
                its_size, its_depth = _measure(one, known)
                size, depth = size + its_size, max(depth, its_depth)
    known[id(node)] = size, depth + 1
    return size, depth + 1
