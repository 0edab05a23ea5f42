"""Plans for every kind of checkpoint."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch import schemas
from ropepatch.errors import NoRope, UsageError
from ropepatch.frequencies import group_frequencies
from ropepatch.planner import gamma, verdict
from tests.planner.test_cost import DEEPSEEK_V3, GEMMA3, LLAMA2_7B, LLAMA3_8B
from tests.support.command import ROOT

LLAMA31 = {
    **LLAMA3_8B, "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
QWEN_VL = {
    **LLAMA3_8B, "model_type": "qwen2_vl", "max_position_embeddings": 32768, "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}  # fmt: skip
YARN = {**DEEPSEEK_V3, "max_position_embeddings": 163840, "rope_scaling": {
    "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
    "mscale": 1.0, "mscale_all_dim": 1.0}}  # fmt: skip


def at(folder: Path, config: dict[str, Any]) -> str:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def checked(plan: ropepatch.Plan) -> ropepatch.Plan:
    """The plan, after its document has passed the schema."""
    schemas.validator("plan").validate(json.loads(json.dumps(plan.to_json())))
    return plan


def rules(plan: ropepatch.Plan) -> dict[str, str]:
    return {reason.rule: reason.verdict for reason in plan.reasons}


@pytest.mark.parametrize(("factor", "expected"), [
    (1, "HEALTHY"), (2, "HEALTHY"), (4, "USABLE-WITH-CARE"), (8, "NEEDS-FINETUNE"), (128, "DEGRADES"),
])  # fmt: skip
def test_factor_decides_for_a_clean_method(factor: int, expected: str, tmp_path: Path) -> None:
    """A plain llama gets YaRN, and the verdict that its factor asks for."""
    plan = checked(ropepatch.plan(at(tmp_path, LLAMA2_7B), 4096 * factor))

    assert plan.verdict == expected
    assert plan.subject.method == ("as it is" if factor == 1 else "yarn")
    assert bool(plan.recipes) == (factor > 4)
    assert bool(plan.command) == (factor > 1)


@pytest.mark.parametrize(("method", "rule", "expected"), [
    ("none", "angles", "DEGRADES"), ("linear", "neighbours", "NEEDS-FINETUNE"), ("ntk", "angles", "USABLE-WITH-CARE"),
])  # fmt: skip
def test_geometry_speaks_against_a_method(method: str, rule: str, expected: str, tmp_path: Path) -> None:
    """Asked about a method that loses angles or neighbours, the plan says so, whatever the factor."""
    plan = checked(ropepatch.plan(at(tmp_path, LLAMA2_7B), 8192, method=method))

    assert rules(plan)[rule] == expected
    assert plan.verdict == expected


def test_table_is_what_patches_come_to(tmp_path: Path) -> None:
    """Each row's frequencies are those of the patch that apply would write, and the command names it."""
    ref = at(tmp_path, LLAMA2_7B)
    plan = ropepatch.plan(ref, 16384)

    assert {row.method for row in plan.methods} > {"as it is", "linear", "ntk", "yarn", "llama3", "mrrope-pro", "theta"}
    for row in plan.methods[1:]:
        settings = {"target_gamma": 0.5} if row.method == "theta" else {}
        patch = ropepatch.open(ref).patch(row.method, length=16384, **settings)
        wanted = group_frequencies(patch.after.groups["default"], 16384)
        assert (row.frequencies.inv_freq == wanted.inv_freq).all()
        assert row.frequencies.attention_scale == wanted.attention_scale
    assert plan.command == f"ropepatch apply --method yarn --length 16384 {ref}"


def test_theta_is_designed(tmp_path: Path) -> None:
    """With a target γ the plan judges theta, whose fitted base is the designed one and has the γ asked for."""
    plan = checked(ropepatch.plan(at(tmp_path, LLAMA2_7B), 16384, target_gamma=0.7))
    base = gamma.theta_design(0.7, 16384)

    assert plan.subject.method == "theta"
    assert plan.subject.geometry.base_fitted == pytest.approx(base, rel=1e-4)
    assert plan.subject.gamma == pytest.approx(0.7, abs=1e-4)
    assert "--target-gamma 0.7" in (plan.command or "")


def test_theta_is_not_lowered(tmp_path: Path) -> None:
    """A base that has the γ already is left alone, and the reason is said."""
    ref = at(tmp_path, LLAMA3_8B)

    assert "nothing to raise" in ropepatch.plan(ref, 16384).skipped["theta"]
    with pytest.raises(UsageError, match="nothing to raise"):
        ropepatch.plan(ref, 16384, target_gamma=0.5)


def test_scaled_for_the_length_already(tmp_path: Path) -> None:
    """Llama 3.1 declares 131072 tokens by its scaling: nothing is proposed, and nothing is promised."""
    plan = checked(ropepatch.plan(at(tmp_path, LLAMA31), 131072))

    assert (plan.subject.method, plan.command) == ("as it is", None)
    assert rules(plan) == {"declared": "USABLE-WITH-CARE"}


def test_scaled_and_beyond(tmp_path: Path) -> None:
    """Beyond that it starts from the declared context with the scaling in force, or again when asked to."""
    ref = at(tmp_path, LLAMA31)
    on, anew = checked(ropepatch.plan(ref, 262144)), checked(ropepatch.plan(ref, 262144, existing="replace"))

    assert (on.start.context, on.factor, on.start.existing) == (131072, 2, "compose")
    assert (anew.start.context, anew.factor, anew.start.existing) == (8192, 32, "replace")
    assert (on.start.trained.inv_freq != anew.start.trained.inv_freq).any()
    assert "--existing replace" in (anew.command or "")


def test_yarn_with_latent_attention(tmp_path: Path) -> None:
    """A latent-attention model that YaRN scales is planned anew from its original context, on the rotated part."""
    plan = checked(ropepatch.plan(at(tmp_path, YARN), 262144))

    assert (plan.start.context, plan.start.trained.inv_freq.size) == (4096, 32)
    assert plan.cost is not None
    assert plan.cost.latent


def test_two_groups(tmp_path: Path) -> None:
    """Only the full-attention group is planned for; the sliding one is left and said to be."""
    plan = checked(ropepatch.plan(at(tmp_path, GEMMA3), 131072))

    assert plan.start.group == "full_attention"
    assert any("sliding_attention stays" in note for note in plan.notes)
    assert plan.subject.patch is not None
    before, after = plan.subject.patch.before.groups, plan.subject.patch.after.groups
    assert before["sliding_attention"] == after["sliding_attention"]


def test_mrope(tmp_path: Path) -> None:
    """M-RoPE is planned for text positions, and the note says so."""
    plan = checked(ropepatch.plan(at(tmp_path, QWEN_VL), 65536))

    assert plan.start.trained.inv_freq.size == 64
    assert any("M-RoPE" in note for note in plan.notes)


def test_only_sliding_layers_rotate(tmp_path: Path) -> None:
    """Where all layers that rotate slide, nothing is proposed."""
    config = {**LLAMA3_8B, "model_type": "cohere2", "sliding_window": 4096, "sliding_window_pattern": 4}
    plan = checked(ropepatch.plan(at(tmp_path, config), 131072))

    assert rules(plan) == {"window": "USABLE-WITH-CARE"}
    assert len(plan.methods) == 1


def test_every_layer_slides(tmp_path: Path) -> None:
    """Where every layer has a window, the plan says that an engine which keeps to it meets no farther distance."""
    config = {**LLAMA3_8B, "model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 32768}
    plan = checked(ropepatch.plan(at(tmp_path, config), 65536))

    assert rules(plan)["window"] == "USABLE-WITH-CARE"
    assert "window" not in rules(ropepatch.plan(at(tmp_path, config), 32768))


def test_declared_without_scaling(tmp_path: Path) -> None:
    """An original context below the declared one, with no scaling in force, is where the plan starts."""
    config = {**LLAMA2_7B, "max_position_embeddings": 16384, "original_max_position_embeddings": 4096}
    ref = at(tmp_path, config)
    plan = checked(ropepatch.plan(ref, 16384, original=4096))

    assert plan.factor == 4
    assert plan.subject.method == "yarn"


def test_gguf() -> None:
    """A GGUF is planned with the runtimes that read it."""
    plan = checked(ropepatch.plan(str(ROOT / "fixtures" / "tiny-llama.gguf"), 8192))

    assert plan.subject.same == ("llama.cpp", "ollama")
    assert next(row for row in plan.methods if row.method == "dynamic").refused is not None
    assert {line.runtime for line in plan.launch} == {"llama.cpp", "ollama"}


def test_no_rope(tmp_path: Path) -> None:
    """A model without RoPE has no plan."""
    with pytest.raises(NoRope):
        ropepatch.plan(at(tmp_path, {"model_type": "gpt2", "n_positions": 1024}), 4096)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"length": 0}, "a length is"), ({"length": 8192, "method": "longrope"}, "lists of factors"),
    ({"length": 8192, "target_gamma": 1.0}, "between -1 and 1"), ({"length": 8192, "group": "none"}, "no rope group"),
    ({"length": 8192, "method": "yran"}, "unknown method"), ({"length": 1024, "method": "yarn"}, "within the 4,096"),
    ({"length": 8192, "batch": 0}, "a batch is"),
])  # fmt: skip
def test_impossible_requests(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    """What cannot be planned is a usage error that says why."""
    with pytest.raises(UsageError, match=said):
        ropepatch.plan(at(tmp_path, LLAMA2_7B), **arguments)


def test_published_verdict_stands_beside(tmp_path: Path) -> None:
    """The published planner's verdict and γ are in the plan, computed by its rule from base and lengths."""
    found = checked(ropepatch.plan(at(tmp_path, LLAMA2_7B), 16384)).gamma

    assert found["published"]["verdict"] == "USABLE-WITH-CARE"
    assert found["trained"] == pytest.approx(0.5508, abs=1e-4)
    assert found["before"] == pytest.approx(-0.0734, abs=1e-4)


def test_every_rule_is_documented(tmp_path: Path) -> None:
    """Rules that plans report are rules that explain verdict lists, with that verdict."""
    listed = {(name, asks) for name, asks, _, _ in verdict.RULES}
    for length in (2048, 8192, 16384, 65536, 1 << 20):
        for method in (None, "none", "linear", "ntk") if length > 4096 else (None,):
            plan = ropepatch.plan(at(tmp_path, LLAMA2_7B), length, method=method)
            assert {(reason.rule, reason.verdict) for reason in plan.reasons} <= listed


def test_plan_is_quick(tmp_path: Path) -> None:
    """A plan for a million tokens takes less than a second of processor time."""
    ref = at(tmp_path, LLAMA3_8B)
    ropepatch.plan(ref, 16384)
    since = time.process_time()
    ropepatch.plan(ref, 1 << 20)

    assert time.process_time() - since < 1.0
