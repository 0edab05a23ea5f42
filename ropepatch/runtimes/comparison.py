"""Several runtimes on one checkpoint: who agrees, who differs and where, who refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ropepatch import runtimes
from ropepatch.errors import RopepatchError, RuntimeRejects
from ropepatch.frequencies import TOLERANCE, profile_frequencies, ratios
from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeProfile
from ropepatch.runtimes.base import Prediction

#: what a runtime makes of a checkpoint by group name, or why it makes nothing of it
Outcome: TypeAlias = "dict[str, Prediction] | RopepatchError"


@dataclass(frozen=True)
class Cell:
    """One runtime's reading of one rope group against the reference.

    Attributes:
        same: whether frequencies and magnitude agree to float32 accuracy.
        ratio: the largest ratio between two frequencies of a pair, at least 1; None where the widths differ.
        pair: the pair at which it is reached; None when all agree or the widths differ.
        prediction: what the runtime computes.
        reference: what it is compared with.
    """

    same: bool
    ratio: float | None
    pair: int | None
    prediction: Prediction
    reference: Frequencies

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; a pair that stands still on one side only has no ratio."""
        return {
            "same": self.same,
            "ratio": self.ratio if self.ratio is not None and math.isfinite(self.ratio) else None,
            "pair": self.pair,
            "pairs": [int(self.prediction.inv_freq.size), int(self.reference.inv_freq.size)],
            "attention_scale": [self.prediction.attention_scale, self.reference.attention_scale],
            "switches": self.prediction.switches,
        }


@dataclass(frozen=True)
class Row:
    """One runtime on one checkpoint.

    Attributes:
        runtime: its name, with the release where one was asked for.
        status: ``same``, ``differs``, ``refuses``, ``unreadable`` (values that nobody computes with) or ``format``.
        reason: why, for the last three.
        cells: by group name.
    """

    runtime: str
    status: str
    reason: str | None = None
    cells: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys that change nothing in any group."""
        return tuple(dict.fromkeys(key for cell in self.cells.values() for key in cell.prediction.ignored))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runtime's predictions say, each sentence once."""
        return tuple(dict.fromkeys(note for cell in self.cells.values() for note in cell.prediction.notes))

    @property
    def context(self) -> int | None:
        """The longest context that the runtime derives."""
        lengths = [cell.prediction.context for cell in self.cells.values() if cell.prediction.context is not None]
        return max(lengths, default=None)


def compare(reference: Frequencies, prediction: Prediction) -> Cell:
    """How ``prediction`` differs from ``reference``."""
    if prediction.inv_freq.shape != reference.inv_freq.shape:
        return Cell(False, None, None, prediction, reference)
    quotient = np.abs(ratios(prediction.inv_freq, reference.inv_freq))
    with np.errstate(divide="ignore"):
        size = np.maximum(quotient, 1.0 / quotient)
    pair = int(np.argmax(size)) if size.size else 0
    largest = float(size[pair]) if size.size else 1.0
    turned = largest - 1.0 <= TOLERANCE
    scaled = math.isclose(prediction.attention_scale, reference.attention_scale, rel_tol=TOLERANCE)
    return Cell(turned and scaled, 1.0 if turned else largest, None if turned else pair, prediction, reference)


def matrix(
    profile: RopeProfile | None,
    config: Mapping[str, Any] | None,
    length: int | None = None,
    specs: Sequence[str] | None = None,
    where: str = "config.json",
) -> list[Row]:
    """Every runtime (or those that ``specs`` names) against the newest transformers, or llama.cpp for a GGUF file.

    Where the reference refuses the checkpoint, the profile's own frequencies take its place, and without a profile
    those of the first runtime that computes any.
    """
    found, (_, reference) = outcomes(profile, config, length, specs, where)
    return [row_of(name, result, reference) for name, result in found.items()]


def outcomes(
    profile: RopeProfile | None,
    config: Mapping[str, Any] | None,
    length: int | None,
    specs: Sequence[str] | None,
    where: str,
) -> tuple[dict[str, Outcome], tuple[str, dict[str, Frequencies]]]:
    """What each runtime makes of the checkpoint; and what they are compared with: its name and frequencies."""
    names = tuple(specs) if specs is not None else runtimes.names()
    found = {name: _predicted(name, profile, config, length, where) for name in names}
    return found, _reference(profile, config, length, where, found)


def _predicted(
    name: str, profile: RopeProfile | None, config: Mapping[str, Any] | None, length: int | None, where: str
) -> Outcome:
    runtimes.get(name)  # an unknown name is the caller's mistake, not the runtime's refusal
    try:
        return runtimes.predict(name, profile, config, length, where)
    except RopepatchError as error:
        return error


def _reference(
    profile: RopeProfile | None,
    config: Mapping[str, Any] | None,
    length: int | None,
    where: str,
    found: Mapping[str, Outcome],
) -> tuple[str, dict[str, Frequencies]]:
    name = "llama.cpp" if profile is not None and profile.source.format == "gguf" else "transformers"
    first = _predicted(name, profile, config, length, where)
    if isinstance(first, RopepatchError) and profile is not None:
        return "what the file says", profile_frequencies(profile, length)
    if isinstance(first, RopepatchError):
        name, first = next(((name, made) for name, made in found.items() if isinstance(made, dict)), ("", {}))
    return titled(name), {group: prediction.frequencies for group, prediction in first.items()}


def row_of(name: str, result: Outcome, reference: Mapping[str, Frequencies]) -> Row:
    """A runtime's outcome against the reference."""
    if isinstance(result, runtimes.WrongFormat):
        return Row(name, "format", result.what)
    if isinstance(result, RopepatchError):
        return Row(name, "refuses" if isinstance(result, RuntimeRejects) else "unreadable", result.what)
    cells = {}
    for group in dict.fromkeys((*reference, *result)):
        # an engine that keeps one rotation for all layers is compared with each group of the reference
        mine, theirs = _of(group, result), _of(group, reference)
        if mine is not None and theirs is not None:
            cells[group] = compare(theirs, mine)
    same = bool(cells) and all(cell.same for cell in cells.values())
    return Row(name, "same" if same else "differs", None, cells)


def _of(group: str, by_name: Mapping[str, Any]) -> Any:
    return by_name.get(group, by_name.get("default"))


def titled(spec: str) -> str:
    """A runtime as a sentence names it: with its release, where releases are told apart; ``nothing`` without one."""
    if not spec:
        return "nothing"
    engine = runtimes.get(spec)
    single = len(runtimes.behaviours(engine.name)) == 1 and "@" not in spec
    unnumbered = runtimes.behaviours(engine.name)[-1].since == (0,)
    return engine.name if single or unnumbered else f"{engine.name} {dotted(engine.version)}"


def dotted(version: Sequence[int]) -> str:
    """A release as people write it."""
    return ".".join(map(str, version))
