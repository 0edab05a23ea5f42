"""What inspect says of a profile beyond its settings."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ropepatch.methods import Method
from ropepatch.methods.dynamic import Dynamic
from ropepatch.methods.linear import Linear
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.none import NoScaling
from ropepatch.profile import RopeGroup, RopeProfile, Source
from ropepatch.report import summary

PLAIN = RopeGroup(10000.0, 64, 64)


def profile(scaling: Method, trained: int | None, declared: int | None) -> RopeProfile:
    group = dataclasses.replace(PLAIN, scaling=scaling)
    return RopeProfile(Source("a", "hf", "llama"), {"default": group}, trained, declared)


def test_pairs_beyond_the_trained_context() -> None:
    """The pairs counted are those whose unscaled wavelength exceeds the trained context."""
    wavelengths = [2 * math.pi * 10000 ** (2 * i / 64) for i in range(32)]
    for method in (NoScaling(), Linear(4.0)):
        found = summary.group_summary(profile(method, 2048, 8192), dataclasses.replace(PLAIN, scaling=method))

        assert found["beyond_trained"] == sum(length > 2048 for length in wavelengths) == 11


def test_longest_wavelength_is_the_scaled_one() -> None:
    """The longest wavelength is what the checkpoint rotates by, scaling included."""
    one, four = (summary.group_summary(profile(m, 2048, 8192), dataclasses.replace(PLAIN, scaling=m)) for m in
                 (NoScaling(), Linear(4.0)))  # fmt: skip

    assert four["longest_wavelength"] == pytest.approx(4 * one["longest_wavelength"])


@pytest.mark.parametrize(
    ("method", "trained", "declared", "expected"),
    [
        (NoScaling(), 2048, 8192, "no scaling is in force"),
        (Linear(4.0), 8192, 8192, "declares no more than"),
        (Linear(2.0), 2048, 8192, "is 4,096, less than the declared 8,192"),
    ],
)
def test_warnings(method: Method, trained: int, declared: int, expected: str) -> None:
    """Contexts that do not fit the scaling are pointed out."""
    assert [expected in warning for warning in summary.warnings(profile(method, trained, declared))] == [True]


@pytest.mark.parametrize(
    ("method", "trained", "declared"),
    [
        (NoScaling(), 2048, 2048),
        (NoScaling(), None, 8192),
        (Linear(4.0), 2048, 8192),
        (Llama3(8.0, 8192), 8192, 131072),
        (Dynamic(2.0, 2048), 2048, 8192),
    ],
)
def test_no_warning(method: Method, trained: int | None, declared: int) -> None:
    """Sound checkpoints, the published Llama 3.1 among them, get no warning."""
    assert summary.warnings(profile(method, trained, declared)) == []
