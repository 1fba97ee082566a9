"""How large vLLM's KV cache is, and how many requests have room in it.

As vLLM 0.32 reckons it (v1/core/kv_cache_utils.py, v1/kv_cache_interface.py). It is one pool of blocks. Layers which keep the same are a group, all groups have the same number of layers, and a
block holds some tokens of one group. So a request takes blocks for each group, and one block is never used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KvCache:
    """The KV cache of one GPU.

    Attributes:
        token: bytes of one token in all layers that keep every token.
        block: bytes of a block; 0 for a model without a KV cache.
        block_size: tokens in a block.
        groups: of each group the tokens that it keeps of a request, at most; None for all of them.
    """

    token: int
    block: int
    block_size: int
    groups: tuple[int | None, ...]

    def request(self, tokens: int) -> int:
        """Bytes for one request of so many tokens."""
        return self.block * self._blocks(tokens)

    def needed(self, tokens: int) -> int:
        """Bytes that there have to be for one request: with the block that is never used."""
        return self.request(tokens) + self.block

    def requests(self, room: int, tokens: int) -> float:
        """How many requests of so many tokens are in it at once: vLLM's "Maximum concurrency".

        Args:
            room: bytes.
            tokens: of each request, 1 or more.
        """
        return max(0, room) // self.block / self._blocks(tokens) if self.block else float("inf")

    def longest(self, room: int, most: int) -> int:
        """The longest request that has room, up to `most` tokens; 0 where there is none."""
        shortest, longest = 0, most
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if self.needed(middle) <= room:
                shortest = middle
            else:
                longest = middle - 1
        return shortest

    def _blocks(self, tokens: int) -> int:
        return sum(
            _up(tokens, self.block_size)
            if kept is None
            else _up(min(tokens, kept), self.block_size) + 1  # a window need not begin where a block does
            for kept in self.groups
        )


def layout(
    *, full: int, sliding: int, window: int, page: int, block_size: int, in_flight: int, stages: int = 1
) -> KvCache:
    """The KV cache of a model with layers of these kinds, on the GPU that has the most of them.

    Args:
        full: layers that keep every token.
        sliding: layers that keep a window.
        window: tokens.
        page: bytes of one token in one layer.
        block_size: tokens.
        in_flight: tokens that may be computed beyond what is settled, and which a window keeps as well.
        stages: of the pipeline, among which the layers are divided.
    """
    kept = max(0, window - 1) + in_flight
    if not full or not sliding:
        groups = ((None,) if full else ()) + ((kept,) if sliding else ())
        layers = full + sliding
    else:
        layers = min(full, sliding)
        if max(full, sliding) < 1.5 * layers:  # a few layers more are not worth another group
            layers = max(full, sliding)
        groups = (None,) * _up(full, layers) + (kept,) * _up(sliding, layers)
    block = _up(layers, stages) * page * block_size
    return KvCache(_up(full, stages) * page, block, block_size, groups)


def _up(count: int, size: int) -> int:
    return -(-count // size)
