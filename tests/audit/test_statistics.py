"""Counts, intervals and effective lengths."""

from __future__ import annotations

import math

import pytest

from ropepatch.audit import statistics

#: all right of n: the lower bound is (0.025)^(1/n)
ALL_RIGHT = {8: 0.631, 10: 0.692, 16: 0.794, 20: 0.832, 32: 0.891, 50: 0.929, 64: 0.944, 100: 0.964, 200: 0.982}


@pytest.mark.parametrize(("n", "low"), ALL_RIGHT.items())
def test_all_right_proves_less_than_one(n: int, low: float) -> None:
    """The interval of n of n begins at the nth root of 0.025 and ends at 1; that of 0 of n is its mirror."""
    assert statistics.clopper_pearson(n, n) == (pytest.approx(0.025 ** (1 / n), abs=1e-9), 1.0)
    assert statistics.clopper_pearson(n, n)[0] == pytest.approx(low, abs=1e-3)
    assert statistics.clopper_pearson(0, n) == (0.0, pytest.approx(1 - 0.025 ** (1 / n), abs=1e-9))


def test_interval_in_the_middle() -> None:
    """5 of 10 and 81 of 263 have the published intervals."""
    assert statistics.clopper_pearson(5, 10) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))
    assert statistics.clopper_pearson(81, 263) == (pytest.approx(0.2527, abs=1e-4), pytest.approx(0.3676, abs=1e-4))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({1: 1.0, 2: 0.9, 4: 0.5, 8: 1.0}, 2),
        ({1: 0.5, 2: 1.0}, None),
        ({1: 0.9, 2: 0.86}, 2),
        ({}, None),
    ],
)
def test_effective_length_needs_all_shorter_ones(scores: dict[int, float], expected: int | None) -> None:
    """A length counts only if no shorter one fails."""
    assert statistics.effective_length(scores, 0.856) == expected


def test_paired_difference() -> None:
    """The same texts are compared one by one; without any difference there is no error."""
    assert statistics.paired([True] * 10, [True] * 10) == (0.0, 0.0)
    mean, error = statistics.paired([True] * 8 + [False] * 8, [False] * 16)
    assert mean == -0.5
    assert error == pytest.approx(1.96 * math.sqrt(0.25 * 16 / 15 / 16))
