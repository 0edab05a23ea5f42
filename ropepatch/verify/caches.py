"""What a decoder keeps: keys and values of a prefix, and slices of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Cache:
    """Keys and values of a prefix, by layer."""

    keys: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens held."""
        return int(self.keys[0].shape[2]) if self.keys else 0

    def cut(self, length: int) -> Cache:
        """The same for the first ``length`` tokens; nothing is copied."""
        return Cache([key[:, :, :length] for key in self.keys], [value[:, :, :length] for value in self.values])


class Held:
    """Slices of weights that stay in memory.

    Args:
        limit: how many bytes they may have together; None for any number.
    """

    def __init__(self, limit: int | None = 0) -> None:
        self.limit, self.taken = limit, 0
        self.slices: dict[tuple[str, int, int], Any] = {}

    def add(self, key: tuple[str, int, int], value: Any) -> None:
        """Keep a slice if there is room."""
        size = value.numel() * value.element_size()
        if self.limit is None or self.taken + size <= self.limit:
            self.slices[key] = value
            self.taken += size
