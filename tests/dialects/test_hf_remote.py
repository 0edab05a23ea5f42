"""Configs of models whose code comes with them: their own keys read, and written where that code looks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import AlreadyScaled, InputError, MethodUnsupported, NoRope
from tests.support import params

CHATGLM = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "hidden_size": 256,
    "kv_channels": 32,
    "num_attention_heads": 8,
    "num_layers": 2,
    "original_rope": True,
    "seq_length": 8192,
    "transformers_version": "4.30.2",
}
QWEN = {
    "model_type": "qwen",
    "hidden_size": 256,
    "kv_channels": 32,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "max_position_embeddings": 8192,
    "seq_length": 2048,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}
HUNYUAN = {
    "model_type": "hunyuan_v1_dense",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0},
}
MPT: dict[str, Any] = {
    "model_type": "mpt",
    "d_model": 128,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 2048,
    "attn_config": {"alibi": False, "rope": True, "rope_theta": 50000, "rope_impl": "hf"},
}
DBRX = {
    "model_type": "dbrx",
    "d_model": 128,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 2048,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 500000},
    "transformers_version": "4.40.0",
}
NOMIC = {
    "model_type": "nomic_bert",
    "n_embd": 128,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
}
PHI3_SMALL = {
    "model_type": "phi3small",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 8192,
    "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0,
}


def make(root: Path, *parts: dict[str, Any]) -> Path:
    """A folder with a config.json; None in a part takes the key away, except where the part says null on purpose."""
    return params.write(root, *parts, name="config.json")


def main_group(path: Path) -> Any:
    """The one group of a config."""
    (group,) = ropepatch.open(path).profile.groups.values()
    return group


def written(root: Path) -> dict[str, Any]:
    """The config of an output."""
    return params.read(root, "config.json")


@pytest.mark.parametrize(("ratio", "theta"), [(None, 1e4), (1, 1e4), (50, 5e5), (500, 5e6)])
def test_chatglm_multiplies_its_base(tmp_path: Path, ratio: int | None, theta: float) -> None:
    """rope_ratio times 10000 is the base; transformers' own GLM at that base turns the same half of each head."""
    pytest.importorskip("torch")
    glm = pytest.importorskip("transformers.models.glm")
    path = make(tmp_path / "m", CHATGLM, {"rope_ratio": ratio})
    parameters = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}
    config = glm.GlmConfig(hidden_size=256, num_attention_heads=8, head_dim=32, rope_parameters=parameters)
    wanted, _ = params.rotary(config, "glm.modeling_glm", "GlmRotaryEmbedding")
    np.testing.assert_allclose(ropepatch.open(path).frequencies()["default"].inv_freq, wanted, rtol=1e-6)
    assert (main_group(path).rotary_dim, main_group(path).head_dim) == (16, 32)
    assert main_group(path).layout == "interleaved"


def test_chatglm_layout_and_context(tmp_path: Path) -> None:
    """original_rope false is the half layout (CogAgent); seq_length is the context."""
    path = make(tmp_path / "m", CHATGLM, {"original_rope": False})
    assert main_group(path).layout == "half"
    assert ropepatch.open(path).profile.declared_context == 8192


def test_chatglm_takes_a_base_as_rope_ratio(tmp_path: Path) -> None:
    """NTK-aware scaling is written as rope_ratio and seq_length and as nothing else; revert restores the bytes."""
    path = make(tmp_path / "m", CHATGLM)
    before = (path / "config.json").read_bytes()
    ropepatch.open(path).patch("ntk", 4.0).write(tmp_path / "out")
    found = written(tmp_path / "out")
    assert found.pop("rope_ratio") == pytest.approx(4 ** (16 / 14))
    assert found.pop("seq_length") == 32768
    assert found == {key: value for key, value in CHATGLM.items() if key != "seq_length"}
    ropepatch.open(path).patch("theta", rope_theta=500000).write(tmp_path / "fifty")
    assert written(tmp_path / "fifty")["rope_ratio"] == 50
    restored = ropepatch.revert(tmp_path / "out", output=tmp_path / "back")
    assert (restored / "config.json").read_bytes() == before


@pytest.mark.parametrize("method", ["linear", "yarn", "llama3", "dynamic", "ntk-by-parts"])
def test_chatglm_takes_nothing_else(tmp_path: Path, method: str) -> None:
    """Its code reads no scaling: a method that needs one is refused, also baked."""
    model = ropepatch.open(make(tmp_path / "m", CHATGLM))
    with pytest.raises(MethodUnsupported, match="its own code reads no scaling of this kind; ntk and theta"):
        model.patch(method, 4.0)


def test_first_chatglm_is_refused(tmp_path: Path) -> None:
    """Two-dimensional positions are no case of what is known here, and it says so."""
    path = make(tmp_path / "m", CHATGLM, {"position_encoding_2d": True})
    with pytest.raises(InputError, match="position_encoding_2d gives each half of a head positions of its own"):
        _ = ropepatch.open(path).profile


@pytest.mark.parametrize("length", [1024, 2048, 4096, 8192, 16384])
def test_qwen_follows_its_own_steps(tmp_path: Path, length: int) -> None:
    """At powers of two times seq_length the base is that of the step rule in Qwen's code."""
    path = make(tmp_path / "m", QWEN)
    alpha = max(2 ** math.ceil(math.log2(length / 2048) + 1) - 1, 1)
    wanted = (10000 * alpha ** (32 / 30)) ** (-np.arange(0, 32, 2) / 32)
    found = ropepatch.open(path).frequencies(length)["default"].inv_freq
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    profile = ropepatch.open(path).profile
    assert (profile.trained_context, profile.declared_context) == (2048, 8192)
    assert any("use_logn_attn" in note for note in profile.notes)


def test_qwen_partial_and_base(tmp_path: Path) -> None:
    """kv_channels is the head, rotary_pct its part that turns, rotary_emb_base the base."""
    change = {"rotary_pct": 0.5, "rotary_emb_base": 20000, "use_dynamic_ntk": False}
    group = main_group(make(tmp_path / "m", QWEN, change))
    assert (group.head_dim, group.rotary_dim, group.rope_theta) == (32, 16, 20000.0)
    assert group.scaling.name == "none"


def test_qwen_patch_switches_its_rule_off(tmp_path: Path) -> None:
    """A patch from the original context writes the base under its name, turns the rule off, and leaves the rest."""
    model = ropepatch.open(make(tmp_path / "m", QWEN))
    with pytest.raises(AlreadyScaled):
        model.patch("ntk", 4.0)
    model.patch("ntk", 4.0, existing="replace").write(tmp_path / "out")
    found = written(tmp_path / "out")
    assert found["rotary_emb_base"] == pytest.approx(10000 * 4 ** (32 / 30))
    assert found["use_dynamic_ntk"] is False
    changed = {key for key in found if found[key] != QWEN.get(key)}
    assert changed == {"rotary_emb_base", "use_dynamic_ntk"}
    with pytest.raises(MethodUnsupported, match="its own code reads no scaling"):
        model.patch("yarn", 4.0, existing="replace")


def test_qwen_with_two_names_of_the_base_gets_both(tmp_path: Path) -> None:
    """Where the file has rope_theta beside rotary_emb_base, both change, for the engines that read the other one."""
    path = make(tmp_path / "m", QWEN, {"rope_theta": 10000, "use_dynamic_ntk": False})
    ropepatch.open(path).patch("theta", rope_theta=1e6).write(tmp_path / "out")
    assert (written(tmp_path / "out")["rope_theta"], written(tmp_path / "out")["rotary_emb_base"]) == (1e6, 1e6)


@pytest.mark.parametrize("kind", ["hunyuan_v1_dense", "hunyuan_v1_moe"])
def test_hunyuan_alpha_is_a_base(tmp_path: Path, kind: str) -> None:
    """dynamic with alpha is one base at every length, the one that transformers' rotary class makes."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = make(tmp_path / "m", HUNYUAN, {"model_type": kind})
    config = transformers.AutoConfig.from_pretrained(path)
    name = {"hunyuan_v1_dense": "HunYuanDenseV1", "hunyuan_v1_moe": "HunYuanMoEV1"}[kind]
    wanted, scale = params.rotary(config, f"{kind}.modeling_{kind}", f"{name}RotaryEmbedding")
    for length in (None, 262144):
        found = ropepatch.open(path).frequencies(length)["default"]
        np.testing.assert_allclose(found.inv_freq, wanted, rtol=1e-6)
        assert found.attention_scale == scale == 1.0
    assert not ropepatch.open(path).profile.scaled


@pytest.mark.parametrize("method", ["linear", "ntk"])
@pytest.mark.parametrize("theta", [10000.0, None])
def test_hunyuan_patch_starts_from_the_stretched_base(tmp_path: Path, method: str, theta: float | None) -> None:
    """The output has the stretched base written out and no alpha, and transformers computes what was promised."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = make(tmp_path / "m", HUNYUAN, {"rope_theta": theta})
    ropepatch.open(path).patch(method, 4.0).write(tmp_path / "out")
    assert "alpha" not in (written(tmp_path / "out")["rope_scaling"] or {})
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    module = "hunyuan_v1_dense.modeling_hunyuan_v1_dense"
    wanted, scale = params.rotary(config, module, "HunYuanDenseV1RotaryEmbedding")
    found = ropepatch.open(tmp_path / "out").frequencies()["default"]
    np.testing.assert_allclose(found.inv_freq, wanted, rtol=1e-6)
    assert found.attention_scale == pytest.approx(scale, rel=1e-6)


def test_hunyuan_without_alpha_follows_the_length(tmp_path: Path) -> None:
    """dynamic without alpha is the common rule."""
    path = make(tmp_path / "m", HUNYUAN, {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    assert main_group(path).scaling.name == "dynamic"


def test_mpt_has_rope_by_a_switch(tmp_path: Path) -> None:
    """attn_config.rope turns RoPE on at attn_config.rope_theta; without it there is ALiBi and nothing to patch."""
    assert main_group(make(tmp_path / "on", MPT)).rope_theta == 50000.0
    scaled = {**MPT["attn_config"], "rope_hf_config": {"type": "linear", "factor": 2.0}}
    assert main_group(make(tmp_path / "scaled", MPT, {"attn_config": scaled})).scaling.parameters() == {"factor": 2.0}
    off = make(tmp_path / "off", MPT, {"attn_config": {"alibi": True}})
    with pytest.raises(NoRope, match=r"attn_config\.rope is not true"):
        _ = ropepatch.open(off).profile


@pytest.mark.parametrize("config", [MPT, DBRX], ids=["mpt", "dbrx"])
def test_base_inside_attn_config_is_written_there(tmp_path: Path, config: dict[str, Any]) -> None:
    """The base goes back to attn_config.rope_theta, and the rest of that object stays."""
    path = make(tmp_path / "m", config)
    ropepatch.open(path).patch("theta", rope_theta=2e6).write(tmp_path / "out")
    found = written(tmp_path / "out")
    assert found["attn_config"] == {**config["attn_config"], "rope_theta": 2e6}
    assert main_group(tmp_path / "out").rope_theta == 2e6


def test_dbrx_says_which_transformers_reads_its_base(tmp_path: Path) -> None:
    """The trained base is read, and a note says that transformers 5 takes another: it does, in its own rotary class."""
    path = make(tmp_path / "m", DBRX)
    assert main_group(path).rope_theta == 500000.0
    assert any("transformers 5.23 takes 10000" in note for note in ropepatch.open(path).profile.notes)
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = transformers.AutoConfig.from_pretrained(path)
    computed, _ = params.rotary(config, "dbrx.modeling_dbrx", "DbrxRotaryEmbedding")
    assert computed[-1] == pytest.approx(10000.0 ** (-30 / 32), rel=1e-6)


def test_dbrx_patch_reaches_transformers_5_as_well(tmp_path: Path) -> None:
    """After a patch both lines turn at the same base: the inner key for one, the top one for the other."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    ropepatch.open(make(tmp_path / "m", DBRX)).patch("ntk", 4.0).write(tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    computed, _ = params.rotary(config, "dbrx.modeling_dbrx", "DbrxRotaryEmbedding")
    np.testing.assert_allclose(ropepatch.open(tmp_path / "out").frequencies()["default"].inv_freq, computed, rtol=1e-6)


@pytest.mark.parametrize(("factor", "method"), [(None, "none"), (2.0, "dynamic")])
def test_nomic_is_dynamic_by_its_own_factor(tmp_path: Path, factor: float | None, method: str) -> None:
    """The remote code's keys are read: base, part, and a factor that makes the base follow the length."""
    group = main_group(make(tmp_path / "m", NOMIC, {"rotary_scaling_factor": factor}))
    assert (group.rope_theta, group.rotary_dim, group.scaling.name) == (1000.0, 32, method)
    if factor:
        assert group.scaling.parameters()["original_max_position_embeddings"] == 2048


def test_nomic_layout_switch_and_vision_tower(tmp_path: Path) -> None:
    """rotary_emb_interleaved is the layout; a fraction of zero is the vision model, which has no RoPE."""
    assert main_group(make(tmp_path / "m", NOMIC, {"rotary_emb_interleaved": True})).layout == "interleaved"
    with pytest.raises(NoRope, match="rotary_emb_fraction is 0"):
        _ = ropepatch.open(make(tmp_path / "v", NOMIC, {"rotary_emb_fraction": 0})).profile


def test_nomic_patch_writes_its_own_keys(tmp_path: Path) -> None:
    """A base goes to rotary_emb_base and the length rule goes off; a named scaling is refused."""
    model = ropepatch.open(make(tmp_path / "m", NOMIC, {"rotary_scaling_factor": 2.0}))
    model.patch("ntk", 4.0, existing="replace").write(tmp_path / "out")
    found = written(tmp_path / "out")
    assert found["rotary_emb_base"] == pytest.approx(1000 * 4 ** (32 / 30))
    assert "rotary_scaling_factor" not in found
    with pytest.raises(MethodUnsupported, match="rotary_emb_base and rotary_scaling_factor alone"):
        model.patch("yarn", 4.0, existing="replace")


def test_phi3_small_has_its_own_names(tmp_path: Path) -> None:
    """rope_embedding_base is the base, rope_position_scale a division of positions, and both are written back."""
    plain = make(tmp_path / "plain", PHI3_SMALL)
    assert main_group(plain).rope_theta == 1e6
    scaled = make(tmp_path / "scaled", PHI3_SMALL, {"rope_position_scale": 2.0})
    assert main_group(scaled).scaling.parameters() == {"factor": 2.0}
    ropepatch.open(plain).patch("ntk", 2.0).write(tmp_path / "out")
    found = written(tmp_path / "out")
    assert found["rope_embedding_base"] == pytest.approx(1e6 * 2 ** (32 / 30))
    assert set(found) == set(PHI3_SMALL)
    ropepatch.open(scaled).patch("theta", existing="replace", original=8192, rope_theta=5e6).write(tmp_path / "off")
    assert written(tmp_path / "off")["rope_position_scale"] == 1.0
    with pytest.raises(MethodUnsupported, match="reads no scaling of this kind"):
        ropepatch.open(plain).patch("yarn", 4.0)


def test_baichuan_by_width(tmp_path: Path) -> None:
    """The 7B width turns at a base that stands in the code and cannot be written; the 13B width has ALiBi."""
    config = {"model_type": "baichuan", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096}
    small = ropepatch.open(make(tmp_path / "small", config))
    assert small.profile.groups["default"].rope_theta == 1e4
    with pytest.raises(MethodUnsupported, match="the base 10000 stands in the code of baichuan"):
        small.patch("ntk", 2.0)
    large = make(tmp_path / "large", config, {"hidden_size": 5120, "num_attention_heads": 40})
    with pytest.raises(NoRope, match="ALiBi"):
        _ = ropepatch.open(large).profile


@pytest.mark.parametrize(
    ("kind", "extra", "layout", "width"),
    [
        ("internlm2", {}, "half", 32),
        ("minicpm", {"rope_theta_base": 10000.0}, "half", 32),
        ("neobert", {"dim_head": 16}, "interleaved", 16),
        ("xverse", {}, "half", 32),
        ("yuan", {}, "half", 32),
    ],
)
def test_silent_configs_turn_at_10000(
    tmp_path: Path, kind: str, extra: dict[str, Any], layout: str, width: int
) -> None:
    """Models whose config says nothing of RoPE turn at the base in their code, and are not taken for RoPE-less."""
    config = {"model_type": kind, "hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 2048}
    group = main_group(make(tmp_path / "m", config, extra))
    assert (group.rope_theta, group.layout, group.rotary_dim) == (10000.0, layout, width)


def test_internlm2_takes_what_its_code_reads(tmp_path: Path) -> None:
    """Its remote code has linear and dynamic; YaRN is refused with those as the way out."""
    config = {
        "model_type": "internlm2",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "rope_theta": 1000000,
        "rope_scaling": None,
    }
    model = ropepatch.open(make(tmp_path / "m", config))
    model.patch("linear", 2.0)
    with pytest.raises(MethodUnsupported, match=r"reads linear, dynamic alone; .* it takes linear, dynamic"):
        model.patch("yarn", 4.0)


def test_kimi_k2_is_deepseeks_attention(tmp_path: Path) -> None:
    """kimi_k2 turns qk_rope_head_dim dimensions of each head and sharpens the softmax, as DeepSeek-V3 does."""
    config = {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "max_position_embeddings": 131072,
        "rope_theta": 50000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 1.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    }
    kimi = ropepatch.open(make(tmp_path / "kimi", config, {"model_type": "kimi_k2"}))
    deepseek = ropepatch.open(make(tmp_path / "deepseek", config, {"model_type": "deepseek_v3"}))
    assert kimi.profile.groups == deepseek.profile.groups
    assert main_group(tmp_path / "kimi").rotary_dim == 16
    assert main_group(tmp_path / "kimi").softmax_scale == pytest.approx((0.1 * math.log(32) + 1) ** 2)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CHATGLM, {"rope_ratio": "x"}, "rope_ratio: is 'x', not a usable number"),
        (CHATGLM, {"kv_channels": 10**9}, "kv_channels: is 1000000000"),
        (QWEN, {"rotary_pct": 2.0}, "rotary_pct: is 2.0, not a usable number"),
        (MPT, {"attn_config": 3}, "attn_config: is 3, not an object"),
        (DBRX, {"attn_config": {"rope_theta": -1}}, "attn_config.rope_theta: is -1"),
        (HUNYUAN, {"rope_scaling": {"type": "dynamic", "alpha": "many"}}, "rope_scaling.alpha: is 'many'"),
        (PHI3_SMALL, {"rope_position_scale": 0}, "rope_position_scale: is 0"),
    ],
)
def test_broken_values_are_one_line(
    tmp_path: Path, config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """A value that cannot be is named with its key in one line."""
    with pytest.raises(InputError) as caught:
        _ = ropepatch.open(make(tmp_path / "m", config, change)).profile
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "theta", "width", "trained", "declared"),
    [
        ("THUDM__chatglm3-6b.json", 1e4, 64, 8192, 8192),
        ("THUDM__chatglm3-6b-32k-sophgo.json", 5e5, 64, 16384, 16384),
        ("THUDM__glm-4-9b-chat-sophgo.json", 5e6, 64, 512, 512),
        ("Qwen__Qwen-7B.json", 1e4, 128, 8192, 32768),
        ("Qwen__Qwen-14B-Chat.json", 1e4, 128, 2048, 8192),
        ("Qwen__Qwen-72B-Chat.json", 1e6, 128, 32768, 32768),
        ("baichuan-inc__Baichuan2-7B.json", 1e4, 128, 4096, 4096),
        ("databricks__dbrx-instruct.json", 5e5, 128, 32768, 32768),
        ("internlm__internlm2-7b-reward.json", 1e6, 128, 32768, 32768),
        ("microsoft__Phi-3-small-8k-instruct.json", 1e6, 128, 8192, 8192),
        ("moonshotai__Kimi-K2-Instruct.json", 5e4, 64, 4096, 131072),
        ("tencent__Hunyuan-A13B-Instruct.json", 1e4 * 1000 ** (128 / 126), 128, 32768, 32768),
        ("xverse__XVERSE-7B.json", 1e4, 128, 8192, 8192),
        ("chandar-lab__NeoBERT.json", 1e4, 64, None, None),
    ],
)
def test_published_configs(name: str, theta: float, width: int, trained: int | None, declared: int | None) -> None:
    """The published texts of remote-code models are read as their code reads them."""
    profile = ropepatch.open(params.corpus(name)).profile
    group = profile.groups["default"]
    assert group.rope_theta == pytest.approx(theta)
    assert group.rotary_dim == width
    assert (profile.trained_context, profile.declared_context) == (trained, declared)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["mosaicml__mpt-7b.json", "moonshotai__Kimi-K3.json"])
def test_published_configs_without_rope(name: str) -> None:
    """MPT with ALiBi and Kimi K3, whose rotary width is not used, are refused as models without RoPE."""
    with pytest.raises(NoRope):
        _ = ropepatch.open(params.corpus(name)).profile
