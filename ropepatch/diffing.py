"""What differs between two checkpoints: their settings, and what those come to as frequencies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ropepatch import checkpoint
from ropepatch.checkpoint import Checkpoint
from ropepatch.differences import FrequencyDifference, Setting, compare, compared, settings
from ropepatch.errors import UsageError
from ropepatch.frequencies import TOLERANCE
from ropepatch.profile import RopeProfile
from ropepatch.runtimes.side import Side, side

SCHEMA = "ropepatch.diff/1"
__all__ = ["Diff", "FrequencyDifference", "GroupDifference", "Setting", "compare", "diff"]

Comparable: TypeAlias = "Checkpoint | RopeProfile | str | Path"


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
        sides: the same with the runtimes that read them.
    """

    a: RopeProfile
    b: RopeProfile
    contexts: tuple[Setting, ...]
    groups: tuple[GroupDifference, ...]
    sides: tuple[Side, Side]

    @property
    def refused(self) -> bool:
        """Whether a runtime does not run its side."""
        return any(one.refusal is not None for one in self.sides)

    @property
    def equivalent(self) -> bool:
        """Whether all groups compute the same at the lengths compared, and both sides are run."""
        return not self.refused and all(group.equivalent for group in self.groups)

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
        """The result in a plain sentence, and where there is a difference, a second one that says why."""
        from ropepatch.report.diff_words import sentence

        return sentence(self)

    def reasons(self) -> list[str]:
        """What makes the two compute differently, one clause each; empty where they do not."""
        from ropepatch.report.diff_words import reasons

        return reasons(self)

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
            "reasons": self.reasons(),
            "runtimes": dict(zip("ab", (one.to_json() for one in self.sides), strict=True)),
        }


def diff(
    a: Comparable,
    b: Comparable | None = None,
    length: int | None = None,
    *,
    runtime_a: str | None = None,
    runtime_b: str | None = None,
) -> Diff:
    """Compare two checkpoints, in any formats, or one under two runtimes.

    Args:
        a: a checkpoint, a profile, or a ref.
        b: the same; default ``a``.
        length: the long context to compare at; default the larger declared one. A short context is always compared.
        runtime_a: who reads ``a``, for example ``vllm@0.29``; None for what its methods define.
        runtime_b: the same for ``b``.

    Raises:
        UsageError: the length is not a positive number of tokens, or a runtime is unknown.
        InputError: a ref cannot be read.
    """
    if length is not None and length < 1:
        raise UsageError(f"the length must be at least 1 token, not {length}")
    first = _opened(a)
    second = first if b is None else _opened(b)
    one, two = (item if isinstance(item, RopeProfile) else item.profile for item in (first, second))
    declared = [context for context in (one.declared_context, two.declared_context) if context]
    lengths = (None, length or max(declared)) if length or declared else (None,)
    sides = side(first, runtime_a, lengths), side(second, runtime_b, lengths)
    refused = any(item.refusal is not None for item in sides)
    groups = tuple(
        _group_difference(sides, left, right, () if refused else lengths)
        for left, right in _matched(sides[0].names, sides[1].names)
    )
    return Diff(one, two, _contexts(sides), groups, sides)


def _contexts(sides: tuple[Side, Side]) -> tuple[Setting, ...]:
    a, b = sides
    found = (
        Setting("trained_context", a.profile.trained_context, b.profile.trained_context),
        Setting("declared_context", a.profile.declared_context, b.profile.declared_context),
    )
    if a.runtime is None and b.runtime is None:
        return found
    return (*found, Setting("derived_context", a.context, b.context))


def _group_difference(
    sides: tuple[Side, Side], left: str | None, right: str | None, lengths: Sequence[int | None]
) -> GroupDifference:
    a, b = sides
    old = a.group(left) if left is not None else None
    new = b.group(right) if right is not None else None
    frequencies: list[FrequencyDifference] = []
    if left is not None and right is not None:
        frequencies = [compared(a.frequencies(left, at), b.frequencies(right, at), at) for at in lengths]
    return GroupDifference(left, right, tuple(settings(old, new)), tuple(frequencies))


def _opened(item: Comparable) -> Checkpoint | RopeProfile:
    return item if isinstance(item, (Checkpoint, RopeProfile)) else checkpoint.open(item)


def _matched(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Groups of the same name; a lone group of one side stands against every group of the other."""
    if set(a) & set(b):
        for name in dict.fromkeys((*a, *b)):
            yield (name if name in a else None), (name if name in b else None)
    elif len(a) == 1 or len(b) == 1:
        yield from ((left, right) for left in a for right in b)
    else:
        yield from ((name, None) for name in a)
        yield from ((None, name) for name in b)
