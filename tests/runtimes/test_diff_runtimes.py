"""Known surprises of published models: diff says in words what differs where, and why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import schemas
from ropepatch.diffing import Diff
from ropepatch.errors import UsageError
from ropepatch.runtimes import readings
from tests.support.tiny import ModelSpec, write_gguf, write_hf

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA31 = ModelSpec(context=131072, rope_theta=500000.0, hidden=256, heads=2, kv_heads=2, head_dim=128)
GPT_OSS = ModelSpec(arch="gpt-oss", context=131072, rope_theta=150000.0, head_dim=64)
PHI3 = ModelSpec(arch="phi3", context=131072, kv_heads=4)
GEMMA3 = ModelSpec(arch="gemma3", context=131072, rope_theta=1e6, sliding_theta=1e4, layers=6)


def diff(a: Path, b: Path | None, runtime_a: str, runtime_b: str) -> Diff:
    """The difference, whose JSON is held against its schema."""
    result = ropepatch.diff(a, b, runtime_a=runtime_a, runtime_b=runtime_b)
    schemas.validator("diff").validate(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    return result


def worst(result: Diff) -> Any:
    """The frequencies that are furthest apart."""
    found = [item for group in result.groups for item in group.frequencies]
    return max(found, key=lambda item: abs(math.log(item.ratio)))


def agreeing(folder: Path) -> set[str]:
    """The runtimes of which every known release reads the checkpoint like the newest transformers."""
    found = readings.all_runtimes(str(folder))
    return {item.runtime for item in found.readings} - {item.runtime for item in found.readings if not item.same}


def test_qwen25_card_recipe(tmp_path: Path) -> None:
    """The recipe leaves the declared context at 32768: where the factor is re-derived from it, YaRN is off."""
    folder = write_hf(tmp_path / "qwen", ModelSpec(arch="qwen2", context=32768, rope_theta=1e6), scaling=YARN)
    result = diff(folder, None, "transformers", "transformers@4.53")

    assert worst(result).ratio == pytest.approx(0.25)
    assert worst(result).attention_scale == pytest.approx((1.1386294, 1.0))
    assert "up to 4 times slower in transformers 5.23" in result.sentence()
    assert "transformers 4.53 ignores rope_scaling.factor, transformers 5.23 does not" in result.sentence()
    assert "replaced by max_position_embeddings / original_max_position_embeddings = 1" in result.sentence()
    assert "exllamav3 ignores rope_scaling.factor" in diff(folder, None, "vllm", "exllamav3").sentence()

    served = diff(folder, None, "vllm@0.29", "vllm@0.33")
    assert (served.equivalent, served.same_contexts) == (True, False)
    assert "the derived context differs (131,072 and 32,768 tokens)" in served.sentence()


def test_deepseek_r1_qwen3_attn_factor(tmp_path: Path) -> None:
    """attn_factor is nobody's key in transformers; SGLang multiplies by it, llama.cpp ignores what it becomes."""
    spec = ModelSpec(arch="qwen3", context=131072, rope_theta=1e6)
    attn_factor = 1 / (0.1 * math.log(4) + 1)
    folder = write_hf(tmp_path / "r1", spec, scaling={**YARN, "attn_factor": attn_factor})
    result = diff(folder, None, "transformers", "sglang")

    assert worst(result).attention_scale == pytest.approx((1.1386294, 1.0))
    assert "attention scale 1.13863 against 1" in result.sentence()
    assert "transformers 5.23 ignores rope_scaling.attn_factor, sglang does not" in result.sentence()

    keys = {
        ".rope.scaling.type": "yarn",
        ".rope.scaling.factor": 4.0,
        ".rope.scaling.original_context_length": 32768,
        ".rope.scaling.yarn_attn_factor": attn_factor,
    }
    converted = write_gguf(tmp_path / "r1.gguf", spec, keys)
    assert diff(folder, converted, "transformers", "llama.cpp").equivalent
    sentence = diff(folder, converted, "sglang", "llama.cpp").sentence()
    assert "attention scale 1 against 1.13863" in sentence
    assert "llama.cpp ignores qwen3.rope.scaling.yarn_attn_factor" in sentence


def test_gpt_oss_truncate_false_in_gguf(tmp_path: Path) -> None:
    """truncate: false has no key in a GGUF: llama.cpp rounds the ramp, and so does mlx-lm, which ignores the key."""
    scaling = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
    folder = write_hf(tmp_path / "oss", GPT_OSS, scaling={**scaling, "beta_fast": 32.0, "beta_slow": 1.0})
    keys = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 32.0, ".rope.scaling.original_context_length": 4096}
    result = diff(folder, write_gguf(tmp_path / "oss.gguf", GPT_OSS, keys), "transformers", "llama.cpp")

    item = worst(result)
    assert 1.5 < 1 / item.ratio < 2
    assert 1 < item.distance < 1e4
    assert f"over a distance of {math.ceil(item.distance):,} tokens" in result.sentence()
    assert "the files differ in scaling.truncate (false against true; a GGUF has no key for it)" in result.sentence()
    assert "mlx-lm ignores rope_scaling.truncate" in diff(folder, None, "transformers", "mlx-lm").sentence()


def test_phi3_longrope(tmp_path: Path) -> None:
    """transformers switches lists in each forward pass, llama.cpp and exllamav2 at load: short inputs differ there."""
    pairs = np.arange(16)
    short, long = (1.0 + 0.01 * pairs).tolist(), (1.0 + 2.0 * pairs).tolist()
    scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
    folder = write_hf(tmp_path / "phi3", PHI3, scaling=scaling, extra_config={"original_max_position_embeddings": 4096})
    keys = {
        ".rope.scaling.original_context_length": 4096,
        ".rope.scaling.attn_factor": math.sqrt(1 + math.log(32) / math.log(4096)),
    }
    tensors = {f"rope_factors_{name}.weight": np.float32(x) for name, x in (("short", short), ("long", long))}
    result = diff(folder, write_gguf(tmp_path / "phi3.gguf", PHI3, keys, tensors), "transformers", "llama.cpp")

    inside, beyond = result.groups[0].frequencies
    assert inside.ratio == pytest.approx(long[-1] / short[-1], rel=1e-6)
    assert beyond.equivalent
    assert "They differ in short contexts" in result.sentence()
    assert "chosen by the allocated context (131072 tokens)" in result.sentence()
    assert any("switches factors per forward pass" in reason for reason in result.reasons())
    assert "exllamav2 switches factors at load" in diff(folder, None, "transformers", "exllamav2").reasons()
    # vLLM keeps the short list because it serves no more than the original context unless told
    served = diff(folder, None, "transformers", "vllm")
    assert "the derived context differs (131,072 and 4,096 tokens)" in served.sentence()


def test_gemma3(tmp_path: Path) -> None:
    """Only the full layers are scaled: TGI drops it, a GGUF without the factor does, SGLang counts the factor twice."""
    folder = write_hf(tmp_path / "gemma", GEMMA3, scaling={"rope_type": "linear", "factor": 8.0})
    scaled = write_gguf(tmp_path / "a.gguf", GEMMA3, {".rope.scaling.type": "linear", ".rope.scaling.factor": 8.0})
    result = diff(folder, write_gguf(tmp_path / "b.gguf", GEMMA3), "transformers", "llama.cpp")

    assert diff(folder, scaled, "transformers", "llama.cpp").equivalent
    by_name = {group.name: group for group in result.groups}
    assert by_name["sliding_attention"].equivalent
    assert by_name["full_attention"].frequencies[0].ratio == pytest.approx(1 / 8)
    assert "They differ in full_attention at every length: 16 of 16 pairs" in result.sentence()
    assert "scaling.method (linear against none)" in result.sentence()
    sentence = diff(folder, None, "transformers", "tgi").sentence()
    assert "They differ in full_attention" in sentence
    assert "tgi ignores rope_scaling.factor" in sentence
    assert "1,048,576 tokens" in diff(folder, None, "transformers", "sglang").sentence()
    assert "tgi" not in agreeing(folder)


def test_llama31_in_the_layout_of_transformers_5(tmp_path: Path) -> None:
    """Readers of the old layout take base 10000 and no scaling from a file that has rope_parameters alone."""
    folder = write_hf(tmp_path / "v5", LLAMA31, scaling=LLAMA3, layout="v5")
    old = write_hf(tmp_path / "v4", LLAMA31, scaling=LLAMA3)
    result = diff(folder, None, "transformers", "transformers@4.57")

    assert 1 / worst(result).ratio == pytest.approx(376.28, abs=0.01)
    assert "transformers 4.57 ignores rope_parameters, transformers 5.23 does not" in result.sentence()
    assert diff(folder, old, "transformers", "transformers@4.57").equivalent
    sentence = diff(folder, old, "mlx-lm", "mlx-lm").sentence()
    assert "mlx-lm ignores rope_parameters" in sentence
    assert "mlx-lm computes what the second file says" in sentence
    assert agreeing(folder) == {"sglang", "exllamav3"}
    assert agreeing(old) == {"transformers", "vllm", "sglang", "tgi", "mlx-lm", "exllamav3", "exllamav2"}


def test_llama31_as_gguf(tmp_path: Path) -> None:
    """A GGUF with the factor tensor turns as the folder does, one without it is unscaled."""
    folder = write_hf(tmp_path / "hf", LLAMA31, scaling=LLAMA3)
    model = ropepatch.open(folder)
    divisors = model.profile.groups["default"].spectrum().inv_freq / model.frequencies()["default"].inv_freq
    held = write_gguf(tmp_path / "a.gguf", LLAMA31, {}, {"rope_freqs.weight": divisors.astype(np.float32)})
    bare = diff(folder, write_gguf(tmp_path / "b.gguf", LLAMA31), "transformers", "llama.cpp")

    assert diff(folder, held, "transformers", "llama.cpp").equivalent
    assert 1 / worst(bare).ratio == pytest.approx(8.0)
    assert "35 of 64 pairs" in bare.sentence()
    assert "the files differ in scaling.method (llama3 against none)" in bare.sentence()


def test_a_refusal_is_a_difference_with_its_reason(tmp_path: Path) -> None:
    """Where a runtime does not run its side there are no frequencies, but a reason, and what would work."""
    a = write_hf(tmp_path / "a", LLAMA31, scaling={"rope_type": "linear", "factor": 4})
    b = write_hf(tmp_path / "b", LLAMA31, scaling={"rope_type": "linear", "factor": 4.0})
    result = diff(a, b, "vllm@0.33", "transformers")

    assert not result.equivalent
    assert result.groups[0].frequencies == ()
    assert "vllm 0.33 does not run the first: it stops with a TypeError" in result.sentence()
    assert "write 4.0" in result.sentence()
    assert "llama.cpp does not read this format" in diff(a, None, "transformers", "llama.cpp").sentence()


def test_distance_is_where_the_fastest_moving_difference_reaches_an_eighth_of_pi(tmp_path: Path) -> None:
    """At the distance named some pair is off by π/8, one token before none is."""
    folder = write_hf(tmp_path / "a", LLAMA31, scaling=LLAMA3)
    plain = write_hf(tmp_path / "b", LLAMA31)
    item = worst(ropepatch.diff(folder, plain))
    one, two = (ropepatch.open(path).frequencies()["default"].inv_freq for path in (folder, plain))

    def off(tokens: int) -> float:
        return float(np.max(np.abs(np.angle(np.exp(1j * tokens * one) / np.exp(1j * tokens * two)))))

    assert off(math.ceil(item.distance)) >= math.pi / 8
    assert max(off(tokens) for tokens in range(1, math.ceil(item.distance))) < math.pi / 8


def test_a_profile_alone_cannot_be_given_to_a_runtime(tmp_path: Path) -> None:
    """What a runtime does depends on the spelling, which a profile does not keep."""
    profile = ropepatch.open(write_hf(tmp_path / "a", LLAMA31)).profile
    with pytest.raises(UsageError, match="checkpoint"):
        ropepatch.diff(profile, profile, runtime_a="vllm")
