"""Values that other people's code computed, kept as numbers: transformers' own tests and runs of its modules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ropepatch import methods
from ropepatch.methods import Method, Spectrum, Target
from ropepatch.methods.ntk import ntk_theta
from ropepatch.methods.ntk_critical import NtkCritical
from ropepatch.methods.proportional import Proportional
from ropepatch.methods.yarn import Yarn, correction_index

LLAMA2 = Spectrum.plain(10000.0, 128)
LLAMA3 = Spectrum.plain(500000.0, 128)
QWEN2 = Spectrum.plain(1e6, 128)
#: transformers' tests write five digits, the recorded runs are float32 with seven
DIGITS, SINGLE = 5e-5, 1e-6


def method(name: str, factor: float, original: int, rope: Spectrum, **settings: object) -> Method:
    """A method as a person asks for it."""
    return methods.extend(name, Target(factor, original, rope), settings)


@pytest.mark.parametrize(
    ("name", "length", "values"),
    [
        ("none", None, {0: 1.0, 1: 8.6596e-01, 17: 8.6596e-02, 32: 1.0e-02, 63: 1.1548e-04}),
        ("linear", None, {0: 0.1, 1: 8.6596e-02, 63: 1.1548e-05}),
        (
            "dynamic",
            16384,
            {1: 8.0931e-01, 8: 1.8404e-01, 16: 3.3872e-02, 32: 1.1473e-03, 62: 2.0097e-06, 63: 1.6265e-06},
        ),
        (
            "yarn",
            None,
            {
                1: 8.6596e-01, 16: 1.0e-01, 17: 8.3479e-02, 18: 6.9590e-02, 24: 2.2515e-02, 32: 4.2400e-03,
                39: 6.2810e-04, 40: 4.3007e-04, 41: 2.7384e-04, 42: 2.3714e-04, 63: 1.1548e-05,
            },
        ),
        ("llama3", None, {31: 1.0730e-02, 40: 3.4539e-04, 63: 1.1548e-05}),
    ],
)  # fmt: skip
def test_llama_by_ten_at_2048(name: str, length: int | None, values: dict[int, float]) -> None:
    """Llama with θ 10000, 128 dimensions and 2048 tokens, extended ten times: the values of transformers' tests."""
    result = method(name, 10.0, 2048, LLAMA2).apply(LLAMA2, length).inv_freq if name != "none" else LLAMA2.inv_freq
    for index, value in values.items():
        assert result[index] == pytest.approx(value, rel=DIGITS), index


@pytest.mark.parametrize(("name", "length", "last"), [("dynamic", 200000, 1.7170e-05), ("yarn", None, 3.4431e-05)])
def test_gemma3_by_ten_at_131072(name: str, length: int | None, last: float) -> None:
    """Gemma 3's test config, θ 10000 and head 256: the last pair, which YaRN's ramp does not reach the end of."""
    rope = Spectrum.plain(10000.0, 256)
    assert method(name, 10.0, 131072, rope).apply(rope, length).inv_freq[-1] == pytest.approx(last, rel=DIGITS)


def test_proportional_stops_the_slow_pairs() -> None:
    """A share of 0.25 of 128 dimensions: 16 pairs turn as in plain RoPE, 48 stand still; a share of 1 is linear."""
    result = Proportional(0.25).apply(LLAMA2, None).inv_freq
    np.testing.assert_array_equal(result[:16], LLAMA2.inv_freq[:16])
    assert not result[16:].any()
    assert result.size == 64
    linear = method("linear", 10.0, 2048, LLAMA2).apply(LLAMA2, None).inv_freq
    np.testing.assert_allclose(Proportional(1.0, 10.0).apply(LLAMA2, None).inv_freq, linear)


RECORDED = [
    (
        Yarn(4.0, 32768),
        QWEN2,
        None,
        1.138629436,
        {24: 5.375321e-03, 32: 6.029411e-04, 40: 4.445699e-05, 63: 3.102344e-07},
    ),
    (method("llama3", 8.0, 8192, LLAMA3), LLAMA3, None, 1.0, {24: 7.292665e-03, 32: 5.248460e-04, 63: 3.068926e-07}),
    (
        Yarn(32.0, 4096, truncate=False),
        Spectrum.plain(150000.0, 128),
        None,
        1.346573590,
        {32: 4.564839e-04, 63: 2.509777e-07},
    ),
    (method("dynamic", 4.0, 4096, LLAMA2), LLAMA2, 16384, 1.0, {1: 8.314160e-01, 63: 8.882938e-06}),
]


@pytest.mark.parametrize(
    ("made", "rope", "length", "attention", "values"), RECORDED, ids=lambda v: getattr(v, "name", "")
)
def test_recorded_runs_of_transformers(
    made: Method, rope: Spectrum, length: int | None, attention: float, values: dict[int, float]
) -> None:
    """What transformers 5.23's modules gave in float32."""
    result = made.apply(rope, length)
    assert result.attention_scale == pytest.approx(attention, rel=1e-9)
    for index, value in values.items():
        assert result.inv_freq[index] == pytest.approx(value, rel=SINGLE), index


@pytest.mark.parametrize("factor", [2.0, 10.0, 20.0])
def test_yarn_s_magnitude(factor: float) -> None:
    """0.1 ln s + 1, unless an attention factor is given, or a pair of mscales that are both not zero."""
    base = 0.1 * math.log(factor) + 1
    assert Yarn(factor, 2048).attention == pytest.approx(base)
    assert Yarn(factor, 2048, attention_factor=0.5).attention == 0.5
    assert Yarn(factor, 2048, mscale=1.0, mscale_all_dim=1.0).attention == 1.0
    ratio = (0.0707 * math.log(factor) + 1) / base
    assert Yarn(factor, 2048, mscale=0.707, mscale_all_dim=1.0).attention == pytest.approx(ratio)
    for ignored in ({"mscale": 0.707}, {"mscale": 0.707, "mscale_all_dim": 0.0}, {"mscale_all_dim": 1.0}):
        assert Yarn(factor, 2048, **ignored).attention == pytest.approx(base)


def test_longrope_s_magnitude_and_lists() -> None:
    """sqrt(1 + ln s / ln T), an attention factor wins; the long list counts beyond the original context only."""
    short, long = (2.0,) * 64, tuple(float(n) for n in range(1, 65))
    made = method("longrope", 10.0, 2048, LLAMA2, short_factor=short, long_factor=long)
    assert made.apply(LLAMA2, None).attention_scale == pytest.approx(math.sqrt(1 + math.log(10) / math.log(2048)))
    np.testing.assert_allclose(made.apply(LLAMA2, 2048).inv_freq, LLAMA2.inv_freq / 2)
    np.testing.assert_allclose(made.apply(LLAMA2, 2049).inv_freq, LLAMA2.inv_freq / np.arange(1, 65))
    fixed = method("longrope", 10.0, 2048, LLAMA2, long_factor=long, attention_factor=0.5)
    assert fixed.apply(LLAMA2, None).attention_scale == 0.5


@pytest.mark.parametrize(
    ("rope_theta", "dims", "original", "corrections", "bounds"),
    [
        (10000.0, 128, 4096, (20.94, 45.03), (20, 46)),
        (500000.0, 128, 8192, (18.08, 34.98), (18, 35)),
        (1e6, 128, 32768, (23.60, 39.65), (23, 40)),
        (100000.0, 64, 8192, (10.30, 19.94), (10, 20)),
    ],
    ids=["llama-2", "llama-3", "qwen-2.5", "smollm-2"],
)
def test_yarn_s_range(
    rope_theta: float, dims: int, original: int, corrections: tuple[float, float], bounds: tuple[int, int]
) -> None:
    """The pairs between which YaRN's ramp runs, for published models."""
    for turns, value in zip((32.0, 1.0), corrections, strict=True):
        assert correction_index(turns, dims, rope_theta, original) == pytest.approx(value, abs=0.005)
    assert Yarn(4.0, original).bounds(Spectrum.plain(rope_theta, dims)) == bounds


def test_yarn_s_range_of_gpt_oss() -> None:
    """Without truncation the range is a fraction: the figures that vLLM's fix for gpt-oss quotes."""
    rope = Spectrum.plain(150000.0, 64)
    low, high = Yarn(32.0, 4096, truncate=False).bounds(rope)
    assert low == pytest.approx(8.092779115512402, rel=1e-12)
    assert high == pytest.approx(17.39802450158856, rel=1e-12)
    assert Yarn(32.0, 4096).bounds(rope) == (8, 18)


def test_ntk_bases() -> None:
    """Llama 2 by 8 and Llama 3 by 16: the base by critical dimension against the NTK-aware one."""
    assert NtkCritical(8.0, 4096).theta(LLAMA2) == pytest.approx(192144, abs=0.5)
    assert ntk_theta(10000.0, 128, 8.0) == pytest.approx(82685, abs=0.5)
    assert NtkCritical(16.0, 8192).theta(LLAMA3) == pytest.approx(79.76e6, rel=1e-4)
    assert ntk_theta(500000.0, 128, 16.0) == pytest.approx(8.36e6, rel=1e-3)


def mrrope_by_hand(rope_theta: float, dims: int, original: int, factor: float, progressive: bool) -> list[float]:
    """MrRoPE pair by pair, in plain Python, from the paper's rule."""
    turns = [original * rope_theta ** (-2 * i / dims) / (2 * math.pi) for i in range(dims // 2)]
    last_fast = max((i for i, r in enumerate(turns) if r > 32), default=0)
    first_slow = min((i for i, r in enumerate(turns) if r < 1), default=dims // 2)
    steps = first_slow - last_fast
    result = []
    for i in range(dims // 2):
        k = min(max(i - last_fast, 0), steps)
        exponent = k * (k + 1) / (steps * (steps + 1)) if progressive else k / steps
        result.append(rope_theta ** (-2 * i / dims) / factor**exponent)
    return result


@pytest.mark.parametrize("name", ["mrrope-uni", "mrrope-pro"])
@pytest.mark.parametrize(
    ("rope_theta", "dims", "original"), [(10000.0, 128, 4096), (500000.0, 128, 8192), (1e6, 64, 128), (1e7, 64, 2048)]
)
def test_mrrope_by_hand(name: str, rope_theta: float, dims: int, original: int) -> None:
    """Both forms agree with a loop over the pairs, with and without pairs that are fast."""
    rope = Spectrum.plain(rope_theta, dims)
    result = method(name, 8.0, original, rope).apply(rope, None)
    wanted = mrrope_by_hand(rope_theta, dims, original, 8.0, name == "mrrope-pro")
    np.testing.assert_allclose(result.inv_freq, wanted, rtol=1e-12)
    assert result.attention_scale == pytest.approx(1.2079441541679836)


def test_by_parts_and_yarn_are_different_curves() -> None:
    """The paper's ramp over rotations and the runtimes' ramp over pairs share their ends and differ between."""
    parts = method("ntk-by-parts", 8.0, 4096, LLAMA2).apply(LLAMA2, None).inv_freq
    yarn = method("yarn", 8.0, 4096, LLAMA2).apply(LLAMA2, None).inv_freq
    np.testing.assert_allclose(parts[:20], yarn[:20], rtol=1e-12)
    np.testing.assert_allclose(parts[46:], yarn[46:], rtol=1e-12)
    assert np.max(np.abs(parts[20:46] / yarn[20:46] - 1)) > 0.3
