"""MrRoPE-Pro."""

from __future__ import annotations

from dataclasses import dataclass

from ropepatch.methods.base import Array, Spectrum
from ropepatch.methods.mrrope import MrRope


@dataclass(frozen=True)
class MrRopePro(MrRope):
    """MrRoPE-Pro: the exponent rises progressively."""

    name = "mrrope-pro"
    rank = 110
    preference = 20
    title = "MrRoPE-Pro (mixed radix, progressive)"
    formula = "f = s^(k(k+1) / (n(n+1))), k and n as for MrRoPE-Uni"
    about = (
        "Like MrRoPE-Uni, but the exponent rises towards the slow pairs, so that the faster half of the middle is "
        "interpolated less. The paper reports it above YaRN on RULER at 128k for Llama 3 8B without training."
    )

    def exponents(self, rope: Spectrum) -> Array:
        """``k (k+1) / (n (n+1))``."""
        steps, count = self.steps(rope)
        return steps * (steps + 1) / (count * (count + 1))
