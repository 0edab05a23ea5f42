"""NTK-by-parts, the paper's form of YaRN without its magnitude."""

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
class NtkByParts(Method):
    """NTK-by-parts as in the YaRN paper: a ramp over rotations, no attention factor."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    name = "ntk-by-parts"
    rank = 60
    preference = 40
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
