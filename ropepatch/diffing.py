"""What differs between two checkpoints: their settings, and what those come to as frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ropepatch import checkpoint
from ropepatch.checkpoint import Checkpoint
from ropepatch.errors import UsageError
from ropepatch.frequencies import TOLERANCE, group_frequencies, ratios
from ropepatch.methods.base import Array, Frequencies
from ropepatch.profile import RopeGroup, RopeProfile

SCHEMA = "ropepatch.diff/1"
Comparable: TypeAlias = "Checkpoint | RopeProfile | str | Path"

#: Radians per position below which a pair stands still: over the longest context that any format can declare (2^31
#: tokens) it turns by less than 1e-5.
STILL = 1e-15


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
    """

    length: int | None
    pairs: tuple[int, int]
    differing: int
    ratio: float
    pair: int | None
    first_pair: int | None
    from_wavelength: float | None
    attention_scale: tuple[float, float]

    @property
    def equivalent(self) -> bool:
        """Whether both sides rotate alike at this length."""
        return self.pairs[0] == self.pairs[1] and self.differing == 0 and _close(*self.attention_scale)

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
        }


@dataclass(frozen=True)
class GroupDifference:
    """A rope group of a against its counterpart in b; ``a`` or ``b`` is None where a side has none."""

    a: str | None
    b: str | None
    settings: tuple[Setting, ...]
    frequencies: tuple[FrequencyDifference, ...]

    @property
    def name(self) -> str:
        """The group's name, or both where they differ."""
        return str(self.a) if self.a == self.b else " / ".join(name or "-" for name in (self.a, self.b))

    @property
    def equivalent(self) -> bool:
        """Whether the layers of this group compute the same, whatever the spelling and pair layout."""
        effects = ("softmax_scale", "query_temperature", "mrope_section")
        return (
            self.a is not None
            and self.b is not None
            and all(item.equivalent for item in self.frequencies)
            and all(item.same for item in self.settings if item.name.split(".")[0] in effects)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "equivalent": self.equivalent,
            "settings": [item.to_json() for item in self.settings],
            "frequencies": [item.to_json() for item in self.frequencies],
        }


@dataclass(frozen=True)
class Diff:
    """The difference of two profiles.

    Attributes:
        a: the first profile.
        b: the second.
        contexts: trained and declared context of both.
        groups: the rope groups, matched by name.
    """

    a: RopeProfile
    b: RopeProfile
    contexts: tuple[Setting, ...]
    groups: tuple[GroupDifference, ...]

    @property
    def equivalent(self) -> bool:
        """Whether all groups compute the same at the lengths compared."""
        return all(group.equivalent for group in self.groups)

    @property
    def same_contexts(self) -> bool:
        """Whether no context that both sides state differs."""
        return all(item.same for item in self.contexts if item.a is not None and item.b is not None)

    @property
    def identical(self) -> bool:
        """Whether every setting is the same as well."""
        return (
            self.equivalent
            and all(item.same for item in self.contexts)
            and all(item.same for group in self.groups for item in group.settings)
        )

    def sentence(self) -> str:
        """The result in one plain sentence."""
        if self.identical:
            return "No difference: settings, contexts and frequencies are the same."
        if self.equivalent:
            contexts = "" if self.same_contexts else f", but {_contexts_in_words(self.contexts)}"
            return f"The frequencies are the same{contexts or '; only the spelling differs'}."
        return _difference_in_words(self)

    def to_json(self) -> dict[str, Any]:
        """The difference as the JSON that ``schemas/diff.schema.json`` describes."""
        return {
            "schema": SCHEMA,
            "a": self.a.source.ref,
            "b": self.b.source.ref,
            "identical": self.identical,
            "equivalent": self.equivalent,
            "same_contexts": self.same_contexts,
            "tolerance": TOLERANCE,
            "contexts": [item.to_json() for item in self.contexts],
            "groups": [group.to_json() for group in self.groups],
            "sentence": self.sentence(),
        }


def diff(a: Comparable, b: Comparable, length: int | None = None) -> Diff:
    """Compare two checkpoints, in any formats.

    Args:
        a: a checkpoint, a profile, or a ref.
        b: the same.
        length: the long context to compare at; default the larger declared one. A short context is always compared.

    Raises:
        UsageError: the length is not a positive number of tokens.
        InputError: a ref cannot be read.
    """
    if length is not None and length < 1:
        raise UsageError(f"the length must be at least 1 token, not {length}")
    one, two = _profile(a), _profile(b)
    declared = [context for context in (one.declared_context, two.declared_context) if context]
    lengths = (None, length or max(declared)) if length or declared else (None,)
    groups = []
    for left, right in _matched(one, two):
        old = one.groups[left] if left is not None else None
        new = two.groups[right] if right is not None else None
        frequencies = [compare(old, new, at) for at in lengths] if old and new else []
        groups.append(GroupDifference(left, right, tuple(_settings(old, new)), tuple(frequencies)))
    contexts = (
        Setting("trained_context", one.trained_context, two.trained_context),
        Setting("declared_context", one.declared_context, two.declared_context),
    )
    return Diff(one, two, contexts, tuple(groups))


def compare(a: RopeGroup, b: RopeGroup, length: int | None) -> FrequencyDifference:
    """The frequencies of two groups against each other at ``length`` tokens; None means a short context."""
    one, two = _still(group_frequencies(a, length)), _still(group_frequencies(b, length))
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
    )


def _profile(item: Comparable) -> RopeProfile:
    if isinstance(item, RopeProfile):
        return item
    return item.profile if isinstance(item, Checkpoint) else checkpoint.open(item).profile


def _matched(a: RopeProfile, b: RopeProfile) -> Iterator[tuple[str | None, str | None]]:
    """Groups of the same name; a lone group of one side stands against every group of the other."""
    if set(a.groups) & set(b.groups):
        for name in {**a.groups, **b.groups}:
            yield (name if name in a.groups else None), (name if name in b.groups else None)
    elif len(a.groups) == 1 or len(b.groups) == 1:
        yield from ((left, right) for left in a.groups for right in b.groups)
    else:
        yield from ((name, None) for name in a.groups)
        yield from ((None, name) for name in b.groups)


def _settings(a: RopeGroup | None, b: RopeGroup | None) -> list[Setting]:
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


def _close(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return _close(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _contexts_in_words(contexts: tuple[Setting, ...]) -> str:
    named = [item for item in contexts if item.a is not None and item.b is not None and not item.same]
    return " and ".join(
        f"the {item.name.replace('_', ' ')} differs ({item.a:,} and {item.b:,} tokens)" for item in named
    )


def _difference_in_words(result: Diff) -> str:
    """The sentence for the group and length that differ most."""
    for group in result.groups:
        if group.a is None or group.b is None:
            side = "second" if group.a is None else "first"
            return f"They differ: only the {side} has the rope group {group.name.strip(' -/')}."
    found = [(group, item) for group in result.groups for item in group.frequencies if not item.equivalent]
    if not found:
        return "They differ: the frequencies are the same, the scale or sections of a group are not."
    group, item = max(found, key=lambda pair: (pair[1].pairs[0] != pair[1].pairs[1], _distance(pair[1])))
    where = _length_in_words(group, item)
    if len(result.groups) > 1:
        where = f"in {group.name} {where}"
    return f"They differ {where}: {_frequencies_in_words(item)}."


def _length_in_words(group: GroupDifference, item: FrequencyDifference) -> str:
    if all((other.ratio, other.attention_scale) == (item.ratio, item.attention_scale) for other in group.frequencies):
        return "at every length"
    return "in short contexts" if item.length is None else f"at {item.length:,} tokens"


def _distance(item: FrequencyDifference) -> float:
    return abs(math.log(item.ratio)) if item.ratio > 0 else math.inf


def _frequencies_in_words(item: FrequencyDifference) -> str:
    if item.pairs[0] != item.pairs[1]:
        return f"the first rotates {item.pairs[0]} pairs, the second {item.pairs[1]}"
    parts = []
    if item.pair is not None:
        parts.append(
            f"{item.differing} of {item.pairs[0]} pairs, from wavelength {item.from_wavelength:,.4g} on, "
            f"{_turning_in_words(item)} at pair {item.pair}"
        )
    if not _close(*item.attention_scale):
        parts.append("attention scale {:.6g} against {:.6g}".format(*item.attention_scale))
    return "; ".join(parts)


def _turning_in_words(item: FrequencyDifference) -> str:
    if math.isinf(item.ratio):
        return "standing still in the second"
    if item.ratio == 0:
        return "standing still in the first"
    slower, times = ("second", item.ratio) if item.ratio > 1 else ("first", 1 / item.ratio)
    return f"up to {times:.6g} times slower in the {slower}"
