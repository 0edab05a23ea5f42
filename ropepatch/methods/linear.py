"""Position interpolation."""

from __future__ import annotations

from dataclasses import dataclass

from ropepatch.methods.base import Frequencies, Method, Spectrum, check_factor


@dataclass(frozen=True)
class Linear(Method):
    """Position interpolation: every pair slowed by the factor."""

    factor: float

    name = "linear"
    rank = 20
    written = ("key", "key")
    preference = 80
    factor_reaches = True
    title = "position interpolation (PI)"
    formula = "inv_freq[i] = θ^(-2i/d) / s"
    paper = "Position Interpolation, arXiv 2306.15595"
    reach = "about 2x without training, 8x and more with it"
    fine_tuning = "yes: about 1000 steps in the paper, usable from 200"
    about = (
        "Divides all positions by s, so that the new context falls into the trained range of angles. Neighbouring "
        "tokens come s times nearer to each other, which hurts short contexts too; without fine-tuning it is the "
        "weakest of the methods. Every runtime reads it, except that TGI accepts the key and does nothing."
    )
    slows_long_pairs = True

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """All frequencies divided by the factor."""
        return Frequencies(rope.inv_freq / self.factor, rope.attention_scale)
