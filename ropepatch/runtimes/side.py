"""A checkpoint under a runtime, or as its file defines it: one side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ropepatch import runtimes
from ropepatch.errors import RopepatchError, RuntimeRejects, UsageError
from ropepatch.frequencies import TOLERANCE, deviation, group_frequencies
from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeGroup, RopeProfile

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.runtimes.base import Prediction

T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """What one side of a comparison computes.

    Attributes:
        profile: what the file says.
        runtime: who reads it, as a sentence names it; None for what the methods define.
        spec: the runtime as it was asked for.
        predictions: by length in tokens and group name; empty without a runtime and where it refuses.
        refusal: why the runtime does not run the file.
    """

    profile: RopeProfile
    runtime: str | None = None
    spec: str | None = None
    predictions: Mapping[int | None, Mapping[str, Prediction]] = field(default_factory=dict)
    refusal: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The rope groups: the runtime's own where it keeps several apart, else the file's."""
        found = next(iter(self.predictions.values()), {})
        return tuple(found) if len(found) > 1 else tuple(self.profile.groups)

    def group(self, name: str) -> RopeGroup:
        """The file's settings for a group."""
        return _of(name, self.profile.groups)

    def frequencies(self, name: str, length: int | None) -> Frequencies:
        """What is in force for a group."""
        if self.runtime is None:
            return group_frequencies(self.group(name), length)
        return _of(name, self.predictions[length]).frequencies

    @property
    def readable(self) -> bool:
        """Whether the runtime reads files of this format at all."""
        form = self.profile.source.format
        return self.spec is None or form in runtimes.get(self.spec.partition("@")[0]).reads_formats

    @property
    def _all(self) -> list[Prediction]:
        return [one for found in self.predictions.values() for one in found.values()]

    @property
    def context(self) -> int | None:
        """The longest context that the runtime derives, in tokens."""
        return max((one.context for one in self._all if one.context is not None), default=None)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys of the file that change nothing."""
        return tuple(dict.fromkeys(key for one in self._all for key in one.ignored))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runtime does that a person should know."""
        return tuple(dict.fromkeys(note for one in self._all for note in one.notes))

    @property
    def switches(self) -> tuple[str, ...]:
        """When frequencies change, without ``never``."""
        return tuple(dict.fromkeys(one.switches for one in self._all if one.switches != "never"))

    @property
    def as_written(self) -> bool:
        """Whether it computes what the methods in the file define, at every length compared."""
        return self.refusal is None and all(
            deviation(self.frequencies(name, length), group_frequencies(self.group(name), length)) <= TOLERANCE
            for length in self.predictions
            for name in self.names
        )

    def to_json(self) -> dict[str, Any] | None:
        """Plain JSON; None without a runtime."""
        if self.spec is None:
            return None
        return {
            "runtime": self.spec,
            "version": ".".join(map(str, runtimes.get(self.spec).version)),
            "refusal": self.refusal,
            "as_written": self.as_written,
            "context": self.context,
            "ignored": list(self.ignored),
            "notes": list(self.notes),
            "switches": list(self.switches),
        }


def _of(name: str, by_name: Mapping[str, T]) -> T:
    """The entry of that name, of all layers, or the first: some keep one rotation where others keep several."""
    return by_name.get(name) or by_name.get("default") or next(iter(by_name.values()))


def side(item: Checkpoint | RopeProfile, runtime: str | None, lengths: Sequence[int | None]) -> Side:
    """One side, at each of ``lengths``.

    Raises:
        UsageError: the runtime is unknown, or a profile stands where a runtime needs the file as spelled.
        InputError: the file cannot be read.
    """
    profile = item if isinstance(item, RopeProfile) else item.profile
    if runtime is None:
        return Side(profile)
    from ropepatch.runtimes.comparison import titled

    title = titled(runtime)
    if isinstance(item, RopeProfile):
        raise UsageError(f"what {title} does depends on the file as spelled; give a checkpoint instead of a profile")
    from ropepatch.runtimes import readings

    found: dict[int | None, Mapping[str, Prediction]] = {}
    try:
        for length in lengths:
            found[length] = readings.predicted(item, runtime, length)
    except RuntimeRejects as error:
        return Side(profile, title, runtime, refusal=_reason(error))
    return Side(profile, title, runtime, found)


def _reason(error: RopepatchError) -> str:
    return f"{error.what}; {error.hint}" if error.hint else error.what
