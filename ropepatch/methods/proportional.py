"""Proportional RoPE (p-RoPE): only the fastest share of the pairs turns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, check_factor


@dataclass(frozen=True)
class Proportional(Method):
    """Proportional RoPE, as Gemma 4 has it."""

    partial_rotary_factor: float = 1.0
    factor: float = 1.0

    name = "proportional"
    rank = 140
    written = (None, None)
    trained_with = True
    title = "proportional RoPE (p-RoPE)"
    formula = "first ⌊p·D/2⌋ pairs: θ^(-2i/D)/s with D the head dimension; the others stand still"
    paper = "Round and Round We Go, arXiv 2410.06205; transformers modeling_rope_utils.py"
    reach = "the model has to be trained so"
    fine_tuning = "yes"
    about = (
        "How Gemma 4's global layers rotate: the exponent divides by the whole head dimension and the slowest pairs "
        "do not turn at all. ropepatch reads and keeps it; it cannot be added to a model that was not trained so."
    )
    identity_at_one = False  # with a share below 1 the slow pairs stand still
    applicable = False
    scales = False
    spans_head = True
    unextendable = "proportional RoPE leaves most pairs standing still"

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        if not 0 < self.partial_rotary_factor <= 1:
            raise ParameterError(f"{self.name} partial_rotary_factor must be above 0 and at most 1")

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Zeros after the first ``floor(p D / 2)`` pairs; shape ``(head_dim // 2,)``."""
        pairs = rope.inv_freq.size
        turning = math.floor(self.partial_rotary_factor * rope.head_dim / 2)
        inv_freq = np.where(np.arange(pairs) < turning, rope.inv_freq / self.factor, 0.0)
        return Frequencies(inv_freq, rope.attention_scale)
