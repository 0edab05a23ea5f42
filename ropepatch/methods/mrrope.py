"""What both MrRoPEs share: mixed-radix factors between the fast and the slow pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import (
    Array,
    Frequencies,
    Method,
    ParameterError,
    Spectrum,
    check_factor,
    check_original,
    rotations,
    yarn_attention,
)


@dataclass(frozen=True)
class MrRope(Method):
    """Mixed radix: the pairs between the bounds are slowed by growing powers of the factor."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    paper = "MrRoPE, arXiv 2601.22181"
    reach = "4x to 16x without training in the paper's RULER runs"
    fine_tuning = "no"
    slows_long_pairs = True

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ParameterError(f"{self.name} needs 0 < beta_slow < beta_fast")

    def steps(self, rope: Spectrum) -> tuple[Array, int]:
        """Each pair's step ``k`` between the bounds, shape ``(pairs,)``, and the number of steps ``n``."""
        turns = rotations(rope, self.original_max_position_embeddings)
        fast, slow = np.flatnonzero(turns > self.beta_fast), np.flatnonzero(turns < self.beta_slow)
        low = int(fast[-1]) if fast.size else 0
        high = int(slow[0]) if slow.size else turns.size
        count = max(high - low, 1)
        return np.clip(np.arange(turns.size, dtype=np.float64) - low, 0, count), count

    def exponents(self, rope: Spectrum) -> Array:
        """The power of s by which each pair is slowed, shape ``(pairs,)``."""
        raise NotImplementedError

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """``inv_freq / s^e`` and YaRN's magnitude; the same at every length."""
        attention = yarn_attention(self.factor) if self.attention_factor is None else self.attention_factor
        return Frequencies(rope.inv_freq / self.factor ** self.exponents(rope), rope.attention_scale * attention)
