"""YaRN as runtimes compute it: a ramp over the pair index, and a factor on cos and sin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import (
    Array,
    Frequencies,
    Method,
    ParameterError,
    Spectrum,
    check_factor,
    check_original,
    yarn_attention,
)


def correction_index(turns: float, rotary_dim: int, rope_theta: float, original: int) -> float:
    """The (fractional) pair index that turns ``turns`` times over the original context.

    ``d ln(T / (2π turns)) / (2 ln θ)``: jquesnelle/yarn, transformers ``find_correction_dim``.

    Raises:
        ParameterError: the numbers leave the range of floats.
    """
    length = original / (turns * 2 * math.pi)  # of one turn
    if not 0 < length < math.inf:
        raise ParameterError(f"yarn cannot tell which pair turns {turns:g} times over {original} tokens")
    return rotary_dim * math.log(length) / (2 * math.log(rope_theta))


def ramp(pairs: int, low: float, high: float) -> Array:
    """0 up to index ``low``, 1 from ``high`` on, linear between; shape ``(pairs,)``."""
    if low == high:
        high += 0.001
    scaled: Array = np.clip((np.arange(pairs, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return scaled


@dataclass(frozen=True)
class Yarn(Method):
    """YaRN."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    name = "yarn"
    rank = 70
    written = ("key", "key")
    preference = 10
    factor_reaches = True
    lasting = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim")  # the last two are DeepSeek's
    title = "YaRN"
    formula = "inv_freq' = inv_freq·(1-ramp) + inv_freq/s·ramp; ramp over the pair index; m = 0.1·ln s + 1"
    paper = "YaRN, arXiv 2309.00071; reference code jquesnelle/yarn"
    reach = "2x to 4x without training; 16x and more with 400 to 600 steps"
    fine_tuning = "no up to about 4x; short beyond"
    about = (
        "Keeps fast pairs, interpolates slow ones, ramps between pair corr(beta_fast) and corr(beta_slow), and "
        "sharpens attention by a factor on cos and sin. It is static: short inputs are scaled as well. Runtimes "
        "differ in attention_factor, mscale, truncate and the betas: ropepatch writes the spelling that most of them "
        "read alike, and says where one does not."
    )
    slows_long_pairs = True

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)
        if not 0 < self.beta_slow <= self.beta_fast:
            raise ParameterError(f"{self.name} needs 0 < beta_slow <= beta_fast")
        if self.attention_factor is not None and self.attention_factor <= 0:
            raise ParameterError(f"{self.name} attention_factor must be above 0, not {self.attention_factor:g}")

    @property
    def attention(self) -> float:
        """The factor on cos and sin, by transformers' order of precedence."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_attention(self.factor, self.mscale) / yarn_attention(self.factor, self.mscale_all_dim)
        return yarn_attention(self.factor)

    def bounds(self, rope: Spectrum) -> tuple[float, float]:
        """The pair indices between which the ramp runs."""
        if rope.rope_theta <= 1:
            raise ParameterError(f"{self.name} needs rope_theta above 1, not {rope.rope_theta:g}")
        original = self.original_max_position_embeddings
        low = correction_index(self.beta_fast, rope.rotary_dim, rope.rope_theta, original)
        high = correction_index(self.beta_slow, rope.rotary_dim, rope.rope_theta, original)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        # Every runtime clamps to rotary_dim - 1 although the ramp has only half as many entries.
        return max(low, 0), min(high, rope.rotary_dim - 1)

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """The ramped frequencies and the magnitude; the same at every length."""
        if self.factor == 1:
            mask = np.zeros_like(rope.inv_freq)
        else:
            mask = ramp(rope.inv_freq.size, *self.bounds(rope))
        inv_freq = rope.inv_freq * (1.0 - mask) + rope.inv_freq / self.factor * mask
        return Frequencies(inv_freq, rope.attention_scale * self.attention)
