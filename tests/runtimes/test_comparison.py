"""The matrix of runtimes on one checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from ropepatch import runtimes
from ropepatch.runtimes import comparison
from tests.runtimes.test_recorded import CASES, RELEASES

QWEN = CASES["yarn_qwen25_doc"]


def rows(config: dict[str, Any], length: int | None = None, specs: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The rows of the matrix by runtime."""
    return {row.runtime: row for row in comparison.matrix(None, config, length, specs)}


def test_the_qwen_model_card_recipe_is_off_where_the_factor_is_rederived() -> None:
    """The Qwen2.5 recipe is YaRN x4 everywhere but where the factor becomes declared / original context."""
    found = rows(QWEN, specs=("transformers", "transformers@4.53", "vllm", "sglang", "exllamav3", "exllamav2"))
    assert {name: row.status for name, row in found.items()} == {
        "transformers": "same",
        "transformers@4.53": "differs",
        "vllm": "same",
        "sglang": "same",
        "exllamav3": "differs",
        "exllamav2": "differs",
    }
    off = found["transformers@4.53"]
    assert off.ignored == ("rope_scaling.factor",)
    assert off.cells["default"].ratio == pytest.approx(4.0)
    assert found["vllm"].context == 32768


def test_releases_before_0_30_of_vllm_derive_four_times_the_context() -> None:
    """vLLM up to 0.29 serves original x factor, from 0.30 on only max_position_embeddings."""
    assert runtimes.predict("vllm@0.29", None, QWEN)["default"].context == 131072
    assert runtimes.predict("vllm@0.30", None, QWEN)["default"].context == 32768


def test_gemma_3_s_context_is_not_multiplied_in_vllm() -> None:
    """vLLM multiplies the context of a linear config by its factor, but leaves Gemma 3's as it is declared."""
    linear = {"rope_type": "linear", "factor": 8.0}
    sizes = {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 128, "num_hidden_layers": 6}
    for model_type, wanted in (("llama", 65536), ("gemma3_text", 8192)):
        config = {"model_type": model_type, "max_position_embeddings": 8192, "rope_scaling": linear, **sizes}
        assert {one.context for one in runtimes.predict("vllm", None, config).values()} == {wanted}


def test_a_refusal_has_a_reason_and_the_others_are_still_compared() -> None:
    """Where the reference refuses, the rest is compared with the first runtime that computes."""
    found = rows(CASES["longrope_su_legacy"])
    assert found["transformers"].status == "refuses"
    assert "original_max_position_embeddings" in found["transformers"].reason
    assert found["mlx-lm"].status == "differs"
    assert found["mlx-lm"].cells["default"].pair == 63


def test_a_gguf_runtime_says_that_it_reads_another_format() -> None:
    """A runtime of another format is told apart from one that refuses."""
    assert rows(QWEN)["llama.cpp"].status == "format"


def test_other_widths_are_different_without_a_ratio() -> None:
    """Where one runtime rotates half of the head, there is no ratio to name."""
    cell = rows(CASES["partial_top"])["vllm"].cells["default"]
    assert not cell.same
    assert cell.ratio is None


def agreeing(specs: tuple[str, ...]) -> list[str]:
    """The recorded cases on which all of ``specs`` agree, for short inputs and at the declared context."""
    names = []
    for case, config in CASES.items():
        lengths = (None, int(config["max_position_embeddings"]))
        if all(row.status == "same" for length in lengths for row in comparison.matrix(None, config, length, specs)):
            names.append(case)
    return names


def test_how_often_the_recorded_releases_agree() -> None:
    """All eleven agree on 3 of the 48 configs, the newest of the engines that are still developed on 12."""
    assert len(agreeing(tuple(RELEASES))) == 3
    newest = ("transformers", "vllm", "sglang", "mlx-lm", "exllamav3")
    assert len(agreeing(newest)) == 12


def test_older_releases_of_vllm_and_its_m_rope_models() -> None:
    """vLLM's magnitude, its dynamic NTK and its M-RoPE ramp changed between the releases that are told apart."""

    def predicted(spec: str, config: dict[str, Any]) -> Any:
        return runtimes.predict(spec, None, config)["default"]

    own = CASES["yarn_attnfactor1"]
    assert predicted("vllm@0.29", own).attention_scale == pytest.approx(1.1386294)
    assert predicted("vllm@0.30", own).attention_scale == 1.0
    multiplied = CASES["yarn_attn_factor_key"]
    assert predicted("vllm@0.29", multiplied).attention_scale == pytest.approx(1.1386294 / 2)
    dynamic = CASES["dynamic_4.0"]
    plain = predicted("vllm", CASES["default_theta1e4"]).inv_freq
    assert (predicted("vllm@0.22", dynamic).inv_freq == plain).all()
    assert predicted("vllm@0.21", dynamic).inv_freq[-1] == pytest.approx(plain[-1] / 13)
    mrope, usual = CASES["yarn_mrope"], predicted("vllm", CASES["yarn_consistent"]).inv_freq
    assert (predicted("vllm", mrope).inv_freq / usual).max() == pytest.approx(2.235, abs=1e-3)
    assert (predicted("vllm", {**mrope, "model_type": "qwen3_vl_text"}).inv_freq == usual).all()


def test_alpha_raises_the_base_in_vllm_and_sglang() -> None:
    """Dynamic NTK with alpha (HunYuan) is one raised base: the slowest pair turns alpha times slower."""
    config = {**CASES["default_theta1e4"], "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}}
    for name in ("vllm", "sglang"):
        predicted = runtimes.predict(name, None, config)["default"].inv_freq
        plain = runtimes.predict(name, None, CASES["default_theta1e4"])["default"].inv_freq
        assert predicted[0] == plain[0]
        assert predicted[-1] == pytest.approx(plain[-1] / 1000.0)
