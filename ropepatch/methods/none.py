"""No scaling at all."""

from __future__ import annotations

from dataclasses import dataclass

from ropepatch.methods.base import Frequencies, Method, Spectrum


@dataclass(frozen=True)
class NoScaling(Method):
    """RoPE as the paper has it."""

    name = "none"
    rank = 10
    written = ("key", "key")
    scales = False
    title = "no scaling"
    formula = "inv_freq[i] = θ^(-2i/d)"
    paper = "RoFormer, arXiv 2104.09864"
    reach = "the trained context"
    fine_tuning = "none"
    about = (
        "The rotation as the model was trained. Asking for it on a scaled checkpoint (with --existing replace) "
        "takes the scaling out again."
    )

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """The frequencies that came in."""
        return Frequencies(rope.inv_freq, rope.attention_scale)
