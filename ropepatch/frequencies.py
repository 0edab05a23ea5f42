"""Rope group and length in, frequencies out."""

from __future__ import annotations

import math

import numpy as np

from ropepatch.methods.base import Array, Frequencies, Method
from ropepatch.methods.factors import Factors
from ropepatch.methods.stack import Stack
from ropepatch.profile import RopeGroup, RopeProfile

#: Agreement that a patched file must reach: float32 keeps about 1e-7 relative.
TOLERANCE = 1e-6


def group_frequencies(group: RopeGroup, length: int | None = None) -> Frequencies:
    """What ``group`` rotates by in a context of ``length`` tokens.

    Args:
        group: the rope group.
        length: tokens; None means a context at or below the trained one.

    Returns:
        ``inv_freq`` float64 of shape ``(rotary_dim // 2,)`` in radians per position, and ``attention_scale``.
    """
    return in_force(group).apply(group.spectrum(), length)


def in_force(group: RopeGroup) -> Method:
    """The method to compute with: a list that the file holds counts before the method that it was recognised as."""
    if group.factors is None:
        return group.scaling
    held = Factors(group.factors)
    if isinstance(group.scaling, Stack):
        return Stack((held, *group.scaling.stages[1:]))
    return held


def profile_frequencies(profile: RopeProfile, length: int | None = None) -> dict[str, Frequencies]:
    """The frequencies of each group of ``profile``, by group name."""
    return {name: group_frequencies(group, length) for name, group in profile.groups.items()}


def ratios(a: Array, b: Array) -> Array:
    """``a / b`` per pair, 1 where both stand still and infinity where only ``b`` does; shape ``(pairs,)``."""
    both_still = (a == 0) & (b == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Array = np.where(both_still, 1.0, a / b)
    return quotient


def deviation(a: Frequencies, b: Frequencies) -> float:
    """The largest relative difference in any frequency or in the attention scale.

    Infinity when shapes differ, or where something is not a number, which ``max`` would lose.
    """
    if a.inv_freq.shape != b.inv_freq.shape:
        return math.inf
    pairs = float(np.max(np.abs(ratios(a.inv_freq, b.inv_freq) - 1.0), initial=0.0))
    if b.attention_scale == 0:
        return pairs if a.attention_scale == 0 and not math.isnan(pairs) else math.inf
    worst = float(np.max([pairs, abs(a.attention_scale / b.attention_scale - 1.0)]))
    return math.inf if math.isnan(worst) else worst


def plain_base(made: Frequencies) -> float | None:
    """The base where the frequencies are those of RoPE without any scaling; None where they are not."""
    slopes = np.diff(np.log(made.inv_freq)) if (made.inv_freq > 0).all() and made.inv_freq.size > 1 else np.ones(1)
    plain = abs(made.inv_freq[0] - 1) <= TOLERANCE and np.ptp(slopes) <= TOLERANCE and slopes[0] < 0
    if not plain or abs(made.attention_scale - 1) > TOLERANCE:
        return None
    return float(np.exp(-slopes[0] * made.inv_freq.size))
