"""Load YAML in bounded time and memory, also if it was written to keep its reader busy."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 50  # nested lists and mappings
LONGEST = 2**17  # characters, with each alias replaced by what it names


def load(text: bytes) -> Any:
    """Return the content of the text. The caller limits its length: the parser, in Python, takes a second for 32 kB.

    Raises:
        yaml.YAMLError: the text is not YAML.
        ValueError: the content is nested too deeply, contains itself, or is too long when its aliases are replaced.
        Exception: PyYAML raises errors of any type if a value does not fit its tag.
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
            raise ValueError(f"it has more than {LONGEST} characters with its aliases replaced")
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Stops at a deep nesting while it parses: the parser looks ahead, and the time for that grows with the depth."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"it is deeper than {DEEPEST} lists and mappings")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the characters and the depth of a node, with aliases replaced.

    ``known`` has the nodes that were measured already; None for those that are being measured.
    """
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise ValueError("it contains itself, by an alias")
        return measured
    known[id(node)] = None
    size, depth = 1, 0
    if isinstance(node.value, str):
        size += len(node.value)
    else:
        for part in node.value:  # a mapping has pairs
            for child in part if isinstance(part, tuple) else (part,):
                child_size, child_depth = _measure(child, known)
                size, depth = size + child_size, max(depth, child_depth)
    known[id(node)] = size, depth + 1
    return size, depth + 1
