"""The size of vLLM's KV cache, and how many requests have room in it.

The rules are those of vLLM 0.32 (v1/core/kv_cache_utils.py, v1/kv_cache_interface.py). The KV cache is one pool of blocks.
Layers that keep the same form a group, all groups have the same number of layers, and a block holds some tokens of one
group. So a request takes blocks for each group, and vLLM never uses one of the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KvCache:
    """The KV cache of one GPU.

    Attributes:
        token: the bytes of one token in all layers that keep every token.
        block: the bytes of a block; 0 for a model without a KV cache.
        block_size: the number of tokens in a block.
        groups: for each group of layers, the most tokens that it keeps of a request; None for all tokens.
    """

    token: int
    block: int
    block_size: int
    groups: tuple[int | None, ...]

    def request(self, tokens: int) -> int:
        """Return the bytes for one request of so many tokens."""
        return self.block * self._blocks(tokens)

    def needed(self, tokens: int) -> int:
        """Return the least size of the KV cache for one request, in bytes: with the block that vLLM never uses."""
        return self.request(tokens) + self.block

    def requests(self, room: int, tokens: int) -> float:
        """Return how many requests of so many tokens have room at the same time: vLLM's "Maximum concurrency".

        Args:
            room: the size of the KV cache, in bytes.
            tokens: the tokens of each request, 1 or more.
        """
        return max(0, room) // self.block / self._blocks(tokens) if self.block else float("inf")

    def longest(self, room: int, most: int) -> int:
        """Return the tokens of the longest request that has room in `room` bytes, at most `most`; 0 if none has."""
        shortest, longest = 0, most
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if self.needed(middle) <= room:
                shortest = middle
            else:
                longest = middle - 1
        return shortest

    def _blocks(self, tokens: int) -> int:
        """Return the number of blocks for one request of so many tokens."""
        return sum(
            _up(tokens, self.block_size)
            if kept is None
            else _up(min(tokens, kept), self.block_size) + 1  # a window may begin in the middle of a block
            for kept in self.groups
        )


def layout(
    *, full: int, sliding: int, window: int, page: int, block_size: int, in_flight: int, stages: int = 1
) -> KvCache:
    """Return the KV cache of a model with layers of these kinds, on the GPU with the most layers.

    Args:
        full: the number of layers that keep every token.
        sliding: the number of layers that keep a window.
        window: the tokens in a window.
        page: the bytes of one token in one layer.
        block_size: the tokens in a block.
        in_flight: the most tokens that are being computed at one moment; a layer with a window keeps them too.
        stages: the number of pipeline stages, among which the layers are divided.
    """
    kept = max(0, window - 1) + in_flight
    if not full or not sliding:
        groups = ((None,) if full else ()) + ((kept,) if sliding else ())
        layers = full + sliding
    else:
        layers = min(full, sliding)
        if max(full, sliding) < 1.5 * layers:  # vLLM makes no further group for a few more layers
            layers = max(full, sliding)
        groups = (None,) * _up(full, layers) + (kept,) * _up(sliding, layers)
    block = _up(layers, stages) * page * block_size
    return KvCache(_up(full, stages) * page, block, block_size, groups)


def _up(count: int, size: int) -> int:
    """Return ``count / size``, rounded up."""
    return -(-count // size)
