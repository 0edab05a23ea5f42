"""What every method of the registry promises, on random rotations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ropepatch import methods
from ropepatch.methods import REGISTRY, Method, Spectrum, Target
from ropepatch.methods.base import rotations
from ropepatch.methods.stack import Stack
from tests.support.strategies import Case, cases, contexts, factors, spectra

#: rounding of a few float64 operations
ROUNDING = 1e-12


def lengths(case: Case) -> list[int | None]:
    """A short context, the trained one, and two beyond it."""
    return [None, case.original, case.original + 1, 3 * case.original]


def grows(kind: type[Method]) -> bool:
    """Whether the class claims that a factor of 1 changes nothing."""
    return kind.identity_at_one


@given(cases(accept=grows, factor=st.just(1.0)))
def test_a_factor_of_one_is_the_identity(case: Case) -> None:
    """With factor 1 a method that says so leaves every frequency and the magnitude alone, at every length."""
    for length in lengths(case):
        result = case.method.apply(case.rope, length)
        np.testing.assert_allclose(result.inv_freq, case.rope.inv_freq, rtol=ROUNDING, atol=0)
        assert result.attention_scale == pytest.approx(1.0, rel=ROUNDING)


def test_most_methods_promise_the_identity() -> None:
    """The promise cannot be dropped unnoticed: only these classes are without it."""
    without = {name for name, kind in REGISTRY.items() if not kind.identity_at_one}
    assert without == {"dynamic", "longrope", "resonance", "theta", "proportional", "factors"}


@given(spectra(), contexts())
def test_dynamic_by_one_is_the_identity_up_to_the_trained_context_only(rope: Spectrum, original: int) -> None:
    """Dynamic NTK with factor 1 starts to raise the base as soon as the trained context is exceeded."""
    method = methods.extend("dynamic", Target(1.0, original, rope), {})
    np.testing.assert_array_equal(method.apply(rope, original).inv_freq, rope.inv_freq)
    assert method.apply(rope, 2 * original).inv_freq[-1] == pytest.approx(rope.inv_freq[-1] / 2, rel=1e-9)


@given(cases())
def test_frequencies_are_positive_and_do_not_rise(case: Case) -> None:
    """Every pair turns (proportional RoPE may stop some), none faster than the pair before it, at every length."""
    for length in lengths(case):
        result = case.method.apply(case.rope, length)
        assert result.inv_freq.shape == case.rope.inv_freq.shape
        assert result.inv_freq.dtype == np.float64
        assert np.all(np.isfinite(result.inv_freq))
        lowest = 0.0 if case.method.name == "proportional" else np.nextafter(0.0, 1.0)
        assert np.all(result.inv_freq >= lowest)
        assert np.all(np.diff(result.inv_freq) <= ROUNDING * result.inv_freq[:-1])
        assert math.isfinite(result.attention_scale)
        assert result.attention_scale > 0


@given(cases(accept=lambda kind: kind.never_faster))
def test_no_pair_turns_faster_than_before(case: Case) -> None:
    """A method that says so never speeds a pair up, at any length."""
    for length in lengths(case):
        assert np.all(case.method.apply(case.rope, length).inv_freq <= case.rope.inv_freq * (1 + ROUNDING))


def test_the_methods_that_may_speed_a_pair_up() -> None:
    """Only a base set by hand, rounding, and lists from elsewhere may turn a pair faster."""
    assert {name for name, kind in REGISTRY.items() if not kind.never_faster} == {
        "longrope",
        "resonance",
        "theta",
        "factors",
    }


@given(cases(accept=lambda kind: kind.slows_long_pairs, lowest_slow=1.0))
def test_pairs_that_never_completed_a_turn_are_slowed_by_the_factor(case: Case) -> None:
    """Every pair whose wavelength exceeds the trained context is slowed by at least s, where the method promises it."""
    turns = rotations(case.rope, case.original)
    # Upstream clips the ramp to pair 0: where no pair turns often enough, YaRN leaves all of them alone.
    assume(case.method.name != "yarn" or turns[0] >= getattr(case.method, "beta_slow", 0.0))
    long_pairs = turns < 1
    result = case.method.apply(case.rope, 2 * case.original).inv_freq
    assert np.all(result[long_pairs] * case.factor <= case.rope.inv_freq[long_pairs] * (1 + 1e-9))


def test_the_methods_that_promise_to_slow_long_pairs() -> None:
    """The promise cannot be dropped unnoticed."""
    assert {name for name, kind in REGISTRY.items() if kind.slows_long_pairs} == {
        "linear",
        "ntk-critical",
        "ntk-by-parts",
        "yarn",
        "llama3",
        "mrrope-uni",
        "mrrope-pro",
    }


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("yarn", {"beta_slow": 0.25}),
        ("llama3", {"low_freq_factor": 0.25}),
        ("mrrope-uni", {"beta_slow": 0.25}),
        ("mrrope-pro", {"beta_slow": 0.25}),
    ],
)
def test_a_slow_bound_below_one_gives_the_promise_up(name: str, settings: dict[str, float]) -> None:
    """With a slow bound below one turn the ramp reaches beyond the pairs that completed one."""
    rope = Spectrum.plain(10000.0, 128)
    result = methods.extend(name, Target(4.0, 4096, rope), settings).apply(rope, None).inv_freq
    long_pairs = rotations(rope, 4096) < 1
    assert np.any(result[long_pairs] * 4 > rope.inv_freq[long_pairs] * 1.01)


@given(cases())
def test_json_round_trip(case: Case) -> None:
    """A method survives JSON text: equal object, equal frequencies."""
    again = methods.from_json(json.loads(json.dumps(case.method.to_json())))
    assert again == case.method
    np.testing.assert_array_equal(
        again.apply(case.rope, 2 * case.original).inv_freq, case.method.apply(case.rope, 2 * case.original).inv_freq
    )


@given(cases(accept=lambda kind: kind.name == "yarn"), st.sampled_from(["resonance", "linear", "ntk"]))
def test_json_round_trip_of_a_stack(case: Case, upper: str) -> None:
    """Stages keep their order and parameters through JSON."""
    top = methods.extend(upper, Target(2.0, case.original, case.rope), {})
    stack = Stack((case.method, top))
    assert methods.from_json(json.loads(json.dumps(stack.to_json()))) == stack


@given(cases(accept=lambda kind: kind.applicable and kind.name != "longrope"))
def test_static_methods_are_the_same_at_every_length(case: Case) -> None:
    """`static` is true exactly where no length changes the frequencies."""
    results = [case.method.apply(case.rope, length).inv_freq for length in lengths(case)]
    assert case.method.static == all(np.array_equal(results[0], other) for other in results)


@given(spectra(), contexts(), factors())
def test_resonance_rounds_every_wavelength(rope: Spectrum, original: int, factor: float) -> None:
    """After yarn+resonance each wavelength is a whole number of tokens, at most half a token from YaRN's."""
    yarn = methods.extend("yarn", Target(factor, original, rope), {}).apply(rope, None)
    both = methods.extend("yarn+resonance", Target(factor, original, rope), {}).apply(rope, None)
    waves = 2 * np.pi / both.inv_freq
    np.testing.assert_allclose(waves, np.round(waves), rtol=1e-9)
    assert np.all(np.abs(waves - 2 * np.pi / yarn.inv_freq) <= 0.5 * (1 + 1e-6))
    assert both.attention_scale == yarn.attention_scale


@given(spectra(), contexts(), factors())
def test_ntk_keeps_the_first_pair_and_slows_the_last_by_the_factor(
    rope: Spectrum, original: int, factor: float
) -> None:
    """The ends of the NTK-aware base are exact: 1 and s."""
    result = methods.extend("ntk", Target(factor, original, rope), {}).apply(rope, None).inv_freq
    assert result[0] == 1.0
    assert result[-1] * factor == pytest.approx(rope.inv_freq[-1], rel=1e-9)


@given(cases(accept=lambda kind: kind.name in ("yarn", "ntk-by-parts", "llama3", "mrrope-uni", "mrrope-pro")))
@example(
    Case(
        methods.from_json({"method": "mrrope-uni", "factor": 4.0, "original_max_position_embeddings": 7}),
        Spectrum.plain(10000.0, 64),
        7,
        4.0,
    )
)
def test_by_parts_stays_between_no_change_and_interpolation(case: Case) -> None:
    """Methods by parts never slow a pair by more than s."""
    result = case.method.apply(case.rope, None).inv_freq
    assert np.all(result * case.factor >= case.rope.inv_freq * (1 - ROUNDING))
