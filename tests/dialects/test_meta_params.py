"""Meta's ``params.json`` and its descendants: what the code behind it computes, and what the file can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import InputError, MethodUnsupported
from ropepatch.methods.base import Spectrum
from tests.support import params
from tests.support.params import META, SHAPE

FOURTH = {"moe_args": {"num_experts": 4}, "nope_layer_interval": 4}


def llama3_of(factor: float, high: float = 4.0, original: int = 8192) -> Any:
    """transformers' ``inv_freq`` for Llama 3's scaling at base 500000 and heads of 32."""
    pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama")
    config = llama.LlamaConfig(
        hidden_size=128,
        num_attention_heads=4,
        head_dim=32,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        },
    )
    return params.rotary(config, "llama.modeling_llama", "LlamaRotaryEmbedding")[0]


def inv_freq(folder: Path, group: str = "default") -> Any:
    """What ropepatch reads."""
    return ropepatch.open(folder).frequencies()[group].inv_freq


def test_llama_2_has_the_base_of_its_code(tmp_path: Path) -> None:
    """A file without rope_theta turns at 10000, in adjacent pairs, and does not say its context."""
    profile = ropepatch.open(params.write(tmp_path / "m", SHAPE, {"multiple_of": 256})).profile
    group = profile.groups["default"]
    assert (profile.source.format, group.rope_theta, group.layout) == ("meta", 10000.0, "interleaved")
    assert profile.declared_context is None
    assert any("10000 is taken" in note for note in profile.notes)


@pytest.mark.parametrize(
    ("extra", "factor", "high"),
    [
        ({}, 8.0, 4.0),
        ({"rope_scaling_factor": 20}, 20.0, 4.0),
        ({"rope_scale_factor": 32, "high_freq_factor": 2}, 32.0, 2.0),
        (FOURTH, 16.0, 1.0),
        ({**FOURTH, "rope_scaling_factor": 8.0, "rope_high_freq_factor": 4.0}, 8.0, 4.0),
    ],
    ids=["llama-3.1", "tt-metal", "executorch", "llama-4-implied", "llama-4-written"],
)
def test_scaled_rope_is_llama3(tmp_path: Path, extra: dict[str, Any], factor: float, high: float) -> None:
    """use_scaled_rope means Llama 3's scaling with the numbers of the code, or those that the file has."""
    folder = params.write(tmp_path / "m", META, {"use_scaled_rope": True}, extra)
    if high == 1.0:  # equal low and high factors leave no band to blend in, where transformers divides by zero
        plain = Spectrum.plain(500000.0, 32).inv_freq
        turns = 8192 * plain / (2 * np.pi)
        np.testing.assert_allclose(inv_freq(folder), np.where(turns > 1, plain, plain / factor), rtol=1e-12)
    else:
        np.testing.assert_allclose(inv_freq(folder), llama3_of(factor, high), rtol=1e-6)
    assert ropepatch.open(folder).profile.trained_context == 8192


@pytest.mark.parametrize(("dim", "layers", "factor"), [(2048, 16, 32.0), (3072, 28, 32.0), (4096, 32, 8.0)])
def test_small_models_of_llama_3_2_have_factor_32(tmp_path: Path, dim: int, layers: int, factor: float) -> None:
    """The shapes of Llama 3.2 1B and 3B stand for factor 32, which Meta's own code does not know; a note says so."""
    shape = {"dim": dim, "n_layers": layers, "n_heads": dim // 128, "use_scaled_rope": True}
    profile = ropepatch.open(params.write(tmp_path / "m", META, shape)).profile
    assert profile.groups["default"].scaling.parameters()["factor"] == factor
    assert any("reference code computes 8" in note for note in profile.notes) == (factor == 32.0)


def test_layers_without_rope(tmp_path: Path) -> None:
    """Every n-th layer of a NoPE interval is listed, under Meta's and ExecuTorch's name for it."""
    for key in ("nope_layer_interval", "no_rope_layer_interval"):
        assert ropepatch.open(params.write(tmp_path / key, META, {key: 2})).profile.nope_layers == (1, 3)


def test_local_base_makes_two_groups(tmp_path: Path) -> None:
    """ExecuTorch's Gemma spelling gives full and sliding layers bases of their own, with layers and window."""
    kinds = ["sliding_attention", "full_attention"] * 2
    extra = {"use_hf_rope": True, "local_rope_theta": 1e4, "layer_types": kinds, "sliding_window": 16}
    folder = params.write(tmp_path / "m", META, extra)
    groups = ropepatch.open(folder).profile.groups
    assert (groups["full_attention"].rope_theta, groups["full_attention"].layers) == (500000.0, (1, 3))
    assert (groups["sliding_attention"].rope_theta, groups["sliding_attention"].window) == (1e4, 16)
    assert groups["full_attention"].layout == "half"
    ropepatch.open(folder).patch("theta", rope_theta=2e6).write(tmp_path / "out")
    assert params.read(tmp_path / "out")["rope_theta"] == 2e6
    assert params.read(tmp_path / "out")["local_rope_theta"] == 1e4


def test_layers_that_are_no_attention_are_left_out(tmp_path: Path) -> None:
    """Convolutions among the layer types do not rotate, and types beyond the last layer are not counted."""
    kinds = ["conv", "full_attention", "conv", "full_attention", "conv"]
    profile = ropepatch.open(params.write(tmp_path / "m", META, {"layer_types": kinds, "use_hf_rope": True})).profile
    assert profile.groups["default"].layers == (1, 3)


def test_factor_lists_are_longrope(tmp_path: Path) -> None:
    """ExecuTorch's Phi spelling is LongRoPE over the rotated part, with transformers' magnitude."""
    pytest.importorskip("torch")
    phi3 = pytest.importorskip("transformers.models.phi3")
    short, long = [1.0] * 12, [1.0 + 0.5 * i for i in range(12)]
    extra = {
        "use_hf_rope": True,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096,
        "max_position_embeddings": 131072,
        "rope_scaling_short_factor": short,
        "rope_scaling_long_factor": long,
    }
    folder = params.write(tmp_path / "m", META, extra)
    config = phi3.Phi3Config(
        hidden_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 500000.0,
            "short_factor": short,
            "long_factor": long,
            "partial_rotary_factor": 0.75,
        },
    )
    wanted, scale = params.rotary(config, "phi3.modeling_phi3", "Phi3RotaryEmbedding")
    found = ropepatch.open(folder).frequencies()["default"]
    np.testing.assert_allclose(found.inv_freq, wanted, rtol=1e-6)
    assert found.attention_scale == pytest.approx(scale, rel=1e-6)
    far = ropepatch.open(folder).frequencies(131072)["default"].inv_freq
    np.testing.assert_allclose(found.inv_freq / far, long, rtol=1e-9)


@pytest.mark.parametrize("extra", [{}, {"use_scaled_rope": False}, {"rope_scaling_factor": 8}])
def test_llama3_with_the_codes_own_numbers_is_a_switch(tmp_path: Path, extra: dict[str, Any]) -> None:
    """Llama 3's scaling by 8 of 8192 tokens is written as use_scaled_rope; revert gives the input's bytes back."""
    folder = params.write(tmp_path / "m", META, extra)
    before = (folder / "params.json").read_bytes()
    ropepatch.open(folder).patch("llama3", 8.0, original=8192).write(tmp_path / "out")
    assert params.read(tmp_path / "out")["use_scaled_rope"] is True
    np.testing.assert_allclose(inv_freq(tmp_path / "out"), llama3_of(8.0), rtol=1e-6)
    restored = ropepatch.revert(tmp_path / "out", output=tmp_path / "back")
    assert (restored / "params.json").read_bytes() == before


def test_a_factor_that_the_file_has_a_key_for_is_written(tmp_path: Path) -> None:
    """Where the reader takes the factor from the file, any factor can be written."""
    folder = params.write(tmp_path / "m", META, {"use_scaled_rope": True, "rope_scaling_factor": 20.0})
    ropepatch.open(folder).patch("llama3", 4.0, existing="replace").write(tmp_path / "out")
    assert params.read(tmp_path / "out")["rope_scaling_factor"] == 4.0
    np.testing.assert_allclose(inv_freq(tmp_path / "out"), llama3_of(4.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "factor", "original", "message"),
    [
        ("llama3", 4.0, 8192, "stands for factor 8 and nothing else"),
        ("llama3", 8.0, 4096, "original_max_position_embeddings 8192"),
        ("yarn", 4.0, 8192, "has no key for yarn; it can hold ntk"),
        ("linear", 4.0, 8192, "has no key for linear"),
        ("dynamic", 4.0, 8192, "has no key for dynamic"),
    ],
)
def test_what_the_code_has_no_place_for_is_refused(
    tmp_path: Path, method: str, factor: float, original: int, message: str
) -> None:
    """Numbers that stand in Meta's code cannot be asked for otherwise, and other methods not at all."""
    model = ropepatch.open(params.write(tmp_path / "m", META))
    with pytest.raises(MethodUnsupported, match=message):
        model.patch(method, factor, original=original)


def test_base_methods_switch_the_scaling_off(tmp_path: Path) -> None:
    """An NTK-aware base is written as rope_theta, and the scaling that was on goes."""
    folder = params.write(tmp_path / "m", META, {"use_scaled_rope": True, "max_seq_len": 131072})
    ropepatch.open(folder).patch("ntk", 4.0, existing="replace").write(tmp_path / "out")
    written = params.read(tmp_path / "out")
    assert written["use_scaled_rope"] is False
    assert written["max_seq_len"] == 32768
    assert written["rope_theta"] == pytest.approx(500000.0 * 4 ** (32 / 30))
    np.testing.assert_allclose(inv_freq(tmp_path / "out"), Spectrum.plain(written["rope_theta"], 32).inv_freq)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_scaled_rope": 1}, "use_scaled_rope: is 1, not true or false"),
        ({"use_scaled_rope": True, "rope_scaling_factor": 0.5}, "factor must be at least 1"),
        ({"use_scaled_rope": True, "rope_high_freq_factor": 0.5}, "low_freq_factor <= high_freq_factor"),
        ({"rope_scaling_long_factor": [1.0]}, "needs original_max_position_embeddings"),
        (
            {"rope_scaling_long_factor": [1.0], "original_max_position_embeddings": 1},
            "rope_scaling_short_factor: must be a list",
        ),
        ({"rope_theta": True}, "rope_theta: is True, not a usable number"),
        ({"dim": 10**12, "head_dim": None}, "dim: is 1000000000000, not a usable number"),
        ({"n_layers": 10**9, "nope_layer_interval": 4}, "n_layers: is 1000000000"),
    ],
)
def test_broken_values_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A value that cannot be is named with its key in one line."""
    with pytest.raises(InputError) as caught:
        _ = ropepatch.open(params.write(tmp_path / "m", META, change)).profile
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "theta", "width", "scaling"),
    [
        ("executorch__LFM2-1.2B.params.json", 1e6, 64, "none"),
        ("executorch__Phi-4-mini.params.json", 1e4, 96, "longrope"),
        ("executorch__SmolLM3-3B.params.json", 5e6, 128, "none"),
        ("executorch__gemma-3-1b.params.json", 1e6, 256, "none"),
        ("executorch__granite-2b.params.json", 1e7, 64, "none"),
        ("executorch__llama-3.2-vision-decoder.params.json", 5e5, 128, "llama3"),
        ("meta-llama__Llama-2-7b.params.json", 1e4, 128, "none"),
        ("meta-llama__Meta-Llama-3-8B-Instruct.params.json", 5e5, 128, "none"),
        ("tt-metal__AFM-4.5B.params.json", 1e4, 128, "llama3"),
    ],
)
def test_published_files(name: str, theta: float, width: int, scaling: str) -> None:
    """The published texts are read as the code that ships them reads them."""
    profile = ropepatch.open(params.corpus(name)).profile
    group = profile.groups.get("full_attention") or profile.groups["default"]
    assert (profile.source.format, group.rope_theta, group.rotary_dim) == ("meta", theta, width)
    assert group.scaling.name == scaling


@pytest.mark.corpus
def test_error_page_is_refused() -> None:
    """An HTML page that was saved as params.json is refused as what it is: no JSON."""
    with pytest.raises(InputError, match=r"is not JSON: .* at line 1 column 1"):
        ropepatch.open(params.corpus("broken__Meta-Llama-3-8B-error-page.params.json"))
