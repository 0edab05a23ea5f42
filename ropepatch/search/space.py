"""The two search spaces: which lists of per-pair factors there are, and how one is changed into another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ropepatch import methods
from ropepatch.errors import UsageError
from ropepatch.methods.base import Array, ParameterError, Spectrum, Target
from ropepatch.search.settings import Settings

SPACES = ("longrope", "longrope2")
INITS = ("linear", "ntk", "yarn", "mrrope-pro")
#: LongRoPE2's code starts at 32, 35, … 53 for an extension of 32, and adds 0.1 from pair to pair
_STARTS, _START_STEP, _PAIR_STEP, _OF = 8, 3.0, 0.1, 32.0


@dataclass(frozen=True)
class Candidate:
    """A point of a space.

    Attributes:
        factors: one divisor a pair, never falling from pair to pair.
        critical: LongRoPE2's critical pair; None in the other space.
    """

    factors: tuple[float, ...]
    critical: int | None = field(default=None, compare=False)


class Space(ABC):
    """What candidates there are for an extension.

    Args:
        spectrum: the plain rotation.
        original: the trained length T in tokens.
        factor: the extension s; 1 for the list of short inputs.
        settings: step, reach and probabilities.
    """

    name: str

    def __init__(self, spectrum: Spectrum, original: int, factor: float, settings: Settings) -> None:
        self.spectrum, self.original, self.factor, self.settings = spectrum, original, factor, settings
        self.pairs = int(spectrum.inv_freq.size)
        #: the smallest and the largest factor of each pair
        self.lower, self.upper = self._bounds()

    @abstractmethod
    def _bounds(self) -> tuple[Array, Array]: ...

    @abstractmethod
    def fitted(self, factors: Array) -> Candidate:
        """The candidate nearest to what a method says, which may leave the space."""

    @abstractmethod
    def mutated(self, parent: Candidate, draw: np.random.Generator) -> Candidate:
        """A child of one parent."""

    @abstractmethod
    def crossed(self, one: Candidate, other: Candidate, draw: np.random.Generator) -> Candidate | None:
        """A child of two parents; None when it breaks the order or the bounds."""

    @abstractmethod
    def facts(self) -> list[tuple[str, str, str]]:
        """What, value and source of everything that bounds it."""

    def starts(self, names: tuple[str, ...]) -> dict[str, Candidate]:
        """Where the search begins, by name: closed forms, fitted into the space."""
        found = {}
        for name in names:
            found[name] = self.fitted(closed_form(name, self.spectrum, self.original, self.factor))
        return found

    def holds(self, candidate: Candidate) -> bool:
        """Whether the factors keep the bounds and the order."""
        factors = np.asarray(candidate.factors)
        inside = (factors >= self.lower - _TINY).all() and (factors <= self.upper + _TINY).all()
        return bool(inside and (np.diff(factors) >= -_TINY).all())

    def _on_grid(self, low: float, high: float, draw: np.random.Generator) -> float:
        """A value of the grid between two; ``low`` where the grid has none."""
        step = self.settings.step
        first, last = math.ceil(low / step - _TINY), math.floor(high / step + _TINY)
        if first > last:
            return low
        return round(int(draw.integers(first, last + 1)) * step, 9)

    def _redrawn(self, factors: list[float], first: int, draw: np.random.Generator) -> None:
        """Pairs from ``first`` on, each with the mutation's probability drawn again between its neighbours."""
        for pair in range(first, self.pairs):
            if draw.random() >= self.settings.probability:
                continue
            low = max(float(self.lower[pair]), factors[pair - 1] if pair > first else 0.0)
            high = min(float(self.upper[pair]), factors[pair + 1] if pair + 1 < self.pairs else math.inf)
            factors[pair] = self._on_grid(low, high, draw)


class LongRopeSpace(Space):
    """Every pair from 1 to 1.25 s, never falling (arXiv 2402.13753, section 3.2).

    The paper also searches how many first tokens keep their angles. No file format can say that: it is left out.
    """

    name = "longrope"

    def _bounds(self) -> tuple[Array, Array]:
        return np.ones(self.pairs), np.full(self.pairs, self.settings.reach * self.factor)

    def fitted(self, factors: Array) -> Candidate:
        inside = np.maximum.accumulate(np.clip(factors, self.lower, self.upper))
        return Candidate(tuple(map(float, inside)))

    def mutated(self, parent: Candidate, draw: np.random.Generator) -> Candidate:
        factors = list(parent.factors)
        self._redrawn(factors, 0, draw)
        return Candidate(tuple(factors))

    def crossed(self, one: Candidate, other: Candidate, draw: np.random.Generator) -> Candidate | None:
        taken = draw.random(self.pairs) < self.settings.swap
        made = Candidate(tuple(b if take else a for a, b, take in zip(one.factors, other.factors, taken, strict=True)))
        return made if self.holds(made) else None

    def facts(self) -> list[tuple[str, str, str]]:
        paper = "LongRoPE, arXiv 2402.13753"
        return [
            ("factors", f"1 to {self.upper[0]:g} on each of {self.pairs} pairs", paper),
            ("order", "f[i] <= f[i+1]", paper),
            ("first tokens left as they are", "not searched: no file can say it", "ropepatch"),
        ]


class LongRope2Space(Space):
    """From a critical pair on from s to 2 s, below it what NTK makes of that pair's factor (arXiv 2502.20082, 3.2)."""

    name = "longrope2"

    def __init__(self, spectrum: Spectrum, original: int, factor: float, settings: Settings) -> None:
        self.first, self.last = critical_pairs(spectrum, original)
        super().__init__(spectrum, original, factor, settings)

    def _bounds(self) -> tuple[Array, Array]:
        upper = np.full(self.pairs, self.settings.reach * self.factor)
        lower = np.where(np.arange(self.pairs) >= self.last, self.factor, 1.0)
        return lower, upper

    def _made(self, factors: list[float], critical: int) -> Candidate:
        """The pairs below the critical one follow from it: ``f[i] = f[c] ** (i / c)``, as the authors' code has it."""
        below = [factors[critical] ** (pair / critical) for pair in range(critical)]
        return Candidate((*below, *factors[critical:]), critical)

    def fitted(self, factors: Array) -> Candidate:
        inside = np.clip(factors, self.factor, self.upper)
        return self._made([float(x) for x in np.maximum.accumulate(inside)], self.last)

    def starts(self, names: tuple[str, ...]) -> dict[str, Candidate]:
        """The closed forms, and the eight that the authors' code starts from, brought to this extension."""
        found = super().starts(names)
        for index in range(_STARTS):
            scale = self.factor * (1 + index * _START_STEP / _OF)
            rising = scale + self.factor * _PAIR_STEP / _OF * np.maximum(np.arange(self.pairs) - self.last, 0)
            found[f"longrope2 {scale:g}"] = self.fitted(rising)
        return found

    def mutated(self, parent: Candidate, draw: np.random.Generator) -> Candidate:
        critical, factors = parent.critical or self.last, list(parent.factors)
        if draw.random() < self.settings.probability:
            critical = int(draw.integers(self.first, self.last + 1))
        for pair in range(critical, self.pairs):  # what was below the old critical pair is now a factor of its own
            factors[pair] = max(factors[pair], self.factor)
        self._redrawn_above(factors, critical, draw)
        return self._made(factors, critical)

    def _redrawn_above(self, factors: list[float], critical: int, draw: np.random.Generator) -> None:
        """Pairs from the critical one on stay at or above s."""
        for pair in range(critical, self.pairs):
            if draw.random() >= self.settings.probability:
                continue
            low = max(self.factor, factors[pair - 1] if pair > critical else 0.0)
            high = min(float(self.upper[pair]), factors[pair + 1] if pair + 1 < self.pairs else math.inf)
            factors[pair] = self._on_grid(low, high, draw)

    def crossed(self, one: Candidate, other: Candidate, draw: np.random.Generator) -> Candidate | None:
        critical = (one if draw.random() < 0.5 else other).critical or self.last
        taken = draw.random(self.pairs) < self.settings.swap
        factors = [
            max(b if take else a, self.factor) if pair >= critical else 1.0
            for pair, (a, b, take) in enumerate(zip(one.factors, other.factors, taken, strict=True))
        ]
        if any(b < a - _TINY for a, b in zip(factors[critical:], factors[critical + 1 :], strict=False)):
            return None
        return self._made(factors, critical)

    def facts(self) -> list[tuple[str, str, str]]:
        paper = "LongRoPE2, arXiv 2502.20082"
        return [
            ("critical pair by theory", f"{self.last} of {self.pairs}", f"{paper}: the first that never turns fully"),
            ("critical pair, searched", f"{self.first} to {self.last}", f"{paper}: from ten turns on"),
            ("factors from it on", f"{self.factor:g} to {self.upper[-1]:g}", paper),
            ("factors below it", "f[c] ** (i/c)", "LongRoPE2's code"),
            ("order", "f[i] <= f[i+1]", paper),
        ]


_TINY = 1e-9
_SPACES: Mapping[str, type[Space]] = {"longrope": LongRopeSpace, "longrope2": LongRope2Space}


def space(name: str, spectrum: Spectrum, original: int, factor: float, settings: Settings) -> Space:
    """The space of that name.

    Raises:
        UsageError: there is none, or this rotation has no critical pair.
    """
    if name not in _SPACES:
        raise UsageError(f"there is no space {name!r}; there are: {', '.join(SPACES)}")
    return _SPACES[name](spectrum, original, factor, settings)


def critical_pairs(spectrum: Spectrum, original: int) -> tuple[int, int]:
    """The pairs between which LongRoPE2 looks for the critical one: ten turns over the trained context, and one.

    ``⌈(d/2) log_θ(T / 2πn)⌉`` for n = 10 and 1 (arXiv 2502.20082, eq. 3 and section 3.2).

    Raises:
        UsageError: every pair turns fully over the trained context, or none does.
    """
    half, base = spectrum.inv_freq.size, math.log(spectrum.rope_theta)
    first, last = (math.ceil(half * math.log(original / (2 * math.pi * turns)) / base) for turns in (10, 1))
    if not 1 <= last < half:
        raise UsageError(
            f"no pair of {half} is critical at {original} tokens and a base of {spectrum.rope_theta:g}",
            hint="--space longrope needs none",
        )
    return min(max(first, 1), last), last


def closed_form(name: str, spectrum: Spectrum, original: int, factor: float) -> Array:
    """The divisors that a method without parameters comes to, shape ``(pairs,)``.

    Raises:
        UsageError: there is no such method, or it has no static list.
    """
    try:
        method = methods.extend(name, Target(factor, original, spectrum), {})
    except ParameterError as error:
        raise UsageError(f"--init: {error}") from None
    if not method.static:
        raise UsageError(f"--init: {name} has no one list of factors")
    divisors: Array = spectrum.inv_freq / method.apply(spectrum, None).inv_freq
    return divisors


def to_json(candidate: Candidate) -> dict[str, Any]:
    """Plain JSON."""
    out: dict[str, Any] = {"factors": list(candidate.factors)}
    if candidate.critical is not None:
        out["critical_pair"] = candidate.critical
    return out
