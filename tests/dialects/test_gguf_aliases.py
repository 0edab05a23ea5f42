"""GGUF spellings that are not llama.cpp's own: another converter's names, old names, other byte orders and versions."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import ropepatch
from ropepatch.errors import InputError, NoRope
from tests.support import llamacpp_formula as engine

Make = Callable[..., Path]
CONTEXT = 256
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
SLIDING = {".attention.sliding_window": 48}

#: architecture, keys as llama.cpp names them, and the same under another converter's names
SPELLINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3 bases": (
        "gemma3",
        {**SLIDING, ".rope.freq_base": 1e6, ".rope.freq_base_swa": 5000.0},
        {**SLIDING, ".rope.freq_base": None, ".rope.global.freq_base": 1e6, ".rope.local.freq_base": 5000.0},
    ),
    "gemma3n local base": (
        "gemma3n",
        {**SLIDING, ".rope.freq_base_swa": 5000.0},
        {**SLIDING, ".rope.freq_base_local": 5000.0},
    ),
    "laguna sliding layers": (
        "laguna",
        {**SLIDING, ".rope.freq_base_swa": 5000.0, ".rope.dimension_count_swa": 16},
        {**SLIDING, ".rope.swa.freq_base": 5000.0, ".rope.swa.dimension_count": 16},
    ),
    "mistral3 betas and multiplier": (
        "mistral3",
        {
            ".rope.scaling.type": "yarn",
            ".rope.scaling.factor": 4.0,
            ".rope.scaling.yarn_beta_fast": 16.0,
            ".rope.scaling.yarn_beta_slow": 2.0,
            ".rope.scaling.yarn_log_multiplier": 0.5,
        },
        {
            ".rope.scaling.type": "yarn",
            ".rope.scaling.factor": 4.0,
            ".rope.scaling.beta_fast": 16.0,
            ".rope.scaling.beta_slow": 2.0,
            ".rope.scaling.mscale_all_dim": 0.5,
        },
    ),
    "qwen2vl sections": (
        "qwen2vl",
        {".rope.dimension_sections": [4, 6, 6, 0]},
        {".rope.mrope_section": [4, 6, 6]},
    ),
    "qwen2vl sections, plural": (
        "qwen2vl",
        {".rope.dimension_sections": [4, 6, 6, 0]},
        {".rope.mrope_sections": [4, 6, 6]},
    ),
    "three sections": (
        "qwen2vl",
        {".rope.dimension_sections": [4, 6, 6, 0]},
        {".rope.dimension_sections": [4, 6, 6]},
    ),
    "factor of 2023": (
        "llama",
        {".rope.scaling.factor": 4.0},
        {".rope.scale_linear": 4.0},
    ),
}


def lifted(path: Path) -> Any:
    """The profile without the name of the file."""
    profile = ropepatch.open(path).profile
    return dataclasses.replace(profile, source=dataclasses.replace(profile.source, ref="", architecture=""))


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_both_spellings_lift_alike(gguf_file: Make, name: str) -> None:
    """The other converter's names raise to the profile of llama.cpp's names, with nothing left over."""
    arch, usual, other = SPELLINGS[name]
    label = arch if arch in ("llama", "gemma3") else None
    base = arch if label else "qwen3"
    one = gguf_file(base, usual, label=arch, name="usual.gguf")
    two = gguf_file(base, {**other, **_absent(usual, other, base)}, label=arch, name="other.gguf")
    assert lifted(one) == lifted(two)
    assert ropepatch.open(two).profile.unrecognised == {}


def _absent(usual: dict[str, Any], other: dict[str, Any], base: str) -> dict[str, None]:
    """The usual names, taken out where the model itself would write them."""
    return {key: None for key in usual if key not in other}


@pytest.mark.parametrize(
    ("old", "new"), [("gptoss", "gpt-oss"), ("qwen25vl", "qwen2vl"), ("olmo3", "olmo2")], ids=lambda name: name
)
def test_other_architecture_names_lift_alike(gguf_file: Make, old: str, new: str) -> None:
    """The architecture under its other name is read by the same rules, its keys under the name that the file has."""
    keys = {**SLIDING, ".rope.dimension_sections": [4, 6, 6, 0]}
    one = gguf_file("qwen3", keys, label=old, name="old.gguf")
    two = gguf_file("qwen3", keys, label=new, name="new.gguf")
    assert lifted(one) == lifted(two)
    ropepatch.open(one).patch("linear", 4.0).write(one.with_name("out.gguf"))
    written = engine.keys_of(one.with_name("out.gguf"))
    assert written[f"{old}.rope.scaling.factor"] == 4.0
    assert not [key for key in written if key.startswith(f"{new}.")]


@pytest.mark.parametrize(
    ("name", "method", "edited"),
    [
        ("gemma3 bases", "ntk", "rope.global.freq_base"),
        ("mistral3 betas and multiplier", "yarn", "rope.scaling.beta_fast"),
        ("factor of 2023", "linear", "rope.scale_linear"),
    ],
)
def test_a_patch_edits_the_spelling_that_is_there(gguf_file: Make, name: str, method: str, edited: str) -> None:
    """No second key of the same meaning appears beside the one that the file's engine reads."""
    arch, usual, other = SPELLINGS[name]
    base = arch if arch in ("llama", "gemma3") else "qwen3"
    path = gguf_file(base, {**other, **_absent(usual, other, base)}, label=arch)
    settings = {"beta_fast": 64.0} if method == "yarn" else {}
    patch = ropepatch.open(path).patch(method, 8.0, existing="replace", original=CONTEXT, **settings)
    output = path.with_name("out.gguf")
    patch.write(output)
    keys = engine.keys_of(output)
    before = engine.keys_of(path)
    assert keys[f"{arch}.{edited}"] != before[f"{arch}.{edited}"]
    names = {key.removeprefix(f"{arch}.") for key in keys}
    for canonical in (key.removeprefix(".") for key in usual if key not in other):
        assert canonical not in names
    groups = ropepatch.open(output).profile.groups
    wanted = patch.after.groups
    assert {n: g.scaling for n, g in groups.items() if n == "sliding_attention"} == {
        n: g.scaling for n, g in wanted.items() if n == "sliding_attention"
    }


def test_the_oldest_name_of_the_factor_is_not_read(gguf_file: Make) -> None:
    """llama.cpp has no rope.scale: the file is unscaled, and the key is listed as not understood."""
    profile = ropepatch.open(gguf_file(keys={".rope.scale": 4.0})).profile
    assert profile.groups["default"].scaling.name == "none"
    assert profile.unrecognised == {"llama.rope.scale": 4.0}


def test_sections_are_pairs_and_the_last_of_four_may_be_empty(gguf_file: Make) -> None:
    """Three sections and a zero are three; four that count are four; a patch leaves them as they are."""
    for sections, found in (([4, 6, 6, 0], (4, 6, 6)), ([4, 4, 4, 4], (4, 4, 4, 4)), ([0, 0, 0, 0], None)):
        path = gguf_file("qwen3", {".rope.dimension_sections": sections}, label="qwen2vl")
        assert ropepatch.open(path).profile.groups["default"].mrope_section == found
        output = path.with_name("out.gguf")
        output.unlink(missing_ok=True)
        output.with_name("out.ropepatch.json").unlink(missing_ok=True)
        ropepatch.open(path).patch("yarn", 4.0).write(output)
        assert engine.keys_of(output)["qwen2vl.rope.dimension_sections"] == sections


def test_phi3_without_a_scaling_type_is_longrope(gguf_file: Make) -> None:
    """Both tensors are looked for whatever the type says; the file's own attn_factor is the magnitude."""
    tensors = {LONG: np.linspace(1, 8, 16, dtype=np.float32), SHORT: np.full(16, 1.05, np.float32)}
    keys = {
        ".context_length": 4 * CONTEXT,
        ".rope.scaling.original_context_length": CONTEXT,
        ".rope.scaling.attn_factor": 1.19,
    }
    profile = ropepatch.open(gguf_file("phi3", keys, tensors)).profile
    scaling = profile.groups["default"].scaling.to_json()
    assert (scaling["method"], scaling["attention_factor"]) == ("longrope", pytest.approx(1.19))
    assert (profile.trained_context, profile.declared_context) == (CONTEXT, 4 * CONTEXT)


YARN_KEYS = {
    ".context_length": 4 * CONTEXT,
    ".rope.scaling.type": "yarn",
    ".rope.scaling.factor": 4.0,
    ".rope.scaling.original_context_length": CONTEXT,
}


@pytest.mark.parametrize(("arch", "stored"), [("deepseek2", 0.0707), ("mistral4", 0.0707), ("mistral3", 0.707)])
def test_the_log_multiplier_has_two_conventions(gguf_file: Make, arch: str, stored: float) -> None:
    """DeepSeek's files hold a tenth of mscale_all_dim, Mistral's the number itself; both say 0.707.

    Mistral 4 has DeepSeek's graph, but llama.cpp takes the numerator 0.707 for deepseek2 alone.
    """
    keys = {**YARN_KEYS, ".rope.scaling.yarn_log_multiplier": stored}
    base = "deepseek2" if arch != "mistral3" else "llama"
    group = ropepatch.open(gguf_file(base, keys, label=arch)).profile.groups["default"]
    usual, held = (0.1 * k * math.log(4) + 1 for k in (1.0, 0.707))
    scaling = group.scaling.to_json()
    if arch != "mistral4":
        assert scaling["mscale_all_dim"] == pytest.approx(0.707, rel=1e-6)
        assert scaling["mscale"] == pytest.approx(0.707 if arch == "deepseek2" else 1.0, rel=1e-5)
    attention = ropepatch.open(gguf_file(base, keys, label=arch)).frequencies()["default"].attention_scale
    assert attention == pytest.approx(1.0 if arch == "deepseek2" else usual / held, rel=1e-6)
    softmax = {"deepseek2": held**2, "mistral4": usual**2, "mistral3": None}[arch]
    assert group.softmax_scale == (pytest.approx(softmax, rel=1e-6) if softmax else None)


@pytest.mark.parametrize("arch", ["deepseek2", "mistral4", "mistral3"])
@pytest.mark.parametrize("settings", [{}, {"mscale": 1.0, "mscale_all_dim": 0.5}, {"attention_factor": 1.2}])
def test_what_is_written_lifts_to_the_same_magnitudes(gguf_file: Make, arch: str, settings: dict[str, Any]) -> None:
    """In either convention the magnitude on cos and sin is the method's, and no softmax scale is left over."""
    path = gguf_file("deepseek2" if arch != "mistral3" else "llama", label=arch)
    patch = ropepatch.open(path).patch("yarn", 4.0, **settings)
    output = path.with_name("out.gguf")
    patch.write(output)
    group = ropepatch.open(output).profile.groups["default"]
    found = ropepatch.open(output).frequencies()["default"].attention_scale
    assert found == pytest.approx(patch.after.groups["default"].scaling.attention, rel=1e-6)
    everywhere = 0.1 * settings.get("mscale_all_dim", 0.0) * math.log(4) + 1
    softmax = everywhere**2 if everywhere != 1 and arch != "mistral3" else None
    assert group.softmax_scale == (pytest.approx(softmax, rel=1e-6) if softmax else None)


def test_a_multiplier_is_not_known_to_other_architectures(gguf_file: Make) -> None:
    """qwen3 does not read it: it changes nothing, and is listed."""
    keys = {**YARN_KEYS, ".rope.scaling.yarn_log_multiplier": 0.1}
    profile = ropepatch.open(gguf_file("qwen3", keys)).profile
    assert profile.groups["default"].scaling.to_json()["factor"] == 4.0
    assert profile.groups["default"].softmax_scale is None
    assert list(profile.unrecognised) == ["qwen3.rope.scaling.yarn_log_multiplier"]


@pytest.mark.parametrize(("label", "rotates"), [("granitehybrid", False), ("granite", False), ("llama", True)])
def test_granite_turns_its_rotation_off_by_a_key(gguf_file: Make, label: str, rotates: bool) -> None:
    """rope.scaling.finetuned false means no RoPE in Granite's graphs, and nothing at all elsewhere."""
    path = gguf_file(keys={".rope.scaling.finetuned": False}, label=label)
    if rotates:
        assert list(ropepatch.open(path).profile.groups) == ["default"]
        return
    with pytest.raises(NoRope, match="there is nothing to patch"):
        _ = ropepatch.open(path).profile


# Byte order and version -----------------------------------------------------------------------------------------------


def big_endian(path: Path) -> Path:
    """A small llama in the other byte order, made by the gguf library."""
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(64)
    writer.add_head_count(2)
    writer.add_rope_dimension_count(32)
    writer.add_rope_freq_base(10000.0)
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    writer.add_tensor("token_embd.weight", np.arange(96, dtype=np.float32).reshape(3, 32))
    writer.add_tensor("output_norm.weight", np.linspace(1, 2, 7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("method", ["yarn", "mrrope-pro", "ntk"])
def test_big_endian_files_are_patched(method: str, tmp_path: Path) -> None:
    """The gguf library reads the new keys and factors in that byte order, the rest unchanged; revert is exact."""
    path, output = big_endian(tmp_path / "model.gguf"), tmp_path / "out.gguf"
    model = ropepatch.open(path)
    patch = model.patch(method, 4.0)
    patch.write(output)
    reader = gguf.GGUFReader(output)
    assert reader.endianess == gguf.GGUFEndian.BIG
    keys, tensors = engine.keys_of(output), engine.tensors_of(output)
    assert (keys["llama.context_length"], keys["tokenizer.ggml.scores"]) == (4 * CONTEXT, [0.5, -1.0])
    np.testing.assert_array_equal(tensors["token_embd.weight"], np.arange(96, dtype=np.float32).reshape(3, 32))
    np.testing.assert_array_equal(tensors["output_norm.weight"], np.linspace(1, 2, 7, dtype=np.float32))
    inv_freq, magnitude = engine.computed(output)
    wanted = patch.after.groups["default"].scaling.apply(model.profile.groups["default"].spectrum(), None)
    np.testing.assert_allclose(inv_freq, wanted.inv_freq, rtol=1e-6)
    assert magnitude == pytest.approx(wanted.attention_scale, rel=1e-6)
    ropepatch.revert(output, in_place=True)
    assert output.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("method", ["yarn", "mrrope-pro"])
def test_version_2_stays_version_2(gguf_file: Make, method: str) -> None:
    """Its layout is version 3's: patched as such, its number kept, and read back by the gguf library."""
    path = gguf_file()
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(data)
    output = path.with_name("out.gguf")
    patch = ropepatch.open(path).patch(method, 4.0)
    patch.write(output)
    assert ropepatch.open(output).profile.source.layout_version == "gguf-v2"
    assert output.read_bytes()[4:8] == struct.pack("<I", 2)
    inv_freq, _ = engine.computed(output)
    rope = patch.before.groups["default"].spectrum()
    np.testing.assert_allclose(inv_freq, patch.after.groups["default"].scaling.apply(rope, None).inv_freq, rtol=1e-6)


def test_version_1_is_refused(gguf_file: Make) -> None:
    """Its counts have another width; llama.cpp gave it up in 2023."""
    path = gguf_file()
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 1)
    path.write_bytes(data)
    with pytest.raises(InputError, match="version 1 is not supported"):
        _ = ropepatch.open(path).profile
