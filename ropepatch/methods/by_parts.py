"""Methods that treat fast and slow pairs apart by how often they turn: NTK-by-parts and Llama 3."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import (
    Frequencies,
    Method,
    ParameterError,
    Spectrum,
    check_factor,
    check_original,
    rotations,
)


def blend_by_rotations(rope: Spectrum, factor: float, original: int, slow: float, fast: float) -> Frequencies:
    """Pairs that turn more than ``fast`` times over the original context stay, fewer than ``slow``: divided by factor.

    Between, the two are blended linearly in the number of rotations (YaRN paper, arXiv 2309.00071 eq. 17 and 18).
    """
    turns = rotations(rope, original)
    width = fast - slow
    keep = np.clip((turns - slow) / width, 0.0, 1.0) if width > 0 else (turns > fast).astype(np.float64)
    return Frequencies(rope.inv_freq * (keep + (1.0 - keep) / factor), rope.attention_scale)


@dataclass(frozen=True)
class NtkByParts(Method):
    """NTK-by-parts as in the YaRN paper: a ramp over rotations, no attention factor."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    name = "ntk-by-parts"
    title = "NTK-by-parts"
    formula = "r = T/λ; γ = clip((r-β_slow)/(β_fast-β_slow), 0, 1); inv_freq' = inv_freq·(γ + (1-γ)/s)"
    paper = "YaRN, arXiv 2309.00071 §3.2"
    reach = "2x to 4x without training"
    fine_tuning = "a few hundred steps beyond that"
    about = (
        "The paper's form, whose ramp is linear in the number of rotations. What runtimes call YaRN ramps over the "
        "pair index, which is another curve. No runtime has a key for this one; it is written as per-pair factors."
    )
    slows_long_pairs = True

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ParameterError(f"{self.name} needs 0 < beta_slow < beta_fast")
        if self.beta_slow < 1:
            raise ParameterError(f"{self.name} beta_slow below 1 would leave pairs with unseen angles unscaled")

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Fast pairs kept, slow pairs divided, a linear blend between."""
        return blend_by_rotations(
            rope, self.factor, self.original_max_position_embeddings, self.beta_slow, self.beta_fast
        )


@dataclass(frozen=True)
class Llama3(Method):
    """Llama 3.1's scaling: by parts with named frequency factors."""

    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    name = "llama3"
    title = "Llama 3 by-parts scaling"
    formula = "λ < T/high: keep; λ > T/low: /s; else blend with (T/λ-low)/(high-low)"
    paper = "Llama 3.1 release code (2024); transformers modeling_rope_utils.py"
    reach = "8x with Meta's own continued training"
    fine_tuning = "Meta trained with it; without training it behaves like by-parts with β_fast 4"
    about = (
        "What Llama 3.1 (factor 8) and 3.2 (factor 32) ship with. HF has a rope type for it; GGUF files carry it as "
        "the tensor rope_freqs.weight and no key, so that such a file looks unscaled."
    )
    slows_long_pairs = True

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)
        if not 0 < self.low_freq_factor <= self.high_freq_factor:
            raise ParameterError(f"{self.name} needs 0 < low_freq_factor <= high_freq_factor")

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Fast pairs kept, slow pairs divided, a linear blend between."""
        return blend_by_rotations(
            rope, self.factor, self.original_max_position_embeddings, self.low_freq_factor, self.high_freq_factor
        )
