"""γ: the published numbers, the published planner's verdicts, and why they say less than they seem to."""

from __future__ import annotations

import math

import pytest

from ropepatch.errors import UsageError
from ropepatch.planner import gamma

#: what the planner's documents say of well-known models: base, trained length, γ
SYSTEMS = [
    ("Llama 2",       1e4, 4096,  0.5508),
    ("Mistral",       1e4, 8192,  0.2664),
    ("Llama 3",       5e5, 8192,  0.9771),
    ("Qwen2.5",       1e6, 32768, 0.9547),
    ("SmolLM2-360M",  1e5, 8192,  0.8905),
    ("Pythia",        1e4, 2048,  0.747),
]  # fmt: skip
#: base, trained and target length, rope type, γ without scaling, verdict
PLANNED = [
    (1e4, 8192, 32768,  "yarn", -0.397,  "USABLE-WITH-CARE"),
    (1e4, 4096, 131072, None,   None,    "NEEDS-FINETUNE"),
    (1e4, 4096, 16384,  None,   -0.0734, "USABLE-WITH-CARE"),
    (1e4, 8192, 8192,   None,   0.2664,  "NO-EXTENSION-NEEDED"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "theta", "length", "value"), SYSTEMS)
def test_published_values(name: str, theta: float, length: int, value: float) -> None:
    """γ_Padé of each published system is the published number."""
    assert gamma.pade(theta, length) == pytest.approx(value, abs=6e-5)


@pytest.mark.parametrize(("theta", "original", "target", "kind", "naive", "verdict"), PLANNED)
def test_published_planner(
    theta: float, original: int, target: int, kind: str | None, naive: float | None, verdict: str
) -> None:
    """The published planner's own examples come out as it prints them."""
    found = gamma.published(original, theta, target, kind)

    assert found.verdict == verdict
    assert found.factor == target / original
    if naive is not None:
        assert found.gamma_naive == pytest.approx(naive, abs=6e-4)


@pytest.mark.parametrize(("target", "needed"), [(8192, 17377.7), (32768, 69511.0), (131072, 278043.9)])
def test_base_that_the_planner_asks_for(target: int, needed: float) -> None:
    """The planner's base is 2.1213 times the new length, whatever the model: its reference target is a γ of 0.5."""
    for theta in (1e4, 5e5):
        assert gamma.published(4096, theta, target).theta_needed == pytest.approx(needed, rel=1e-4)


def test_automatic_type() -> None:
    """Below a factor of 2 the planner takes linear, from 2 on YaRN."""
    assert gamma.published(4096, 1e4, 8000).rope_type == "linear"
    assert gamma.published(4096, 1e4, 8192).rope_type == "yarn"


@pytest.mark.parametrize("length", [1.0, 4096.0, 1e6])
def test_limits(length: float) -> None:
    """γ is 1 for no length, 1/3 at θ/√2, 0 at θ√2, and tends to -1."""
    theta = 1e4
    assert gamma.pade(theta, 0) == 1
    assert gamma.pade(theta, theta / math.sqrt(2)) == pytest.approx(1 / 3)
    assert gamma.pade(theta, theta * math.sqrt(2)) == pytest.approx(0, abs=1e-12)
    assert gamma.pade(1e-9, length) == pytest.approx(-1)


@pytest.mark.parametrize(("target", "ratio"), [(0.5, 2.1213), (0.85, 8.7210)])
def test_design_is_the_inverse(target: float, ratio: float) -> None:
    """The designed base has the published ratio to the length and gives the target back."""
    theta = gamma.theta_design(target, 32768)

    assert theta / 32768 == pytest.approx(ratio, abs=6e-5)
    assert gamma.pade(theta, 32768) == pytest.approx(target)


@pytest.mark.parametrize("target", [-1.0, 1.0, 1.5, math.nan])
def test_impossible_target(target: float) -> None:
    """No base has a γ outside of -1 to 1."""
    with pytest.raises(UsageError, match="between -1 and 1"):
        gamma.theta_design(target, 4096)


@pytest.mark.parametrize("length", [512, 4096, 13000])
def test_horizon_of_a_computed_gamma_is_the_length(length: int) -> None:
    """The first tautology: the horizon computed from a computed γ is the length that went in."""
    assert gamma.d_horizon(1e4, gamma.pade(1e4, length)) == pytest.approx(length)
    assert gamma.d_horizon(1e4, -0.1) is None


@pytest.mark.parametrize("kind", gamma.ROPE_TYPES)
@pytest.mark.parametrize("factor", [2, 4, 16])
def test_scaled_gamma_forgets_method_and_factor(kind: str, factor: int) -> None:
    """The second tautology: whatever the method and the factor, γ_eff is that of the trained length."""
    found = gamma.published(4096, 1e4, 4096 * factor, kind)

    assert found.gamma_eff == pytest.approx(gamma.pade(1e4, 4096), rel=1e-12)


@pytest.mark.parametrize(("ratio", "factor", "verdict"), [
    (0.9429, 2, "DEGRADES"), (0.9427, 2, "USABLE-WITH-CARE"), (0.3537, 4, "USABLE-WITH-CARE"),
    (0.3535, 4, "HEALTHY"), (0.3535, 4.01, "NEEDS-FINETUNE"), (0.9427, 5, "NEEDS-FINETUNE"), (0.95, 5, "DEGRADES"),
])  # fmt: skip
def test_published_verdict_is_a_rule_over_two_ratios(ratio: float, factor: float, verdict: str) -> None:
    """The published verdict changes at T/θ of 0.9428 and 0.3536 and at a factor of 4, and at nothing else."""
    original = 1e5 * ratio
    assert {gamma.published(original, 1e5, original * factor, kind).verdict for kind in gamma.ROPE_TYPES} == {verdict}
