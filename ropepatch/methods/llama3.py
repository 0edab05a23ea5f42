"""Llama 3's scaling."""

from __future__ import annotations

from dataclasses import dataclass

from ropepatch.methods.base import (
    Frequencies,
    Method,
    ParameterError,
    Spectrum,
    blend_by_rotations,
    check_factor,
    check_original,
)


@dataclass(frozen=True)
class Llama3(Method):
    """Llama 3.1's scaling: by parts with named frequency factors."""

    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    name = "llama3"
    rank = 80
    written = ("key", "factors")
    preference = 30
    trained_with = True
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
