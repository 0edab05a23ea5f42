"""NTK-aware scaling: one raised base."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, check_factor
from ropepatch.methods.theta import rebased


def ntk_theta(rope_theta: float, rotary_dim: int, factor: float) -> float:
    """The NTK-aware base ``θ s^(d/(d-2))``: the first pair keeps its frequency, the last is slowed by exactly s."""
    if rotary_dim <= 2:
        raise ParameterError("an NTK-aware base needs more than one rotated pair")
    theta = rope_theta * factor ** (rotary_dim / (rotary_dim - 2))
    if not math.isfinite(theta):
        raise ParameterError(f"a factor of {factor:g} on the base {rope_theta:g} leads beyond any number")
    return float(theta)


@dataclass(frozen=True)
class Ntk(Method):
    """NTK-aware scaling with a fixed base."""

    factor: float

    name = "ntk"
    rank = 30
    written = ("base", "base")
    preference = 70
    title = "NTK-aware (fixed base)"
    formula = "θ' = θ · s^(d/(d-2))"
    paper = "NTK-aware scaled RoPE (bloc97, 2023); YaRN, arXiv 2309.00071 §3.1"
    reach = "about 2x without training; s has to be chosen above the wanted extension"
    fine_tuning = "no, up to about 2x"
    about = (
        "Raises the base so that the slowest pair is interpolated by s and the fastest is left alone; the pairs "
        "between fall short of s. Written as a changed rope_theta or rope.freq_base, which every runtime reads."
    )

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)

    def theta(self, rope: Spectrum) -> float:
        """The base that this method comes to."""
        return ntk_theta(rope.rope_theta, rope.rotary_dim, self.factor)

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Plain RoPE at the raised base."""
        return Frequencies(rebased(rope, self.theta(rope)), rope.attention_scale)
