"""What a set of frequencies does over a length: exact numbers, no judgement.

``trained`` below is the rotation that the model was trained with and the length ``T`` of that training; ``now`` are the
frequencies at the new length ``L``. A pair that turned at least once in training has met every angle there is; a slower
one only those up to ``inv_freq * T``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import Array, Frequencies, Spectrum

_TURN = 2 * math.pi
#: positions of one block of :func:`first_zero`, and multiplications of one matrix product: OpenBLAS starts threads for
#: larger ones, which costs more than the product
_BLOCK, _PRODUCT = 256, 1 << 18
#: significand bits, the hidden one included, of what positions may be cast to
_BITS = {"bf16": 8, "fp32": 24}
#: a sum of cosines this close to zero counts as zero: float64 keeps about 1e-9 of it at a million positions
_ZERO = -1e-7


@dataclass(frozen=True)
class Geometry:
    """What frequencies do over a length.

    Attributes:
        leaving_pairs: how many pairs meet angles that training never showed.
        angles_outside: the share of all angles (pairs times distances below ``L``) that training never showed, 0 to 1.
        overrun: the largest angle over the largest trained one, among the pairs that did not turn once; 1 without any.
        neighbour_step: angle between neighbouring positions on the fastest pair, in radians.
        neighbour_ratio: the same against training; 1/s where everything is interpolated.
        attention_scale: the factor on cos and sin.
        logit_ratio: the factor on attention logits against training, the square of the scales' ratio.
        base_fitted: the base whose plain spectrum lies nearest to all pairs (least squares of the logarithms).
        base_slowest: the base whose slowest pair turns as fast as the slowest one here; None where it stands still.
        first_zero: the first distance at which the sum of cosines over all pairs is negative; None up to ``L``.
    """

    leaving_pairs: int
    angles_outside: float
    overrun: float
    neighbour_step: float
    neighbour_ratio: float
    attention_scale: float
    logit_ratio: float
    base_fitted: float | None
    base_slowest: float | None
    first_zero: int | None


def geometry(trained: Frequencies, original: int, now: Frequencies, length: int) -> Geometry:
    """Everything of :class:`Geometry` for ``now`` over ``length`` tokens.

    Args:
        trained: the rotation of training, ``inv_freq`` of shape ``(pairs,)``.
        original: the trained length in tokens.
        now: the rotation at ``length``, of the same shape.
        length: the new length in tokens.
    """
    outside = outside_shares(trained.inv_freq, original, now.inv_freq, length)
    fastest = int(np.argmax(trained.inv_freq))
    before, after = float(trained.inv_freq[fastest]), float(now.inv_freq[fastest])
    return Geometry(
        leaving_pairs=int((outside > 1e-12).sum()),
        angles_outside=float(outside.mean()) if outside.size else 0.0,
        overrun=overrun(trained.inv_freq, original, now.inv_freq, length),
        neighbour_step=after,
        neighbour_ratio=after / before if before else 1.0,
        attention_scale=now.attention_scale,
        logit_ratio=(now.attention_scale / trained.attention_scale) ** 2,
        base_fitted=fitted_base(now.inv_freq),
        base_slowest=slowest_base(now.inv_freq),
        first_zero=first_zero(now.inv_freq, length),
    )


def slow_pairs(inv_freq: Array, original: int) -> int:
    """How many pairs turn less than once over ``original`` tokens; pairs that stand still are none of them."""
    return int(((inv_freq > 0) & (inv_freq * original < _TURN)).sum())


def critical_dimension(rope: Spectrum, original: int) -> int | None:
    """The first dimension whose pair does not complete a turn in training: ``2 ⌈(d/2) log_θ(T/2π)⌉``.

    LongRoPE2 (arXiv 2502.20082) and arXiv 2310.05209. None where every pair turns, or the base is not above 1.
    """
    if rope.rope_theta <= 1 or original <= _TURN:
        return None if rope.rope_theta <= 1 else 0
    pair = math.ceil(rope.rotary_dim / 2 * math.log(original / _TURN) / math.log(rope.rope_theta))
    return 2 * pair if pair < rope.rotary_dim // 2 else None


def outside_shares(trained: Array, original: int, now: Array, length: int) -> Array:
    """The share of the angles below ``length`` that training did not show, per pair; shape ``(pairs,)``.

    Distances are taken as continuous. A pair with ``a = trained * original < 2π`` has met ``[0, a]``; over
    ``x = now * length`` radians it meets ``⌊x/2π⌋ (2π - a) + max(0, x mod 2π - a)`` others.
    """
    known = np.minimum(trained * original, _TURN)
    reach = now * length
    turns = np.floor(reach / _TURN)
    outside = turns * (_TURN - known) + np.maximum(reach - turns * _TURN - known, 0.0)
    shares: Array = np.divide(outside, reach, out=np.zeros_like(reach), where=reach > 0)
    return np.where(shares < 1e-12, 0.0, shares)  # an interpolated pair ends at its trained angle, up to rounding


def overrun(trained: Array, original: int, now: Array, length: int) -> float:
    """The largest ``now L / (trained T)`` among pairs that turned less than once in training; 1 without any."""
    slow = (trained > 0) & (trained * original < _TURN)
    if not slow.any():
        return 1.0
    return float(np.max(now[slow] * length / (trained[slow] * original)))


def fitted_base(inv_freq: Array) -> float | None:
    """The base θ that minimises ``Σ (ln inv_freq[i] + (2i/d) ln θ)²`` over the pairs that turn."""
    turning = inv_freq > 0
    exponent = np.arange(inv_freq.size, dtype=np.float64)[turning] / inv_freq.size
    weight = float((exponent**2).sum())
    if weight == 0:
        return None
    return _exp(-float((exponent * np.log(inv_freq[turning])).sum()) / weight)


def slowest_base(inv_freq: Array) -> float | None:
    """The base whose last pair has the frequency of the last one here: ``inv_freq[-1] ** (-d/(d-2))``."""
    last, pairs = float(inv_freq[-1]), inv_freq.size
    return _exp(-math.log(last) * pairs / (pairs - 1)) if last > 0 and pairs > 1 else None


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None


def first_zero(inv_freq: Array, length: int) -> int | None:
    """The first whole distance ``m < length`` with ``Σ cos(m inv_freq[i]) < 0``; None where there is none.

    Below it, on average, a similar token gets more attention than a random one (Base of RoPE Bounds Context Length,
    arXiv 2405.14591). Blocks of positions are one matrix product each: cos(M+j) = cos M cos j - sin M sin j.
    """
    block = min(_BLOCK, max(length, 1))
    angles = np.arange(block, dtype=np.float64)[:, None] * inv_freq[None, :]
    table = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
    starts = np.arange(0, length, block, dtype=np.float64)
    count = max(1, _PRODUCT // table.size)
    for first in range(0, starts.size, count):
        offsets = starts[first : first + count, None] * inv_freq[None, :]
        sums = table @ np.concatenate((np.cos(offsets), -np.sin(offsets)), axis=1).T
        negative = np.flatnonzero(sums.T.reshape(-1) < _ZERO)
        if negative.size:
            found = first * block + int(negative[0])
            return found if found < length else None
    return None


@dataclass(frozen=True)
class Aliasing:
    """What happens to positions that are cast to a floating-point type before they become angles.

    Attributes:
        exact_below: positions below this one are all told apart.
        spacing: the distance between neighbouring values just below the length: as many positions share one.
        distinct: how many different values the positions below the length take.
        angle_error: the largest error of the fastest pair's angle just below the length, in radians.
    """

    exact_below: int
    spacing: int
    distinct: int
    angle_error: float


def aliasing(kind: str, length: int, fastest: float = 1.0) -> Aliasing:
    """Positions below ``length`` in ``bf16`` or ``fp32``.

    Args:
        kind: the type that positions and angles are held in.
        length: the context in tokens.
        fastest: the fastest pair's frequency in radians per position.
    """
    exact = 1 << _BITS[kind]
    last = max(length - 1, 1)
    octave = max(last.bit_length() - 1, _BITS[kind] - 1)
    spacing = 1 << (octave - _BITS[kind] + 1)
    rounded = round(last / spacing) * spacing  # to even, as casts do
    octave = max(rounded.bit_length() - 1, _BITS[kind] - 1)
    half = exact // 2
    distinct = rounded + 1 if rounded <= exact else exact + 1 + _above(rounded, octave, half)
    size = math.floor(math.log2(max(last * fastest, 1e-30))) - _BITS[kind] + 1
    return Aliasing(exact + 1, spacing, min(distinct, length), 2.0**size / 2)


def _above(value: int, octave: int, half: int) -> int:
    """How many floats with ``2 half`` values an octave lie above ``2 half`` and up to ``value``."""
    whole = octave - (2 * half).bit_length() + 1
    return half * whole + (value - (1 << octave)) * half // (1 << octave)
