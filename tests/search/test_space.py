"""The spaces and the evolution, on functions that need no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropepatch.errors import UsageError
from ropepatch.methods.base import Spectrum
from ropepatch.search import evolution, space
from ropepatch.search.settings import Settings
from ropepatch.search.space import INITS, Candidate

TINY = Spectrum.plain(1000.0, 32)


def made(kind: str, factor: float = 4.0, spectrum: Spectrum = TINY, original: int = 256, **given: float) -> space.Space:
    """A space of a kind."""
    return space.space(kind, spectrum, original, factor, Settings.of(kind, 200, given))


@pytest.mark.parametrize("kind", space.SPACES)
@given(seed=st.integers(0, 2**32), factor=st.floats(1.5, 64))
def test_children_keep_bounds_and_order(kind: str, seed: int, factor: float) -> None:
    """Whatever the search makes is in its space, never falls from pair to pair, and is a point of the grid."""
    area, draw = made(kind, factor), np.random.default_rng(seed)
    family = list(area.starts(INITS).values())
    for _ in range(40):
        one, other = (family[int(i)] for i in draw.integers(len(family), size=2))
        for child in (area.mutated(one, draw), area.crossed(one, other, draw)):
            if child is not None:
                assert area.holds(child)
                family.append(child)


@given(seed=st.integers(0, 2**32))
def test_longrope2_keeps_to_its_paper(seed: int) -> None:
    """From the critical pair on at least s and at most 2 s; below it what NTK makes of that pair's factor."""
    area, draw = made("longrope2"), np.random.default_rng(seed)
    candidate = next(iter(area.starts(INITS).values()))
    for _ in range(30):
        candidate = area.mutated(candidate, draw)
        critical, factors = candidate.critical, candidate.factors
        assert critical is not None
        assert 4 <= critical <= 9
        assert all(4 - 1e-9 <= value <= 8 + 1e-9 for value in factors[critical:])
        base = factors[critical] ** (1 / critical)
        np.testing.assert_allclose(factors[:critical], base ** np.arange(critical))


@pytest.mark.parametrize(
    ("theta", "rotary_dim", "original", "critical"),
    [(500000.0, 128, 8192, 35), (10000.0, 96, 2048, 31), (1000.0, 32, 256, 9), (500.0, 32, 128, 8)],
)
def test_critical_pairs_of_the_paper(theta: float, rotary_dim: int, original: int, critical: int) -> None:
    """LongRoPE2 says 35 for Llama 3 8B and 31 for Phi-3 mini; the small ones are the fixture's and its sibling's."""
    first, last = space.critical_pairs(Spectrum.plain(theta, rotary_dim), original)

    assert last == critical
    assert first < last


def test_longrope2_starts_as_its_authors_do() -> None:
    """Eight starts: for an extension of 32 they stand at 32, 35, … 53 and rise by 0.1 from pair to pair."""
    area = made("longrope2", 32.0, Spectrum.plain(500000.0, 128), 8192)
    own = [c for name, c in area.starts(()).items() if name.startswith("longrope2 ")]

    np.testing.assert_allclose([c.factors[35] for c in own], [32, 35, 38, 41, 44, 47, 50, 53])
    np.testing.assert_allclose(np.diff(own[0].factors[35:]), 0.1)


def test_a_rotation_without_a_critical_pair() -> None:
    """Where every pair turns fully in training there is nothing for LongRoPE2 to search, and it says so."""
    with pytest.raises(UsageError, match=r"critical.*--space longrope"):
        made("longrope2", 4.0, Spectrum.plain(100.0, 32), 65536)


def distance(wanted: np.ndarray) -> evolution.Scorer:
    """A score that is best at one list."""
    return lambda batch, _: [-float(np.abs(np.log(np.array(c.factors) / wanted)).sum()) for c in batch]


def evolved(budget: int, seed: int, score: evolution.Scorer) -> evolution.Result:
    """A search from the closed forms in LongRoPE's space."""
    area = made("longrope")
    return evolution.evolve(area, area.starts(INITS), Settings.of("longrope", budget, {}), budget, (seed, 0), score)


def test_the_evolution_finds_what_scores_best() -> None:
    """It comes much nearer to a hidden list than the best start, never tries a list twice, and keeps to its budget."""
    hidden = np.round(np.linspace(1.0, 2.2, 16) ** 2, 2)
    found = evolved(600, 3, distance(hidden))
    lists = [candidate.factors for candidate, _ in found.tried]

    assert found.best[1] > 0.5 * max(found.starts.values())
    assert len(lists) == len(set(lists)) == 600
    assert found.curve()[-1][1] == found.best[1]


def test_a_seed_decides_everything() -> None:
    """The same seed tries the same lists in the same order; another seed tries others."""
    score = distance(np.linspace(1.0, 4.0, 16))
    one, again, other = (evolved(120, seed, score).tried for seed in (1, 1, 2))

    assert one == again
    assert one != other


def test_a_budget_below_the_starts() -> None:
    """A budget that does not even hold the starts tries as many as it says."""
    assert len(evolved(3, 1, distance(np.ones(16))).tried) == 3


def test_a_space_of_one_point_ends() -> None:
    """Where nothing new can be tried the search ends, whatever its budget."""
    area = made("longrope", 1.0, reach=1.0)
    ones = {"none": Candidate((1.0,) * 16)}

    def score(batch: Sequence[Candidate], _: int) -> list[float]:
        return [0.0] * len(batch)

    assert len(evolution.evolve(area, ones, Settings.of("longrope", 50, {}), 50, (1,), score).tried) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [({"colour": 1}, "has no setting 'colour'"), ({"probability": 2}, "runs from 0 to 1"),
     ({"mutations": 0, "crossovers": 0}, "needs a mutation"), ({"population": "many"}, "must be a number")],
)  # fmt: skip
def test_settings_that_cannot_be(given: dict[str, object], told: str) -> None:
    """A setting that there is not, or that cannot be, is a usage error that says so."""
    with pytest.raises(UsageError, match=told):
        Settings.of("longrope", 100, given)


def test_the_papers_settings() -> None:
    """A budget as large as the papers' has their population; every setting says where it is from."""
    full = Settings.of("longrope", 1344, {})

    assert (full.population, full.parents, full.mutations, full.crossovers) == (64, 32, 16, 16)
    assert all(row["source"] for row in full.describe())
    assert Settings.of("longrope2", 1344, {}).reach == 2.0
