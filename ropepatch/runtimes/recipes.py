"""Formulas of ``ropepatch.methods`` under the parameters that an engine feeds them.

Methods that few checkpoints have are imported where they are used: every doctor loads this file.
"""

from __future__ import annotations

from ropepatch.methods.base import Frequencies, Spectrum, yarn_attention
from ropepatch.methods.factors import Factors
from ropepatch.methods.linear import Linear
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.none import NoScaling
from ropepatch.methods.yarn import Yarn
from ropepatch.runtimes.base import compute


def plain(rope: Spectrum) -> Frequencies:
    """No scaling."""
    return NoScaling().apply(rope, None)


def linear(rope: Spectrum, factor: float, where: str) -> Frequencies:
    """Positions divided by the factor."""
    return compute(lambda: Linear(factor), rope, None, where)


def dynamic(rope: Spectrum, factor: float, context: int | None, length: int | None, where: str) -> Frequencies:
    """Dynamic NTK whose unscaled length is ``context``."""
    from ropepatch.methods.dynamic import Dynamic

    return compute(lambda: Dynamic(factor, context or 0), rope, length, where)


def ntk(rope: Spectrum, alpha: float, where: str) -> Frequencies:
    """One raised base, ``θ α^(d/(d-2))``."""
    from ropepatch.methods.ntk import Ntk

    return compute(lambda: Ntk(alpha), rope, None, where)


def llama3(rope: Spectrum, factor: float, original: float, low: float, high: float, where: str) -> Frequencies:
    """Llama 3's blend by rotations."""
    return compute(lambda: Llama3(factor, int(original), low, high), rope, None, where)


def proportional(rope: Spectrum, partial: float, factor: float, where: str) -> Frequencies:
    """The first share of the head's pairs, the others at rest; ``rope`` spans the whole head."""
    from ropepatch.methods.proportional import Proportional

    return compute(lambda: Proportional(partial, factor), rope, None, where)


def yarn(
    rope: Spectrum,
    factor: float,
    original: float,
    attention: float,
    where: str,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Frequencies:
    """The ramp over the pair index, with the magnitude that the engine takes."""
    return compute(
        lambda: Yarn(factor, int(original), beta_fast, beta_slow, truncate, attention_factor=attention),
        rope,
        None,
        where,
    )


def factors(rope: Spectrum, values: tuple[float, ...], attention: float, where: str) -> Frequencies:
    """One list of divisors."""
    return compute(lambda: Factors(values, attention_factor=attention), rope, None, where)


def magnitude_ratio(factor: float, mscale: float, mscale_all_dim: float) -> float:
    """DeepSeek's magnitude on cos and sin: ``g(mscale) / g(mscale_all_dim)``."""
    return yarn_attention(factor, mscale) / yarn_attention(factor, mscale_all_dim)


def longrope_magnitude(factor: float, original: float) -> float:
    """``√(1 + ln s / ln T)`` for s above 1, else 1."""
    return LongRope((1.0,), (1.0,), int(original), factor=factor).attention
