"""Spellings of published models that a reader of llama-like configs gets wrong, each on a text of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropepatch import checkpoint
from ropepatch.errors import InputError, NoRope
from ropepatch.profile import RopeGroup


def group(tmp_path: Path, name: str = "default", **config: Any) -> RopeGroup:
    """The rope group of a config."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    groups = checkpoint.open(tmp_path).profile.groups
    assert name in groups, list(groups)
    return groups[name]


def test_kimi_k3_names_a_rotary_width_and_rotates_nothing(tmp_path: Path) -> None:
    """With ``mla_use_nope`` the rotary width is only a shape: there is no RoPE to patch."""
    text = {
        "model_type": "kimi_linear",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 8,
        "rope_theta": 10000.0,
        "mla_use_nope": True,
        "max_position_embeddings": 4096,
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "kimi_k3", "text_config": text}))

    with pytest.raises(NoRope, match="no rotary position embedding"):
        _ = checkpoint.open(tmp_path).profile


def test_hunyuans_alpha_is_a_fixed_base(tmp_path: Path) -> None:
    """``dynamic`` with alpha multiplies the base by alpha^(d/(d-2)) at every length and leaves the factor alone."""
    found = group(
        tmp_path, model_type="hunyuan_v1_dense", hidden_size=64, num_attention_heads=4, head_dim=16, rope_theta=1e4,
        max_position_embeddings=4096, num_hidden_layers=2,
        rope_scaling={"type": "dynamic", "alpha": 50.0, "factor": 1.0},
    )  # fmt: skip
    base = 1e4 * 50.0 ** (16 / 14)
    expected = base ** (-np.arange(0, 16, 2) / 16)

    for length in (None, 100_000):
        np.testing.assert_allclose(found.scaling.apply(found.spectrum(), length).inv_freq, expected, rtol=1e-9)


def test_phi3_small_calls_its_base_an_embedding_base(tmp_path: Path) -> None:
    """``rope_embedding_base`` is the base of Phi-3-small's remote code."""
    found = group(
        tmp_path, model_type="phi3small", hidden_size=64, num_attention_heads=4, rope_embedding_base=1e6,
        max_position_embeddings=8192, num_hidden_layers=2,
    )  # fmt: skip

    assert found.rope_theta == 1e6


def test_llama4_with_equal_low_and_high_factor(tmp_path: Path) -> None:
    """A band of width zero is a step, not a division by zero."""
    scaling = {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }
    found = group(
        tmp_path, model_type="llama4_text", hidden_size=64, num_attention_heads=4, head_dim=16, rope_theta=5e5,
        max_position_embeddings=131072, num_hidden_layers=4, rope_scaling=scaling,
    )  # fmt: skip
    plain = found.spectrum().inv_freq
    ratio = plain / found.scaling.apply(found.spectrum(), None).inv_freq
    slow = 2 * np.pi / plain > 8192

    np.testing.assert_allclose(ratio, np.where(slow, 16.0, 1.0), rtol=1e-12)


def test_mimos_rotary_width_is_cut_to_a_whole_number(tmp_path: Path) -> None:
    """0.334 of 192 dimensions are 64.128, of which 64 rotate."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.334}
    found = group(
        tmp_path, "full_attention", model_type="mimo_v2_flash", hidden_size=64, num_attention_heads=4, head_dim=192,
        num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], max_position_embeddings=4096,
        rope_parameters={"full_attention": rope, "sliding_attention": {**rope, "rope_theta": 1e4}},
    )  # fmt: skip

    assert found.rotary_dim == 64


def test_gemma4s_vision_base_is_left_alone(tmp_path: Path) -> None:
    """The vision tower's own base is neither read as the text model's nor touched by a patch of the text model."""
    vision = {"model_type": "gemma4_vision", "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    text = {
        "model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "num_hidden_layers": 2,
        "rope_theta": 1e6, "max_position_embeddings": 4096,
    }  # fmt: skip
    config = {"model_type": "some_vlm", "vision_config": vision, "text_config": text}
    found = group(tmp_path, **config)
    assert found.rope_theta == 1e6

    checkpoint.open(tmp_path).patch("yarn", 4).write(tmp_path.parent / "patched")

    after = json.loads((tmp_path.parent / "patched" / "config.json").read_text())
    assert after["vision_config"] == vision
    assert after["text_config"]["rope_scaling"]["rope_type"] == "yarn"


def test_chatglms_ratio_multiplies_the_base(tmp_path: Path) -> None:
    """``rope_ratio`` 50 is a base of 500000, and half of each head rotates."""
    found = group(
        tmp_path, model_type="chatglm", hidden_size=64, num_attention_heads=4, kv_channels=16, num_layers=2,
        rope_ratio=50, seq_length=32768, original_rope=True,
    )  # fmt: skip

    assert (found.rope_theta, found.rotary_dim) == (500000.0, 8)


def test_a_number_as_rope_scaling(tmp_path: Path) -> None:
    """A bare number is refused by name: no reader agrees on what it would mean."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_scaling": 8}))

    with pytest.raises(InputError, match=r"rope_scaling: is 8, not an object"):
        _ = checkpoint.open(tmp_path).profile
