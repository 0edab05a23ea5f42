"""The planner's geometry against counting, against torch's casts, and against published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ropepatch.methods import Target, extend
from ropepatch.methods.base import Array, Frequencies, Spectrum
from ropepatch.planner import geometry


def plain(theta: float, dim: int = 128) -> Spectrum:
    return Spectrum.plain(theta, dim)


def extended(method: str, theta: float, original: int, length: int, dim: int = 128) -> Frequencies:
    rope = plain(theta, dim)
    settings = {"rope_theta": theta * 10} if method == "theta" else {}
    return extend(method, Target(length / original, original, rope), settings).apply(rope, length)


def of(method: str, theta: float, original: int, length: int) -> geometry.Geometry:
    rope = plain(theta)
    return geometry.geometry(Frequencies(rope.inv_freq), original, extended(method, theta, original, length), length)


@pytest.mark.parametrize(
    ("theta", "original", "pair"), [(10000.0, 4096, 46), (500000.0, 8192, 35), (1000000.0, 32768, 40)]
)
def test_critical_dimension_is_published_and_counted(theta: float, original: int, pair: int) -> None:
    """The closed form gives the published pairs of Llama 2, Llama 3 and Qwen2.5, and counting agrees."""
    rope = plain(theta)

    assert geometry.critical_dimension(rope, original) == 2 * pair
    assert geometry.slow_pairs(rope.inv_freq, original) == 64 - pair
    assert all(wavelength >= original for wavelength in 2 * math.pi / rope.inv_freq[pair:])


def test_no_critical_dimension_where_every_pair_turns() -> None:
    """A small base over a long context leaves no pair that does not turn."""
    rope = plain(100.0)

    assert geometry.critical_dimension(rope, 8192) is None
    assert geometry.slow_pairs(rope.inv_freq, 8192) == 0


@pytest.mark.parametrize("method", ["none", "linear", "ntk", "yarn", "llama3", "theta"])
def test_share_of_angles_is_what_counting_positions_gives(method: str) -> None:
    """The closed form of the angles outside of training agrees with walking over finely spaced distances."""
    original, length, theta = 256, 1024, 1000.0
    rope = plain(theta, 32)
    now = extended(method, theta, original, length, 32).inv_freq
    shares = geometry.outside_shares(rope.inv_freq, original, now, length)
    distances = (np.arange(400_000) + 0.5) * (length / 400_000)
    for pair in range(16):
        known = rope.inv_freq[pair] * original
        angles = np.mod(distances * now[pair], 2 * math.pi)
        counted = float((angles > known).mean()) if known < 2 * math.pi else 0.0
        assert shares[pair] == pytest.approx(counted, abs=2e-5), (method, pair)


@pytest.mark.parametrize("method", ["linear", "yarn", "llama3", "ntk-critical", "mrrope-pro"])
def test_methods_that_slow_long_pairs_leave_no_angle(method: str) -> None:
    """What interpolates every slow pair by the factor keeps all angles inside the trained range."""
    found = of(method, 10000.0, 4096, 16384)

    assert (found.leaving_pairs, found.angles_outside) == (0, 0.0)
    assert found.overrun <= 1 + 1e-9


def test_unscaled_leaves_the_trained_range() -> None:
    """Without scaling every slow pair leaves it, and the slowest by the factor."""
    found = of("none", 10000.0, 4096, 16384)

    assert found.leaving_pairs == 18
    assert found.overrun == pytest.approx(4.0)
    assert 0.1 < found.angles_outside < 18 / 64


def test_linear_loses_the_step_between_neighbours() -> None:
    """Linear scaling divides the fastest pair's step by the factor, YaRN and NTK keep it."""
    assert of("linear", 10000.0, 4096, 16384).neighbour_ratio == pytest.approx(0.25)
    assert of("yarn", 10000.0, 4096, 16384).neighbour_ratio == pytest.approx(1.0)
    assert of("ntk", 10000.0, 4096, 16384).neighbour_ratio == pytest.approx(1.0)


def test_attention_scale_acts_on_logits_by_its_square() -> None:
    """YaRN's 0.1 ln s + 1 on cos and sin is its square on the logits."""
    found = of("yarn", 10000.0, 4096, 16384)

    assert found.attention_scale == pytest.approx(1.138629436)
    assert found.logit_ratio == pytest.approx(1.138629436**2)


@pytest.mark.parametrize(("method", "base"), [("ntk", 10000 * 4 ** (128 / 126)), ("theta", 1e5), ("none", 1e4)])
def test_effective_base_of_a_changed_base_is_that_base(method: str, base: float) -> None:
    """A plain spectrum of another base is recognised as that base, by both definitions."""
    found = of(method, 10000.0, 4096, 16384)

    assert found.base_fitted == pytest.approx(base, rel=1e-9)
    assert found.base_slowest == pytest.approx(base, rel=1e-9)


def test_effective_base_comes_from_the_frequencies() -> None:
    """YaRN's effective base is neither θ·s nor the NTK-aware base: the fit sees all pairs."""
    found = of("yarn", 10000.0, 4096, 16384)
    logs = np.log(extended("yarn", 10000.0, 4096, 16384).inv_freq)
    slope = np.linalg.lstsq((np.arange(64) / 64)[:, None], logs, rcond=None)[0]

    assert found.base_slowest == pytest.approx(10000 * 4 ** (128 / 126), rel=1e-9)
    assert found.base_fitted == pytest.approx(math.exp(-slope[0]))
    assert found.base_fitted != pytest.approx(40000, rel=0.01)


@pytest.mark.parametrize(
    ("theta", "dim", "expected"), [(10000.0, 128, 1706), (10000.0, 64, 724), (1000.0, 32, 121), (500.0, 32, 102)]
)
def test_first_zero_of_the_base_bound(theta: float, dim: int, expected: int) -> None:
    """The sum of cosines stays at or above zero up to the known length and is negative right after it."""
    inv_freq = plain(theta, dim).inv_freq
    sums = np.cos(np.arange(expected + 3)[:, None] * inv_freq[None, :]).sum(axis=1)

    assert geometry.first_zero(inv_freq, 100_000) == expected + 1
    assert (sums[: expected + 1] >= 0).all()
    assert sums[expected + 1] < 0
    assert geometry.first_zero(inv_freq, expected + 1) is None


def test_first_zero_across_blocks() -> None:
    """A zero far behind the first block is found where counting finds it."""
    inv_freq = plain(500000.0).inv_freq
    sums = np.concatenate(
        [np.cos(np.arange(a, a + 8192)[:, None] * inv_freq[None, :]).sum(axis=1) for a in range(0, 65536, 8192)]
    )
    negative = np.flatnonzero(sums < -1e-7)

    assert geometry.first_zero(inv_freq, 65536) == (int(negative[0]) if negative.size else None)
    assert negative.size


@pytest.mark.parametrize("length", [1, 2, 256, 257, 258, 300, 512, 513, 1000, 1024, 4097, 131072, 200001])
def test_bf16_aliasing_is_what_torch_casts_to(length: int) -> None:
    """The number of different positions and of neighbours on one value are those of torch.bfloat16."""
    cast = torch.arange(length, dtype=torch.float32).to(torch.bfloat16)
    found = geometry.aliasing("bf16", length)

    assert found.exact_below == 257
    assert found.distinct == cast.unique().numel()
    octave = torch.tensor(2.0 ** math.floor(math.log2(max(length - 1, 1))), dtype=torch.bfloat16)
    step = float(torch.nextafter(octave, torch.tensor(math.inf, dtype=torch.bfloat16)) - octave)
    assert found.spacing == max(1.0, step)


@pytest.mark.parametrize("length", [4096, 131072, 1 << 20])
def test_fp32_angles_are_off_by_half_a_spacing(length: int) -> None:
    """In float32 positions are told apart up to 2**24; the angle's error is half the spacing at that size."""
    found = geometry.aliasing("fp32", length)

    assert (found.exact_below, found.spacing, found.distinct) == ((1 << 24) + 1, 1, length)
    assert found.angle_error == float(np.spacing(np.float32(length - 1))) / 2


def test_pair_that_stands_still_is_left_out() -> None:
    """A frequency of zero leaves no range, has no base and breaks nothing."""
    inv_freq: Array = np.array([1.0, 0.1, 0.0])
    found = geometry.geometry(Frequencies(inv_freq), 10, Frequencies(inv_freq), 40)

    assert found.leaving_pairs == 1
    assert found.base_slowest is None
    assert found.base_fitted == pytest.approx(1000.0)
