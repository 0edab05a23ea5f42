"""config.json in every layout: read, and rewritten so that everything else stays byte for byte."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import AlreadyScaled, InputError, MethodUnsupported, NoRope
from ropepatch.methods import Spectrum, Target, extend

Make = Callable[..., Path]
T = 4096
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": T,
    "vocab_size": 96,
}
V4 = {**LLAMA, "rope_theta": 10000.0, "rope_scaling": None, "zz_unknown": {"b": [1.0, 2], "a": 1e-05}}
V5 = {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "zz_unknown": None}
ROPE = Spectrum.plain(10000.0, 32)


def result(folder: Path, method: str, factor: float | None = 4.0, **options: Any) -> dict[str, Any]:
    """Patch a folder through the API; the new config."""
    return json.loads(text_of(folder, method, factor, **options))


def text_of(folder: Path, method: str, factor: float | None = 4.0, **options: Any) -> str:
    """Patch a folder through the API; the new config's text."""
    output = folder.with_name("out")
    ropepatch.open(folder).patch(method, factor, **options).write(output)
    return (output / "config.json").read_bytes().decode()


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": T}


@pytest.mark.parametrize(
    ("method", "settings", "block", "context"),
    [
        ("linear", {}, {"rope_type": "linear", "factor": 4.0}, T),
        ("dynamic", {}, {"rope_type": "dynamic", "factor": 4.0}, T),
        ("yarn", {}, YARN, 4 * T),
        ("yarn", {"beta_fast": 16}, {**YARN, "beta_fast": 16.0}, 4 * T),
        ("yarn", {"truncate": False}, {**YARN, "truncate": False}, 4 * T),
        (
            "yarn",
            {"attention_factor": 1.0},
            {**YARN, "attention_factor": 1.0, "attn_factor": 1 / (1 + 0.1 * math.log(4))},
            4 * T,
        ),
        (
            "llama3",
            {},
            {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": T,
            },
            4 * T,
        ),
    ],
)
def test_the_portable_block(
    config: Make, method: str, settings: dict[str, Any], block: dict[str, Any], context: int
) -> None:
    """One type key, float factors, whole lengths, no nulls, and the context that engines multiply or do not."""
    after = result(config(V4), method, **settings)
    assert after["rope_scaling"] == block
    for name, value in after["rope_scaling"].items():
        assert value is not None
        assert type(value) is type(block[name]), name
    assert after["max_position_embeddings"] == context
    assert after["rope_theta"] == 10000.0
    assert "rope_parameters" not in after


def test_only_the_rope_changes(config: Make) -> None:
    """Key order, indentation, number style, unknown keys and the line end at the end of the file stay."""
    lines = json.dumps(V4, indent=2).split("\n")
    text = "\n".join(lines) + "\n"
    after = text_of(config(text), "yarn").split("\n")
    block = ['  "rope_scaling": {', '    "rope_type": "yarn",', '    "factor": 4.0,']
    block += [f'    "original_max_position_embeddings": {T}', "  },"]
    wanted = []
    for line in lines:
        if "rope_scaling" in line:
            wanted += block
        else:
            wanted.append(line.replace(f'"max_position_embeddings": {T}', f'"max_position_embeddings": {4 * T}'))
    assert after == [*wanted, ""]


@pytest.mark.parametrize("indent", [None, 4, "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_file_s_style_is_kept(config: Make, indent: int | str | None, newline: str) -> None:
    """One line, four spaces, tabs, Windows line ends: the new block is laid out like the rest."""
    text = json.dumps(V4, indent=indent).replace("\n", newline)
    after = text_of(config(text), "yarn")
    changed = {**V4, "max_position_embeddings": 4 * T, "rope_scaling": YARN}
    assert after == json.dumps(changed, indent=indent).replace("\n", newline)


def test_odd_spellings_of_other_numbers_stay(config: Make) -> None:
    """What a JSON writer would normalise is not touched."""
    text = (
        '{"model_type":"llama","hidden_size":128, "num_attention_heads":4,"rms_norm_eps":1.00E-6 ,"x":"\\u00e9\\/",\n'
    )
    text += '"max_position_embeddings":4096,"rope_theta":1e4}'
    after = text_of(config(text), "yarn")
    for piece in ('"rms_norm_eps":1.00E-6 ,"x":"\\u00e9\\/",\n', '"rope_theta":1e4', '"max_position_embeddings":16384'):
        assert piece in after
    assert json.loads(after)["rope_scaling"] == YARN


def test_v5_stays_v5(config: Make) -> None:
    """rope_parameters holds base and scaling; no key of the old layout appears."""
    after = result(config(V5), "yarn")
    assert after["rope_parameters"] == {**YARN, "rope_theta": 10000.0}
    assert "rope_scaling" not in after
    assert "rope_theta" not in after
    assert list(after) == list(V5)


def test_v5_ntk_is_a_base(config: Make) -> None:
    """Only the base and the context change."""
    after = result(config(V5), "ntk")
    theta = after["rope_parameters"].pop("rope_theta")
    assert theta == pytest.approx(10000 * 4 ** (32 / 30))
    assert after["rope_parameters"] == {"rope_type": "default"}
    assert after["max_position_embeddings"] == 4 * T


def test_both_layouts_stay_both(config: Make) -> None:
    """A file with both says the same in both."""
    after = result(config({**V4, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}), "yarn")
    assert after["rope_scaling"] == YARN
    assert after["rope_theta"] == 10000.0
    assert after["rope_parameters"] == {**YARN, "rope_theta": 10000.0}


@pytest.mark.parametrize("start", [V4, V5], ids=["v4", "v5"])
@pytest.mark.parametrize("layout", ["v4", "v5", "both"])
@pytest.mark.parametrize("method", ["yarn", "ntk", "mrrope-pro"])
def test_a_layout_can_be_chosen(config: Make, start: dict[str, Any], layout: str, method: str) -> None:
    """--hf-layout writes that layout and takes the other out; the frequencies are the method's in each."""
    folder = config(start)
    after = result(folder, method, hf_layout=layout)
    assert (after.get("rope_parameters") is not None) == (layout != "v4")
    old = after.get("rope_theta") is not None or after.get("rope_scaling") is not None
    assert old == (layout != "v5")
    wanted = extend(method, Target(4.0, T, ROPE), {}).apply(ROPE, 4 * T)
    found = ropepatch.open(folder.with_name("out")).frequencies(length=4 * T)["default"]
    np.testing.assert_allclose(found.inv_freq, wanted.inv_freq, rtol=1e-12)
    assert found.attention_scale == pytest.approx(wanted.attention_scale)


def test_nested_v5_changes_the_full_layers(config: Make) -> None:
    """Gemma 3 in the new layout: full_attention is extended, sliding_attention stays as it is."""
    nested = {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    kinds = ["sliding_attention", "full_attention"]
    start = {**LLAMA, "model_type": "gemma3_text", "head_dim": 32, "layer_types": kinds, "rope_parameters": nested}
    after = result(config(start), "yarn")
    assert after["rope_parameters"]["sliding_attention"] == nested["sliding_attention"]
    assert after["rope_parameters"]["full_attention"] == {**YARN, "rope_theta": 1000000.0}


def test_gemma3_v4_keeps_both_bases(config: Make) -> None:
    """Gemma 3 in the old layout: rope_local_base_freq stays, linear raises the context itself."""
    start = {**LLAMA, "model_type": "gemma3_text", "head_dim": 32, "sliding_window": 64, "sliding_window_pattern": 2}
    start |= {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}
    after = result(config(start), "linear")
    assert after["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert (after["rope_theta"], after["rope_local_base_freq"]) == (1000000.0, 10000.0)
    assert after["max_position_embeddings"] == 4 * T


def test_a_composite_is_patched_in_its_text_config(config: Make) -> None:
    """The vision part and the outer keys stay; the scaling goes where the language model reads it."""
    text = {**V4, "model_type": "qwen2"}
    outer = {"model_type": "llava", "rope_theta": 5.0, "vision_config": {"hidden_size": 64}, "text_config": text}
    del outer["rope_theta"]
    folder = config(outer)
    after = result(folder, "yarn")
    assert after["text_config"]["rope_scaling"] == YARN
    assert after["text_config"]["max_position_embeddings"] == 4 * T
    assert {k: v for k, v in after.items() if k != "text_config"} == {
        k: v for k, v in outer.items() if k != "text_config"
    }
    assert set(after["text_config"]) == set(text)


def test_sections_of_multimodal_rope_outlive_a_patch(config: Make) -> None:
    """mrope_section and its like belong to the rotation, not to the scaling."""
    rope = {"type": "mrope", "mrope_section": [4, 6, 6]}
    start = {**V4, "model_type": "qwen2_vl_text", "rope_scaling": rope}
    after = result(config(start), "yarn")
    assert after["rope_scaling"] == {**YARN, "mrope_section": [4, 6, 6]}


@pytest.mark.parametrize("model_type", ["phi3", "llama"])
def test_longrope(config: Make, model_type: str) -> None:
    """Both lists, the original context at the top and, but for Phi, inside; Phi takes `type` alone."""
    long, short = [1.0 + i / 2 for i in range(16)], [1.0] * 16
    folder = config({**V4, "model_type": model_type, "original_max_position_embeddings": T})
    after = result(folder, "longrope", long_factor=long)
    rope = after["rope_scaling"]
    assert (rope["long_factor"], rope["short_factor"]) == (long, short)
    assert after["original_max_position_embeddings"] == T
    assert after["max_position_embeddings"] == 4 * T
    if model_type == "phi3":
        assert set(rope) == {"type", "long_factor", "short_factor"}
        assert rope["type"] == "longrope"
    else:
        assert rope["rope_type"] == "longrope"
        assert rope["original_max_position_embeddings"] == T
    found = ropepatch.open(folder.with_name("out"))
    scale = math.sqrt(1 + math.log(4) / math.log(T))
    assert found.frequencies(length=4 * T)["default"].attention_scale == pytest.approx(scale)
    np.testing.assert_allclose(found.frequencies(length=4 * T)["default"].inv_freq, ROPE.inv_freq / long)
    np.testing.assert_allclose(found.frequencies()["default"].inv_freq, ROPE.inv_freq)


@pytest.mark.parametrize("method", ["ntk-by-parts", "mrrope-uni", "mrrope-pro", "yarn+resonance"])
def test_methods_without_a_type_are_baked(config: Make, method: str) -> None:
    """Equal lists and an explicit attention factor give the method at every length."""
    folder = config(V4)
    after = result(folder, method)
    rope = after["rope_scaling"]
    wanted = extend(method, Target(4.0, T, ROPE), {}).apply(ROPE, None)
    assert rope["rope_type"] == "longrope"
    assert rope["long_factor"] == rope["short_factor"]
    np.testing.assert_allclose(ROPE.inv_freq / rope["long_factor"], wanted.inv_freq, rtol=1e-12)
    assert rope["attention_factor"] == pytest.approx(wanted.attention_scale)


# Scaled already -------------------------------------------------------------------------------------------------------


def test_existing_error_replace_compose(config: Make) -> None:
    """A scaled config is refused, restarted or stacked, as asked."""
    start = {**V4, "max_position_embeddings": 4 * T, "rope_scaling": YARN}
    folder = config(start)
    with pytest.raises(AlreadyScaled, match="yarn 4x, 4096 to 16384 tokens"):
        ropepatch.open(folder).patch("yarn", 2.0)
    patch = ropepatch.open(folder).patch("yarn", 2.0, existing="replace")
    assert patch.after.declared_context == 2 * T
    after = result(folder, "linear", 2.0, existing="compose")
    first = extend("yarn", Target(4.0, T, ROPE), {}).apply(ROPE, None)
    found = ropepatch.open(folder.with_name("out")).frequencies()["default"]
    np.testing.assert_allclose(found.inv_freq, first.inv_freq / 2, rtol=1e-12)
    assert found.attention_scale == pytest.approx(first.attention_scale)
    assert after["max_position_embeddings"] == 8 * T


def test_none_takes_the_scaling_out(config: Make) -> None:
    """Replaced by none, the config is what it was before the scaling."""
    start = {**V4, "max_position_embeddings": 4 * T, "rope_scaling": YARN}
    assert result(config(start), "none", None, existing="replace") == V4


def test_compose_with_dynamic_is_refused(config: Make) -> None:
    """A base that follows the length cannot be baked."""
    start = {**V4, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    with pytest.raises(MethodUnsupported, match="follows the length at run time"):
        ropepatch.open(config(start)).patch("linear", 2.0, existing="compose")


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "method", "theta"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4}}, "linear", 10000.0),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 4.0}}, "yarn", 10000.0),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0}}, "yarn", 500.0),
        ({"rope_scaling": {"factor": 4.0}}, "none", 10000.0),
        ({"rope_scaling": {}}, "none", 10000.0),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {**YARN, "rope_theta": 5.0}},
            "linear",
            10000.0,
        ),
        ({"rope_theta": None}, "none", 10000.0),
        ({"rope_theta": 500000}, "none", 500000.0),
    ],
)
def test_precedence_is_that_of_transformers_5(config: Make, changes: dict[str, Any], method: str, theta: float) -> None:
    """rope_scaling beats rope_parameters, rope_type beats type, a base inside beats one beside."""
    group = ropepatch.open(config({**V4, **changes})).profile.groups["default"]
    assert (group.scaling.name, group.rope_theta) == (method, theta)


def test_unread_keys_of_a_rope_dict_are_reported(config: Make) -> None:
    """A key that the rope type does not read stands under `unrecognised`."""
    profile = ropepatch.open(config({**V4, "rope_scaling": {**YARN, "finetuned": True, "attn_factor": 0.9}})).profile
    assert profile.unrecognised["rope_scaling.finetuned"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "ntk", "factor": 2.0}}, "unknown rope_type 'ntk'"),
        ({"rope_scaling": {"rope_type": ["yarn"], "factor": 2.0}}, "unknown rope_type"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn needs factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor must be at least 1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "four"}}, "factor must be a number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": True}}, "factor must be a number"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "1 factors for 16"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": 1.0, "long_factor": 1.0}}, "must be a list"),
        ({"rope_scaling": [1]}, "rope_scaling: is .*, not an object"),
        ({"rope_theta": "x"}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": True}, "rope_theta"),
        ({"max_position_embeddings": -1}, "max_position_embeddings"),
        ({"max_position_embeddings": "4096"}, "max_position_embeddings"),
        ({"model_type": "mystery", "hidden_size": None, "num_attention_heads": None}, "says neither head_dim nor"),
        ({"hidden_size": 1e300}, "hidden_size"),
        ({"head_dim": 1 << 40}, "head_dim"),
        ({"head_dim": [64]}, "head_dim"),
    ],
)
def test_impossible_values_are_refused_by_key(config: Make, changes: dict[str, Any], message: str) -> None:
    """A value that no rotary module can be built from is refused in one line, with the file."""
    folder = config({**V4, **changes})
    with pytest.raises(InputError, match=message) as caught:
        _ = ropepatch.open(folder).profile
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["gpt2", "mpt", "bert", "bloom"])
def test_models_without_rope_are_refused(config: Make, model_type: str) -> None:
    """Nothing to patch, by name."""
    start = {k: v for k, v in V4.items() if not k.startswith("rope")} | {"model_type": model_type}
    with pytest.raises(NoRope, match=r"no (rotary position embedding|RoPE).*; there is nothing to patch"):
        _ = ropepatch.open(config(start)).profile


def test_folders_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    """An empty folder, a missing path and an unknown file are three different messages."""
    with pytest.raises(InputError, match=r"holds no config\.json"):
        ropepatch.open(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        ropepatch.open(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="is no checkpoint"):
        ropepatch.open(tmp_path / "notes.txt")


def test_a_base_that_the_config_leaves_out_is_told(tmp_path: Path) -> None:
    """A note names the class default that was taken, and the other line's where transformers changed it."""
    config = {"model_type": "olmo3", "hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": T}
    for version, base, other in (("4.57.6", "10000", "500000"), ("5.23.0", "500000", "10000")):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config, "transformers_version": version}))
        (note,) = (note for note in ropepatch.open(path).profile.notes if "rope_theta" in note)
        assert f"rope_theta {base} taken from the class default of olmo3 (transformers {version})" in note
        assert f"has {other}" in note
    path.write_text(json.dumps({**config, "model_type": "qwen3", "rope_theta": 10000.0}))
    assert not any("rope_theta" in note for note in ropepatch.open(path).profile.notes)
