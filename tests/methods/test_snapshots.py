"""Values that other people's code computed, kept as numbers: transformers' own tests and runs of its modules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ropepatch import methods
from ropepatch.methods import Method, Spectrum, Target
from ropepatch.methods.ntk import NtkCritical, ntk_theta
from ropepatch.methods.yarn import Yarn, correction_index

LLAMA2 = Spectrum.plain(10000.0, 128)
#: five digits are written in transformers' tests
DIGITS = 5e-5


def method(name: str, factor: float, original: int, rope: Spectrum, **settings: float | bool) -> Method:
    """A method as a person asks for it."""
    return methods.extend(name, Target(factor, original, rope), settings)


@pytest.mark.parametrize(
    ("name", "length", "values"),
    [
        ("dynamic", 16384, {1: 8.0931e-01, 63: 1.6265e-06}),
        ("yarn", None, {17: 8.3479e-02, 40: 4.3007e-04, 41: 2.7384e-04, 63: 1.1548e-05}),
        ("llama3", None, {31: 1.0730e-02, 40: 3.4539e-04, 63: 1.1548e-05}),
        ("linear", None, {0: 0.1, 1: 8.6596e-02, 63: 1.1548e-05}),
    ],
)
def test_llama_by_ten_at_2048(name: str, length: int | None, values: dict[int, float]) -> None:
    """Llama with θ 10000, 128 dimensions and 2048 tokens, extended ten times: transformers' test values."""
    result = method(name, 10.0, 2048, LLAMA2).apply(LLAMA2, length).inv_freq
    for index, value in values.items():
        assert result[index] == pytest.approx(value, rel=DIGITS), index


@pytest.mark.parametrize(
    ("name", "length", "last"), [("dynamic", 200000, 1.7170e-05), ("yarn", None, 3.4431e-05), ("none", None, 1.0746e-04)]
)
def test_gemma3_sliding_by_ten_at_131072(name: str, length: int | None, last: float) -> None:
    """Gemma 3's test config (head 256, 131072 tokens): the last pair's value; θ is that of its layer type."""
    # transformers' test gives the full-attention group θ 1e6 and the sliding one θ 1e4; both are tried by the value.
    candidates = [Spectrum.plain(theta, 256) for theta in (1e4, 1e6)]
    results = [method(name, 10.0, 131072, rope).apply(rope, length).inv_freq[-1] for rope in candidates if True]
    assert any(value == pytest.approx(last, rel=DIGITS) for value in results), results
