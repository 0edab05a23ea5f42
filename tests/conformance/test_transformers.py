"""Every method, written into config.json, through transformers' own rotary modules."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import MethodUnsupported
from ropepatch.methods import Spectrum, Target, extend

pytest.importorskip("transformers")

from tests.support import hf_walk

TOLERANCE = 1e-6
FACTOR, TRAINED = 4.0, 4096
NEW = int(FACTOR * TRAINED)
HEAD = {"llama": 128, "qwen2": 64, "qwen3": 128, "mistral": 128, "phi3": 96, "gemma3_text": 256}
THETA = {"llama": 500000.0, "qwen2": 1e6, "qwen3": 1e6, "mistral": 10000.0, "phi3": 10000.0, "gemma3_text": 1e6}
LOCAL = 10000.0

LISTS = {"short_factor": 0.02, "long_factor": 0.5}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "ntk": ("ntk", {}),
    "ntk-critical": ("ntk-critical", {}),
    "dynamic": ("dynamic", {}),
    "ntk-by-parts": ("ntk-by-parts", {}),
    "yarn": ("yarn", {}),
    "yarn beta_fast 16": ("yarn", {"beta_fast": 16}),
    "yarn beta_slow 2": ("yarn", {"beta_slow": 2}),
    "yarn untruncated": ("yarn", {"truncate": False}),
    "yarn attention_factor 1": ("yarn", {"attention_factor": 1.0}),
    "yarn mscale": ("yarn", {"mscale": 0.707, "mscale_all_dim": 1.0}),
    "llama3": ("llama3", {}),
    "longrope": ("longrope", LISTS),
    "mrrope-uni": ("mrrope-uni", {}),
    "mrrope-pro": ("mrrope-pro", {}),
    "yarn+resonance": ("yarn+resonance", {}),
    "theta": ("theta", {"rope_theta": 2e7}),
}


def write_config(folder: Path, model_type: str, layout: str) -> Path:
    """A config.json of the family with real head dimensions; no weights."""
    head = HEAD[model_type]
    config: dict[str, Any] = {
        "model_type": model_type,
        "hidden_size": 8 * head,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "vocab_size": 64,
        "max_position_embeddings": TRAINED,
    }
    if model_type in ("qwen3", "gemma3_text"):
        config["head_dim"] = head
    if model_type == "phi3":
        config |= {"original_max_position_embeddings": TRAINED, "pad_token_id": 0}
    theta = THETA[model_type]
    if model_type == "gemma3_text":
        config |= {"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}
        nested = {"full_attention": theta, "sliding_attention": LOCAL}
        new: Any = {name: {"rope_type": "default", "rope_theta": base} for name, base in nested.items()}
        old = {"rope_theta": theta, "rope_local_base_freq": LOCAL, "rope_scaling": None}
    else:
        new = {"rope_type": "default", "rope_theta": theta}
        old = {"rope_theta": theta, "rope_scaling": None}
    config |= old if layout == "v4" else {"rope_parameters": new}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def module(folder: Path, length: int) -> dict[str, tuple[np.ndarray[Any, Any], float]]:
    """What the rotary modules apply after a forward pass over `length` positions, by group."""
    from transformers import AutoConfig

    return hf_walk.rotary(AutoConfig.from_pretrained(str(folder)), length)


@functools.cache
def plain(model_type: str, length: int) -> dict[str, tuple[np.ndarray[Any, Any], float]]:
    """The modules of the unpatched config."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return module(write_config(Path(name) / "m", model_type, "v4"), length)


def settings_for(name: str, pairs: int) -> dict[str, Any]:
    """The settings of a case; slopes become lists of this many pairs."""
    settings = METHODS[name][1]
    if settings is LISTS:
        return {key: [1 + slope * i for i in range(pairs)] for key, slope in LISTS.items()}
    return dict(settings)


@pytest.mark.parametrize("layout", ["v4", "v5"])
@pytest.mark.parametrize("model_type", list(HEAD))
@pytest.mark.parametrize("name", list(METHODS))
def test_the_modules_compute_the_method(name: str, model_type: str, layout: str, tmp_path: Path) -> None:
    """Short and beyond the trained length, inv_freq and magnitude are the method's to 1e-6, and not the unpatched."""
    method, factor = METHODS[name][0], None if name == "theta" else FACTOR
    pairs = HEAD[model_type] // 2
    settings = settings_for(name, pairs)
    folder = write_config(tmp_path / "m", model_type, layout)
    if (name, model_type) == ("dynamic", "phi3"):
        # Phi3Config takes longrope alone, and a base that follows the length fits no list.
        with pytest.raises(MethodUnsupported, match="phi3 does not take rope_type dynamic"):
            ropepatch.open(folder).patch(method, factor)
        return
    ropepatch.open(folder).patch(method, factor, **settings).write(tmp_path / "out")

    rope = Spectrum.plain(THETA[model_type], HEAD[model_type])
    defined = extend(method, Target(FACTOR, TRAINED, rope), settings)
    group = "full_attention" if model_type == "gemma3_text" else "default"
    for length in (64, NEW):
        wanted = defined.apply(rope, length)
        inv_freq, scale = module(tmp_path / "out", length)[group]
        np.testing.assert_allclose(inv_freq, wanted.inv_freq, rtol=TOLERANCE, atol=0)
        assert scale == pytest.approx(wanted.attention_scale, rel=TOLERANCE)
        if length == NEW or name != "dynamic":
            before, magnitude = plain(model_type, length)[group]
            change = np.max(np.abs(inv_freq / before - 1))
            assert max(change, abs(scale / magnitude - 1)) > 1e-2
        if group == "full_attention":
            sliding, sliding_scale = module(tmp_path / "out", length)["sliding_attention"]
            np.testing.assert_allclose(sliding, Spectrum.plain(LOCAL, 256).inv_freq, rtol=TOLERANCE, atol=0)
            assert sliding_scale == 1.0


@pytest.mark.parametrize("model_type", list(HEAD))
def test_the_unpatched_module_is_plain(model_type: str) -> None:
    """What the comparison starts from is plain RoPE in both layouts."""
    group = "full_attention" if model_type == "gemma3_text" else "default"
    inv_freq, scale = plain(model_type, NEW)[group]
    np.testing.assert_allclose(inv_freq, Spectrum.plain(THETA[model_type], HEAD[model_type]).inv_freq, rtol=TOLERANCE)
    assert scale == 1.0
