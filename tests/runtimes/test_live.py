"""Predictions against the engines that are installed: transformers always, mlx-lm where it is."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import pkgutil
from typing import Any

import numpy as np
import pytest

from ropepatch import runtimes
from ropepatch.errors import InputError, RuntimeRejects
from tests.support import hf_walk
from tests.support.rotation import check

LENGTH = 3000
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SPELLINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 2048},
    "yarn": {"rope_scaling": YARN},
    "llama3-no-original": {"rope_scaling": LLAMA3, "max_position_embeddings": 4096},
    "flat-v5": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 123456.0}},
    "both-layouts": {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {**YARN, "rope_theta": 5e5}},
    "inner-theta": {"rope_theta": 2e4, "rope_scaling": {**YARN, "rope_theta": 5e5}},
    "unknown": {"rope_scaling": {"rope_type": "ntk", "factor": 4.0}},
}
#: one of each way that transformers 5 treats a dict
ARCHITECTURES = (
    "llama", "qwen3", "gemma3_text", "gemma4_text", "olmo3", "gpt_oss", "deepseek_v3", "glm4", "gpt_neox",
    "phi", "phi3", "nemotron", "cohere2_moe", "llama4_text", "mimo_v2_flash", "recurrent_gemma", "modernbert-decoder",
)  # fmt: skip


def live(model_type: str, arguments: dict[str, Any], length: int | None) -> dict[str, tuple[np.ndarray, float]] | None:
    """What the installed transformers computes; None where it refuses."""
    try:
        return hf_walk.rotary(hf_walk.default_config(model_type, **copy.deepcopy(arguments)), length)
    except (hf_walk.Unbuildable, KeyError):
        return None


@pytest.mark.skipif(hf_walk.line() != "5", reason="the newest line of transformers is compared")
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_installed_transformers(model_type: str, spelling: str) -> None:
    """The installed transformers refuses and computes what is predicted, before and beyond the original context."""
    arguments = SPELLINGS[spelling]
    release = f"transformers@{hf_walk.transformers.__version__}"
    config = {"model_type": model_type, **arguments}
    for length in (None, LENGTH):
        computed = live(model_type, arguments, length)
        if computed is None:
            with pytest.raises(RuntimeRejects):
                runtimes.predict(release, None, config, length)
            continue
        predicted = runtimes.predict(release, None, config, length)
        assert set(predicted) == set(computed)
        for group, (inv_freq, scale) in computed.items():
            check(predicted[group], inv_freq, scale, group)


@pytest.mark.skipif(hf_walk.line() != "5", reason="the newest line of transformers is compared")
def test_truncate_in_a_nested_dict_is_not_read() -> None:
    """transformers 5 rounds the ramp of a layer type's dict although the dict says truncate false."""
    nested = {
        "full_attention": {**YARN, "rope_theta": 5e5, "truncate": False},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    computed = live("olmo3", {"rope_parameters": nested}, LENGTH)
    predicted = runtimes.predict("transformers", None, {"model_type": "olmo3", "rope_parameters": nested}, LENGTH)
    assert computed is not None
    np.testing.assert_allclose(predicted["full_attention"].inv_freq, computed["full_attention"][0], rtol=1e-6)
    assert "rope_parameters.full_attention.truncate" in predicted["full_attention"].ignored


MLX_CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "yarn-betas": {"rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.707}},
    "yarn-no-original": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0}},
    "llama3-no-original": {"rope_scaling": LLAMA3},
    "type-wins": {"rope_scaling": {**YARN, "type": "linear"}},
    "unknown": {"rope_scaling": {"rope_type": "ntk", "factor": 4.0}},
    "null-beta": {"rope_scaling": {**YARN, "beta_fast": None}},
}


@pytest.mark.parametrize("case", MLX_CASES)
def test_installed_mlx_lm(case: str) -> None:
    """mlx-lm's Llama rotates a unit vector by the predicted angle and magnitude, or refuses as predicted."""
    pytest.importorskip("mlx.core", reason="mlx is not installed, or does not load here", exc_type=ImportError)
    pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")
    import mlx.core as mx
    from mlx_lm.models import llama

    config = {
        "model_type": "llama", "hidden_size": 512, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 32,
        "intermediate_size": 16, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, **MLX_CASES[case],
    }  # fmt: skip
    try:
        rope = llama.Attention(llama.ModelArgs.from_dict(config)).rope
    except (ValueError, TypeError, KeyError):
        with pytest.raises(RuntimeRejects):
            runtimes.predict("mlx-lm", None, config)
        return
    offset = 9000
    predicted = runtimes.predict("mlx-lm", None, config, offset + 1)["default"]
    ones = np.zeros((1, 1, 1, 128), dtype=np.float32)
    ones[..., :64] = 1.0
    turned = np.asarray(rope(mx.array(ones), offset=offset))[0, 0, 0].astype(np.float64)
    scale = np.hypot(turned[:64], turned[64:])
    np.testing.assert_allclose(scale, predicted.attention_scale, rtol=1e-5)
    angle = np.arctan2(turned[64:], turned[:64])
    # float32 positions times float32 frequencies: the angle of a fast pair is known to about 1e-3
    error = np.angle(np.exp(1j * (angle - offset * predicted.inv_freq)))
    np.testing.assert_allclose(error, 0, atol=4e-3)


def mlx_lm_bases() -> dict[str, float | None]:
    """The default base of every model file of mlx-lm that has one; None where a config has to say it."""
    pytest.importorskip("mlx.core", reason="mlx is not installed, or does not load here", exc_type=ImportError)
    models = pytest.importorskip("mlx_lm.models", reason="mlx-lm is not installed")
    found: dict[str, float | None] = {}
    for module in pkgutil.iter_modules(models.__path__):
        # One ends the process where a package of its own is not installed, the other takes no config without a list.
        if module.name in ("olmo", "minicpm3"):
            continue
        arguments = getattr(importlib.import_module(f"mlx_lm.models.{module.name}"), "ModelArgs", None)
        for field in dataclasses.fields(arguments) if dataclasses.is_dataclass(arguments) else ():
            if field.name == "rope_theta" and (field.default is dataclasses.MISSING or field.default is not None):
                found[module.name] = None if field.default is dataclasses.MISSING else float(field.default)
    return found


def test_default_bases_of_mlx_lm() -> None:
    """A config without a base gets that of mlx-lm's model file, or is refused where the file has none."""
    sizes = {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 128, "num_hidden_layers": 4}
    bases, wrong = mlx_lm_bases(), {}
    for model_type, base in bases.items():
        config = {"model_type": model_type, "max_position_embeddings": 4096, **sizes}
        try:
            predicted = runtimes.predict("mlx-lm", None, config)
        except (RuntimeRejects, InputError) as error:
            if base is not None or "needs a top-level rope_theta" not in str(error):
                wrong[model_type] = (base, str(error))
            continue
        found = (predicted.get("full_attention") or predicted["default"]).inv_freq
        have = found[1] ** -found.size
        if base is None or not math.isclose(have, base, rel_tol=1e-5):
            wrong[model_type] = (base, f"{have:g}")
    assert len(bases) > 80
    assert wrong == {}
