"""Two rope groups against each other: setting by setting, pair by pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropepatch.frequencies import TOLERANCE, group_frequencies, ratios
from ropepatch.methods.base import Array, Frequencies
from ropepatch.profile import RopeGroup

#: Radians per position below which a pair stands still: over the longest context that any format can declare (2^31
#: tokens) it turns by less than 1e-5.
STILL = 1e-15
#: radians by which a pair may be off before the layers see another position
OFF = math.pi / 8


@dataclass(frozen=True)
class Setting:
    """One setting of both sides, None where a side does not have it."""

    name: str
    a: Any
    b: Any

    @property
    def same(self) -> bool:
        """Whether both sides say the same; numbers within 1e-6 relative."""
        return _same(self.a, self.b)

    def to_json(self) -> dict[str, Any]:
        """``{"name", "a", "b", "same"}``."""
        return {"name": self.name, "a": self.a, "b": self.b, "same": self.same}


@dataclass(frozen=True)
class FrequencyDifference:
    """How the frequencies of two groups differ at one length.

    Attributes:
        length: tokens; None means a context at or below the trained one.
        pairs: rotated pairs of a and of b; where these differ there is nothing to compare pair by pair.
        differing: how many pairs differ by more than 1e-6 relative.
        ratio: ``inv_freq`` of a over that of b where they are furthest apart; infinite where b stands still.
        pair: the index of that pair, None when no pair differs.
        first_pair: the first pair that differs.
        from_wavelength: its wavelength in a, in tokens.
        attention_scale: the factor on cos and sin of a and of b.
        distance: tokens between two positions from which on some pair is off by more than π/8; None when none differs.
    """

    length: int | None
    pairs: tuple[int, int]
    differing: int
    ratio: float
    pair: int | None
    first_pair: int | None
    from_wavelength: float | None
    attention_scale: tuple[float, float]
    distance: float | None = None

    @property
    def equivalent(self) -> bool:
        """Whether both sides rotate alike at this length."""
        return self.pairs[0] == self.pairs[1] and self.differing == 0 and close(*self.attention_scale)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; an infinite ratio or wavelength is null."""
        return {
            "length": self.length,
            "equivalent": self.equivalent,
            "pairs": list(self.pairs),
            "differing": self.differing,
            "ratio": _finite(self.ratio),
            "pair": self.pair,
            "first_pair": self.first_pair,
            "from_wavelength": _finite(self.from_wavelength),
            "attention_scale": list(self.attention_scale),
            "distance": _finite(self.distance),
        }


def compare(a: RopeGroup, b: RopeGroup, length: int | None) -> FrequencyDifference:
    """The frequencies of two groups against each other at ``length`` tokens; None means a short context."""
    return compared(group_frequencies(a, length), group_frequencies(b, length), length)


def compared(a: Frequencies, b: Frequencies, length: int | None) -> FrequencyDifference:
    """Two sets of frequencies against each other, which are in force at ``length`` tokens."""
    one, two = _still(a), _still(b)
    scales = (one.attention_scale, two.attention_scale)
    pairs = (one.inv_freq.size, two.inv_freq.size)
    if pairs[0] != pairs[1]:
        return FrequencyDifference(length, pairs, max(pairs), 1.0, None, None, None, scales)
    quotient = ratios(one.inv_freq, two.inv_freq)
    differing = np.flatnonzero(~(np.abs(quotient - 1.0) <= TOLERANCE))
    if not differing.size:
        return FrequencyDifference(length, pairs, 0, 1.0, None, None, None, scales)
    with np.errstate(divide="ignore"):
        furthest = int(np.argmax(np.abs(np.log(quotient))))
    first = int(differing[0])
    turning = float(one.inv_freq[first])
    return FrequencyDifference(
        length,
        pairs,
        int(differing.size),
        float(quotient[furthest]),
        furthest,
        first,
        2 * math.pi / turning if turning else math.inf,
        scales,
        OFF / float(np.max(np.abs(one.inv_freq - two.inv_freq)[differing])),
    )


def settings(a: RopeGroup | None, b: RopeGroup | None) -> list[Setting]:
    """Every setting that either group has."""
    left, right = (_flat(group.to_json()) if group is not None else {} for group in (a, b))
    return [Setting(name, left.get(name), right.get(name)) for name in {**left, **right}]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names: ``scaling.factor``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                flat.update(_flat(item, f"{prefix}{key}.{index}."))
        else:
            flat[prefix + key] = value
    return flat


def _still(frequencies: Frequencies) -> Frequencies:
    """Pairs too slow to matter at zero: formats without a way to stop a pair divide it by a huge number instead."""
    inv_freq: Array = np.where(frequencies.inv_freq < STILL, 0.0, frequencies.inv_freq)
    return Frequencies(inv_freq, frequencies.attention_scale)


def close(a: float, b: float) -> bool:
    """Whether two numbers agree to float32 accuracy."""
    return a == b or abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return close(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
