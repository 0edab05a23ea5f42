"""Mistral's ``params.json``: what its readers compute, and edits that make them compute a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import AlreadyScaled, CheckFailed, InputError, MethodUnsupported, UsageError
from ropepatch.methods.base import Spectrum, yarn_attention
from tests.support import params
from tests.support.params import MISTRAL, SHAPE

YARN = {
    "original_max_position_embeddings": 4096,
    "factor": 16,
    "apply_scale": False,
    "beta": 32,
    "alpha": 1,
}
LARGE = {
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "kv_lora_rank": 8,
    "moe": {"num_experts": 4, "num_shared_experts": 1},
    "llama_4_scaling": {"original_max_position_embeddings": 8192, "beta": 0.1},
}


def transformers_of(yarn: dict[str, Any], theta: float = 1e6) -> tuple[Any, float]:
    """What transformers computes for the config that its own Ministral 3 converter makes of a ``yarn`` object."""
    pytest.importorskip("torch")
    ministral = pytest.importorskip("transformers.models.ministral3")
    config = ministral.Ministral3Config(
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=65536,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": float(yarn["factor"]),
            "original_max_position_embeddings": yarn["original_max_position_embeddings"],
            "beta_fast": float(yarn["beta"]),
            "beta_slow": float(yarn["alpha"]),
            **({} if yarn["apply_scale"] else {"mscale": 1.0, "mscale_all_dim": 1.0}),
        },
    )
    return params.rotary(config, "ministral3.modeling_ministral3", "Ministral3RotaryEmbedding")


def test_plain_file_is_read(tmp_path: Path) -> None:
    """Base, head, context and the pair layout of Mistral's own weights come out of a plain file."""
    profile = ropepatch.open(params.write(tmp_path / "m", MISTRAL)).profile
    group = profile.groups["default"]
    assert profile.source.format == "mistral"
    assert (group.rope_theta, group.rotary_dim, group.head_dim, group.layout) == (1e6, 32, 32, "interleaved")
    assert (profile.trained_context, profile.declared_context) == (4096, 4096)


@pytest.mark.parametrize("apply_scale", [False, True])
def test_yarn_is_what_transformers_makes_of_it(tmp_path: Path, apply_scale: bool) -> None:
    """The yarn object means the frequencies and the magnitude that transformers gives the converted config."""
    yarn = {**YARN, "apply_scale": apply_scale, "beta": 24, "alpha": 2}
    folder = params.write(tmp_path / "m", MISTRAL, {"yarn": yarn, "max_position_embeddings": 65536})
    found = ropepatch.open(folder).frequencies()["default"]
    inv_freq, scale = transformers_of(yarn)
    np.testing.assert_allclose(found.inv_freq, inv_freq, rtol=1e-6)
    assert found.attention_scale == pytest.approx(scale, rel=1e-6)
    assert scale == pytest.approx(yarn_attention(16) if apply_scale else 1.0)


def test_sliding_window_decides_a_missing_base(tmp_path: Path) -> None:
    """Without rope_theta the base is 1e6, or 1e4 with the window of the first Mistral 7B, and a note says so."""
    with_window = ropepatch.open(params.write(tmp_path / "a", MISTRAL, {"rope_theta": None, "sliding_window": 64}))
    without = ropepatch.open(params.write(tmp_path / "b", MISTRAL, {"rope_theta": None}))
    assert with_window.profile.groups["default"].rope_theta == 1e4
    assert with_window.profile.groups["default"].window == 64
    assert without.profile.groups["default"].rope_theta == 1e6
    assert any("rope_theta is not written" in note for note in without.profile.notes)


def test_latent_attention_turns_a_part_and_sharpens_the_softmax(tmp_path: Path) -> None:
    """With qk_rope_head_dim the magnitude goes to the softmax scale, and llama_4_scaling is the query temperature."""
    folder = params.write(tmp_path / "m", MISTRAL, LARGE, {"yarn": {**YARN, "apply_scale": True}}, {"head_dim": None})
    group = ropepatch.open(folder).profile.groups["default"]
    assert group.rotary_dim == 16
    assert ropepatch.open(folder).frequencies()["default"].attention_scale == 1.0
    assert group.softmax_scale == pytest.approx(yarn_attention(16) ** 2)
    assert group.query_temperature == {"scale": 0.1, "length": 8192.0}


def test_patch_writes_yarn_in_mistrals_words_and_reverts(tmp_path: Path) -> None:
    """YaRN is written as the yarn object, nothing but rope keys changes, and revert gives the input's bytes back."""
    folder = params.write(tmp_path / "m", MISTRAL)
    before = (folder / "params.json").read_bytes()
    patch = ropepatch.open(folder).patch("yarn", 4.0, beta_fast=16)
    patch.write(tmp_path / "out")
    written = params.read(tmp_path / "out")
    expected = {"original_max_position_embeddings": 4096, "factor": 4, "apply_scale": True, "beta": 16, "alpha": 1}
    assert written.pop("yarn") == expected
    assert written.pop("max_position_embeddings") == 16384
    assert written == {key: value for key, value in MISTRAL.items() if key != "max_position_embeddings"}
    found = ropepatch.open(tmp_path / "out").frequencies()["default"]
    inv_freq, scale = transformers_of(expected)
    np.testing.assert_allclose(found.inv_freq, inv_freq, rtol=1e-6)
    assert found.attention_scale == pytest.approx(scale, rel=1e-6)
    restored = ropepatch.revert(tmp_path / "out", output=tmp_path / "back")
    assert (restored / "params.json").read_bytes() == before


def test_patch_of_the_named_file_writes_its_folder(tmp_path: Path) -> None:
    """A ref to the file itself, beside a config.json, patches and verifies that file and leaves the config alone."""
    folder = params.write(tmp_path / "m", MISTRAL)
    hf = {"model_type": "mistral", "hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 4096}
    params.write(folder, hf, name="config.json")
    ropepatch.open(folder / "params.json").patch("ntk", 2.0).write(tmp_path / "out")
    assert params.read(tmp_path / "out")["rope_theta"] > 2e6
    assert params.read(tmp_path / "out", "config.json") == hf
    assert any("params.json stays as it is" in note for note in ropepatch.open(folder).patch("ntk", 2.0).notes)


@pytest.mark.parametrize(("method", "settings"), [("ntk", {"factor": 4.0}), ("theta", {"rope_theta": 5e6})])
def test_base_methods_become_rope_theta(tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    """A method that is a base alone is written as rope_theta, and the plain rotation at it is what stands there."""
    model = ropepatch.open(params.write(tmp_path / "m", MISTRAL))
    patch = model.patch(method, **settings)
    patch.write(tmp_path / "out")
    written = params.read(tmp_path / "out")["rope_theta"]
    wanted = Spectrum.plain(written, 32).inv_freq
    np.testing.assert_allclose(ropepatch.open(tmp_path / "out").frequencies()["default"].inv_freq, wanted, rtol=1e-12)
    assert written == pytest.approx(5e6 if method == "theta" else 1e6 * 4 ** (32 / 30))


def test_scaled_file_is_replaced_from_its_original_context(tmp_path: Path) -> None:
    """An already scaled file is refused; with replace it starts from the original context, and none takes yarn out."""
    folder = params.write(tmp_path / "m", MISTRAL, {"yarn": YARN, "max_position_embeddings": 65536})
    model = ropepatch.open(folder)
    with pytest.raises(AlreadyScaled):
        model.patch("yarn", 4.0)
    model.patch("yarn", 4.0, existing="replace").write(tmp_path / "four")
    assert params.read(tmp_path / "four")["yarn"]["factor"] == 4
    assert params.read(tmp_path / "four")["max_position_embeddings"] == 16384
    model.patch("none", existing="replace").write(tmp_path / "plain")
    assert "yarn" not in params.read(tmp_path / "plain")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("linear", {}, "has no key for linear; it can hold yarn"),
        ("dynamic", {}, "has no key for dynamic"),
        ("llama3", {}, "has no key for llama3"),
        ("yarn", {"attention_factor": 1.1}, "cannot hold an attention factor of 1.1"),
        ("yarn", {"truncate": False}, "cannot say truncate=false"),
        ("yarn", {"bake": True}, "no per-pair factors"),
    ],
)
def test_what_cannot_be_held_is_refused(tmp_path: Path, method: str, options: dict[str, Any], message: str) -> None:
    """A method or parameter without a key is refused with what the file can hold."""
    model = ropepatch.open(params.write(tmp_path / "m", MISTRAL))
    with pytest.raises(MethodUnsupported, match=message):
        model.patch(method, 4.0, **options)


def test_magnitude_of_one_is_apply_scale_false(tmp_path: Path) -> None:
    """attention_factor=1 is what apply_scale=false says, also where latent attention leaves no other choice."""
    for name, extra in (("plain", {}), ("latent", {**LARGE, "head_dim": None})):
        folder = params.write(tmp_path / name, MISTRAL, extra)
        ropepatch.open(folder).patch("yarn", 4.0, attention_factor=1.0).write(tmp_path / f"{name}-out")
        assert params.read(tmp_path / f"{name}-out")["yarn"]["apply_scale"] is False
    with pytest.raises(MethodUnsupported, match=r"attention factor of 1\.13863"):
        ropepatch.open(tmp_path / "latent").patch("yarn", 4.0)


def test_context_that_is_not_written_is_asked_for(tmp_path: Path) -> None:
    """A file without a context is read with a note, and a method that needs one asks for --original-length."""
    model = ropepatch.open(params.write(tmp_path / "m", MISTRAL, {"max_position_embeddings": None}))
    assert model.profile.declared_context is None
    with pytest.raises(UsageError, match="--original-length"):
        model.patch("yarn", 4.0)
    model.patch("yarn", 4.0, original=8192).write(tmp_path / "out")
    assert params.read(tmp_path / "out")["max_position_embeddings"] == 32768


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yarn": 4}, "yarn: is 4, not an object"),
        ({"yarn": {"original_max_position_embeddings": 4096}}, "yarn: needs factor"),
        ({"yarn": {**YARN, "factor": 0.5}}, "factor must be at least 1"),
        ({"yarn": {**YARN, "apply_scale": "no"}}, "apply_scale: is 'no', not true or false"),
        ({"yarn": {**YARN, "original_max_position_embeddings": 9999}}, "larger than the declared one 4096"),
        ({"rope_theta": -1}, "rope_theta: is -1, not a usable number"),
        ({"head_dim": 31}, "says neither head_dim nor dim and n_heads"),
        ({"max_position_embeddings": 4096.5}, "not a whole number"),
        ({"llama_4_scaling": {"beta": 0.1}}, "llama_4_scaling: needs original_max_position_embeddings"),
        ({"llama_4_scaling": {"beta": "x", "original_max_position_embeddings": 1}}, "llama_4_scaling.beta: is 'x'"),
    ],
)
def test_broken_values_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A value that cannot be is named with its key in one line."""
    with pytest.raises(InputError) as caught:
        _ = ropepatch.open(params.write(tmp_path / "m", MISTRAL, change)).profile
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_odd_windows_do_not_break_reading(tmp_path: Path) -> None:
    """Windows by layer and a window written as text are read; neither changes the rotation."""
    listed = ropepatch.open(params.write(tmp_path / "a", MISTRAL, {"sliding_window": [None, 64, [1]]})).profile
    text = ropepatch.open(params.write(tmp_path / "b", MISTRAL, {"sliding_window": "64"})).profile
    assert listed.groups["default"].window is None
    assert any("windows of" in note for note in listed.notes)
    assert text.groups["default"].window == 64


def test_output_that_another_hand_changed_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after writing compares frequencies: a wrong spelling of beta does not survive it."""
    from ropepatch.dialects import mistral_params

    monkeypatch.setitem(mistral_params._YARN_KEYS, "alpha", "beta_fast")
    monkeypatch.setitem(mistral_params._YARN_KEYS, "beta", "beta_slow")
    with pytest.raises((CheckFailed, InputError)):
        ropepatch.open(params.write(tmp_path / "m", MISTRAL)).patch("yarn", 4.0).write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.corpus
def test_published_file() -> None:
    """The published text of Mistral 7B v0.3 is read: base 1e6, heads of 128, no context of its own."""
    profile = ropepatch.open(params.corpus("mistralai__Mistral-7B-v0.3.params.json")).profile
    group = profile.groups["default"]
    assert (profile.source.format, group.rope_theta, group.rotary_dim) == ("mistral", 1e6, 128)
    assert profile.declared_context is None


def test_shape_alone_is_enough_for_the_head(tmp_path: Path) -> None:
    """Without head_dim the head is dim / n_heads."""
    folder = params.write(tmp_path / "m", SHAPE, {"hidden_dim": 8, "rope_theta": 1e4})
    assert ropepatch.open(folder).profile.groups["default"].head_dim == 32
