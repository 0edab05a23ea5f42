"""The evolution: who is tried next. It knows neither models nor files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ropepatch.search.settings import Settings
from ropepatch.search.space import Candidate, Space

#: scores candidates, higher is better
Scorer = Callable[[Sequence[Candidate], int], Sequence[float]]
#: mutations of a parent before a generation goes without a child that is new
_PATIENCE = 50


@dataclass
class Result:
    """What an evolution came to.

    Attributes:
        tried: every candidate with its score, in the order in which they were tried.
        starts: the score of each start, by name.
        best: the best of all; the first one of equals.
        generations: how many there were, the first included.
    """

    tried: list[tuple[Candidate, float]] = field(default_factory=list)
    starts: dict[str, float] = field(default_factory=dict)
    generations: int = 0

    @property
    def best(self) -> tuple[Candidate, float]:
        """The candidate with the highest score."""
        return max(self.tried, key=lambda pair: pair[1])

    def curve(self) -> list[tuple[int, float]]:
        """Number of candidates and best score, each time that it rose."""
        found: list[tuple[int, float]] = []
        for number, (_, score) in enumerate(self.tried, 1):
            if not found or score > found[-1][1]:
                found.append((number, score))
        return found


def evolve(
    space: Space,
    starts: Mapping[str, Candidate],
    settings: Settings,
    budget: int,
    seed: Sequence[int],
    score: Scorer,
    result: Result | None = None,
) -> Result:
    """Try ``budget`` candidates: the starts, mutants of them, then generations of children of the best.

    Deterministic: the same arguments and scores try the same candidates in the same order.

    Args:
        space: bounds, mutation and crossover.
        starts: where to begin, by name; at least one.
        settings: sizes and probabilities.
        budget: how many candidates are scored.
        seed: of the random choices.
        score: scores candidates; gets the number of the generation as well.
        result: filled as the evolution goes, so that there is something when it is interrupted; default a new one.
    """
    draw = np.random.default_rng(list(seed))
    result = Result() if result is None else result
    seen: set[Candidate] = set()
    first: list[Candidate] = []
    for candidate in starts.values():
        if candidate not in seen:
            seen.add(candidate)
            first.append(candidate)
    roots, size = list(first), max(settings.population, len(first))
    while len(first) < size and (child := _mutant(space, roots, seen, draw)):
        first.append(child)
    _score(result, first[:budget], score)
    known = dict(result.tried)
    result.starts = {name: known[candidate] for name, candidate in starts.items() if candidate in known}
    while len(result.tried) < budget:
        best = [candidate for candidate, _ in sorted(result.tried, key=lambda pair: -pair[1])[: settings.parents]]
        children = _children(space, best, settings, seen, draw)[: budget - len(result.tried)]
        if not children:
            break  # a space so small that all of it was tried
        _score(result, children, score)
    return result


def _score(result: Result, candidates: Sequence[Candidate], score: Scorer) -> None:
    result.tried += zip(candidates, score(candidates, result.generations), strict=True)
    result.generations += 1


def _children(
    space: Space, parents: Sequence[Candidate], settings: Settings, seen: set[Candidate], draw: np.random.Generator
) -> list[Candidate]:
    made = [_mutant(space, parents, seen, draw) for _ in range(settings.mutations)]
    made += [_crossing(space, parents, settings, seen, draw) for _ in range(settings.crossovers)]
    return [child for child in made if child is not None]


def _mutant(
    space: Space, parents: Sequence[Candidate], seen: set[Candidate], draw: np.random.Generator
) -> Candidate | None:
    """A mutant that was not there yet; None when that does not come about."""
    for _ in range(_PATIENCE):
        child = space.mutated(parents[int(draw.integers(len(parents)))], draw)
        if child not in seen:
            seen.add(child)
            return child
    return None


def _crossing(
    space: Space, parents: Sequence[Candidate], settings: Settings, seen: set[Candidate], draw: np.random.Generator
) -> Candidate | None:
    """A child of two that keeps the order and was not there yet; after too many tries a mutant."""
    if len(parents) > 1:
        one, other = (parents[int(index)] for index in draw.choice(len(parents), 2, replace=False))
        for _ in range(settings.tries):
            child = space.crossed(one, other, draw)
            if child is not None and child not in seen:
                seen.add(child)
                return child
    return _mutant(space, parents, seen, draw)
