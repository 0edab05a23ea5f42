"""Resonance RoPE: whole-number wavelengths on top of any other scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import Frequencies, Method, Spectrum


@dataclass(frozen=True)
class Resonance(Method):
    """Rounds each wavelength to a whole number of tokens."""

    name = "resonance"
    rank = 120
    needs = "goes on top of another method: apply --method yarn+resonance"
    title = "Resonance RoPE (rounded wavelengths)"
    formula = "λ' = round(λ); inv_freq' = 2π/λ'"
    paper = "Resonance RoPE, arXiv 2403.00071"
    reach = "none of its own; used on top of another method (--method yarn+resonance)"
    fine_tuning = "as the method that it is put on"
    about = (
        "Removes the gap between angles seen in training and those met beyond it for the pairs that turn at least "
        "once, by making every wavelength a whole number of tokens. A fast pair may turn up to 5 % faster than "
        "before. Written as per-pair factors."
    )
    never_faster = False
    identity_at_one = False

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """``2π / round(2π / inv_freq)``; a pair that never turns stays so."""
        turning = rope.inv_freq > 0
        wavelength = 2 * math.pi / np.where(turning, rope.inv_freq, 1.0)
        rounded = 2 * math.pi / np.maximum(np.round(wavelength), 1.0)
        return Frequencies(np.where(turning, rounded, 0.0), rope.attention_scale)
