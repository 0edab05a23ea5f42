"""MrRoPE-Uni."""

from __future__ import annotations

from dataclasses import dataclass

from ropepatch.methods.base import Array, Spectrum
from ropepatch.methods.mrrope import MrRope


@dataclass(frozen=True)
class MrRopeUni(MrRope):
    """MrRoPE-Uni: the exponent rises evenly."""

    name = "mrrope-uni"
    rank = 100
    preference = 50
    title = "MrRoPE-Uni (mixed radix, even)"
    formula = "f = s^(k/n), k steps from the last pair with r > β_fast, n steps to the first with r < β_slow"
    about = (
        "Spreads the extension evenly, in the exponent, over the pairs between the fast and the slow ones, and takes "
        "YaRN's attention factor. No runtime has a key for it; it is written as per-pair factors."
    )

    def exponents(self, rope: Spectrum) -> Array:
        """``k / n``."""
        steps, count = self.steps(rope)
        return steps / count
