"""Methods that change the base: NTK-aware, by critical dimension, and dynamic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, check_factor, check_original
from ropepatch.methods.plain import rebased


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


@dataclass(frozen=True)
class NtkCritical(Method):
    """The base at which every pair beyond the critical dimension is slowed by at least s."""

    factor: float
    original_max_position_embeddings: int

    name = "ntk-critical"
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


@dataclass(frozen=True)
class Dynamic(Method):
    """NTK-aware scaling whose base follows the length at run time."""

    factor: float
    original_max_position_embeddings: int

    name = "dynamic"
    title = "dynamic NTK"
    formula = "θ'(L) = θ · (s·L/T - (s-1))^(d/(d-2)) for L > T"
    paper = "Dynamically scaled RoPE (emozilla, 2023); transformers modeling_rope_utils.py"
    reach = "about 2x to 4x without training"
    fine_tuning = "no"
    about = (
        "The base grows with the sequence: nothing changes up to the trained length. Keys that are cached already "
        "keep the older angles. Only runtimes that recompute the table can do it: transformers and mlx-lm do, "
        "llama.cpp has no such thing, vLLM 0.22 and later compute plain RoPE from the same config."
    )
    # Beyond the trained length the base grows with L/T whatever the factor is.
    identity_at_one = False

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Plain RoPE up to the original context, the raised base beyond it."""
        original = self.original_max_position_embeddings
        if length is None or length <= original:
            return Frequencies(rope.inv_freq, rope.attention_scale)
        stretch = self.factor * length / original - (self.factor - 1)
        return Frequencies(rebased(rope, ntk_theta(rope.rope_theta, rope.rotary_dim, stretch)), rope.attention_scale)

    @property
    def static(self) -> bool:
        """False: the base follows the length."""
        return False
