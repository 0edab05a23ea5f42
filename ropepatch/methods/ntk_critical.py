"""The base by critical dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, check_factor, check_original
from ropepatch.methods.theta import rebased


@dataclass(frozen=True)
class NtkCritical(Method):
    """The base at which every pair beyond the critical dimension is slowed by at least s."""

    factor: float
    original_max_position_embeddings: int

    name = "ntk-critical"
    rank = 40
    written = ("base", "base")
    preference = 60
    title = "NTK by critical dimension"
    formula = "θ' = θ^(ln(L/2π) / ln(T/2π)), L = s·T"
    paper = "Scaling Laws of RoPE-based Extrapolation, arXiv 2310.05209; LongRoPE2, arXiv 2502.20082"
    reach = "better than NTK-aware beyond 2x; a strong baseline in the LongRoPE2 paper"
    fine_tuning = "recommended beyond 4x"
    about = (
        "The critical dimension is the pair that just completes one turn over the trained length T. This base makes "
        "every slower pair complete no more than it did in training, which NTK-aware scaling does not. It is larger "
        "than the NTK-aware base (Llama 2 at 8x: 192144 against 82685)."
    )
    slows_long_pairs = True

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)
        if self.original_max_position_embeddings <= 2 * math.pi:
            raise ParameterError(f"{self.name} needs an original context above 6 tokens")

    def theta(self, rope: Spectrum) -> float:
        """The base that this method comes to."""
        turn = 2 * math.pi
        original = self.original_max_position_embeddings
        try:
            return float(rope.rope_theta ** (math.log(original * self.factor / turn) / math.log(original / turn)))
        except OverflowError:
            raise ParameterError(
                f"{self.name} from {original} to {original * self.factor:g} tokens needs a base beyond any number"
            ) from None

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Plain RoPE at the raised base."""
        return Frequencies(rebased(rope, self.theta(rope)), rope.attention_scale)
