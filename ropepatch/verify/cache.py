"""Keys and values of what was run already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Cache:
    """Keys and values of a prefix, by layer.

    Attributes:
        keys: (rows, kv_heads, tokens, head_dim) of each layer.
        values: likewise.
        room: tokens that there is room for from the start; what continues a cache is then written behind it in place,
            over what any other continuation wrote there. None for new tensors each time.
    """

    keys: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    room: int | None = None
    whole: list[tuple[Any, Any]] = field(default_factory=list, repr=False)

    @property
    def length(self) -> int:
        """Tokens held."""
        return int(self.keys[0].shape[2]) if self.keys else 0

    def cut(self, length: int) -> Cache:
        """The same for the first ``length`` tokens; nothing is copied."""
        keys, values = ([x[:, :, :length] for x in held] for held in (self.keys, self.values))
        return Cache(keys, values, self.room, self.whole)

    def and_(self, layer: int, k: Any, v: Any) -> tuple[Any, Any]:
        """The keys and values of a layer with more behind them."""
        import torch

        past, end = self.length, self.length + int(k.shape[2])
        if self.room is None:
            if not past:
                return k, v
            rows = k.shape[0]
            return (
                torch.cat((self.keys[layer].expand(rows, -1, -1, -1), k), 2),
                torch.cat((self.values[layer].expand(rows, -1, -1, -1), v), 2),
            )
        if layer == len(self.whole):
            sizes = (*k.shape[:2], max(self.room, end), k.shape[3])
            self.whole.append((k.new_empty(sizes), v.new_empty(sizes)))
        for whole, new in zip(self.whole[layer], (k, v), strict=True):
            whole[:, :, past:end] = new
        keys, values = self.whole[layer]
        return keys[:, :, :end], values[:, :, :end]
