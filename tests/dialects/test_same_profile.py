"""A config and the GGUF that llama.cpp's converter makes of it are the same model, and diff says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch.diffing import Diff
from tests.support.command import inside as run
from tests.support.convert import convert

SIZE = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 8, "head_dim": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
DEEPSEEK = {**YARN, "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
LISTS = {"short_factor": [1 + 0.01 * i for i in range(32)], "long_factor": [1 + 0.9 * i for i in range(32)]}
LATENT = {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "kv_lora_rank": 512, "q_lora_rank": 1536}
SLIDING = ["sliding_attention"] * 3 + ["full_attention"]
GPT_OSS = {**YARN, "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0}


def model(kind: str, context: int, theta: float | None, **more: Any) -> dict[str, Any]:
    """A config with this model type."""
    base = {} if theta is None else {"rope_theta": theta}
    return {"model_type": kind, **SIZE, "max_position_embeddings": context, **base, **more}


MODELS: dict[str, dict[str, Any]] = {
    "llama": model("llama", 4096, 10000.0),
    "llama with linear scaling": model("llama", 16384, 10000.0, rope_scaling={"type": "linear", "factor": 4.0}),
    "llama with llama3 scaling": model("llama", 131072, 500000.0, rope_scaling=LLAMA3),
    "llama, transformers 5": {
        **model("llama", 131072, None),
        "rope_parameters": {**LLAMA3, "rope_theta": 500000.0},
    },
    "qwen2 with yarn": model("qwen2", 131072, 1e6, rope_scaling=YARN),
    "qwen3": model("qwen3", 40960, 1e6),
    "mistral": model("mistral", 32768, 1e6, sliding_window=4096),
    "phi3": model("phi3", 4096, 10000.0, original_max_position_embeddings=4096, rope_scaling=None),
    "phi3 with longrope": model(
        "phi3", 131072, 10000.0, original_max_position_embeddings=4096, rope_scaling={"type": "longrope", **LISTS}
    ),
    "gemma3": model("gemma3_text", 32768, 1e6, rope_local_base_freq=10000.0, sliding_window=1024),
    "gemma3 with linear scaling": model(
        "gemma3_text",
        131072,
        1e6,
        rope_local_base_freq=10000.0,
        sliding_window=1024,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "gpt-oss with truncation": model(
        "gpt_oss", 131072, 150000.0, sliding_window=128, rope_scaling={**GPT_OSS, "truncate": True}
    ),
    "deepseek": model("deepseek_v3", 4096, 10000.0, **LATENT),
    "deepseek with yarn": model(
        "deepseek_v3", 163840, 10000.0, **LATENT, rope_scaling={**DEEPSEEK, "mscale": 1.0, "mscale_all_dim": 1.0}
    ),
    "deepseek lite with yarn": model(
        "deepseek_v3", 163840, 10000.0, **LATENT, rope_scaling={**DEEPSEEK, "mscale": 0.707, "mscale_all_dim": 0.707}
    ),
    "olmo2": model("olmo2", 4096, 500000.0),
    "olmo3": model("olmo3", 8192, 500000.0, sliding_window=4096, layer_types=SLIDING * 2),
    "olmo3 with yarn": model(
        "olmo3",
        65536,
        500000.0,
        sliding_window=4096,
        layer_types=SLIDING * 2,
        rope_scaling={**YARN, "factor": 8.0, "original_max_position_embeddings": 8192},
    ),
    "cohere2": model("cohere2", 8192, 50000.0, sliding_window=4096, layer_types=SLIDING * 2),
    "exaone4": model(
        "exaone4",
        131072,
        1e6,
        num_hidden_layers=64,
        sliding_window=4096,
        layer_types=SLIDING * 16,
        rope_scaling={**LLAMA3, "factor": 16.0},
    ),
    "starcoder2": model("starcoder2", 16384, 999999.4420358813, sliding_window=4096, head_dim=None),
    "stablelm": model("stablelm", 4096, 10000, partial_rotary_factor=0.25, head_dim=None),
    "glm4": model("glm4", 32768, 10000.0, partial_rotary_factor=0.5),
    "qwen2vl": model(
        "qwen2_vl", 32768, 1e6, head_dim=None, rope_scaling={"type": "mrope", "mrope_section": [8, 12, 12]}
    ),
    "granite": model("granite", 131072, 10000000.0),
    "smollm3": model("smollm3", 65536, 5000000.0),
}


def both(config: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """The config in a folder of its own, and the GGUF that is made of it."""
    written = {name: value for name, value in config.items() if value is not None or name == "rope_scaling"}
    (folder / "hf").mkdir()
    (folder / "hf" / "config.json").write_text(json.dumps(written, indent=2))
    return folder / "hf", convert(config, folder / "model.gguf")


def different(result: Diff) -> dict[str, tuple[Any, Any]]:
    """Settings that differ in more than how a format spells them."""
    spelled = ("layout", "layers", "factors")  # a list that is there has been recognised as the method that made it
    return {
        f"{group.name}.{item.name}": (item.a, item.b)
        for group in result.groups
        for item in group.settings
        if not item.same and item.name not in spelled
    }


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_and_its_conversion_are_the_same(name: str, tmp_path: Path) -> None:
    """Groups, contexts, bases, widths, windows, scaling, sections and frequencies raise to the same profile."""
    folder, file = both(MODELS[name], tmp_path)
    result = ropepatch.diff(folder, file)
    assert result.sentence().startswith(("No difference", "The frequencies are the same; only the spelling differs"))
    assert (result.equivalent, result.same_contexts) == (True, True)
    one, two = ropepatch.open(folder).profile, ropepatch.open(file).profile
    assert list(one.groups) == list(two.groups)
    assert (one.trained_context, one.declared_context) == (two.trained_context, two.declared_context)
    assert different(result) == {}


#: what the converter or the engine cannot carry over, and what is left of it
LOST: dict[str, tuple[dict[str, Any], str]] = {
    "gpt-oss without truncation": (
        model("gpt_oss", 131072, 150000.0, sliding_window=128, rope_scaling={**GPT_OSS, "truncate": False}),
        "inv_freq",
    ),
    "an attention factor of its own": (
        model("qwen2", 131072, 1e6, rope_scaling={**YARN, "attention_factor": 1.0}),
        "attention_scale",
    ),
    "betas": (model("qwen2", 131072, 1e6, rope_scaling={**YARN, "beta_fast": 16}), "inv_freq"),
    "llama3 on an architecture without factors": (model("qwen2", 131072, 1e6, rope_scaling=LLAMA3), "inv_freq"),
    "deepseek without mscale": (model("deepseek_v3", 163840, 10000.0, **LATENT, rope_scaling=DEEPSEEK), "softmax"),
}


@pytest.mark.parametrize("name", list(LOST))
def test_what_a_conversion_loses_is_told(name: str, tmp_path: Path) -> None:
    """Where the GGUF is another model, diff says in which respect and exits with 1."""
    config, respect = LOST[name]
    folder, file = both(config, tmp_path)
    ended = run("diff", folder, file, "--json")
    assert (ended.code, ended.document["equivalent"]) == (1, False)
    group = ended.document["groups"][0]
    long = group["frequencies"][-1]
    settings = {item["name"] for item in group["settings"] if not item["same"]}
    found = {
        "inv_freq": long["differing"] > 0,
        "attention_scale": long["attention_scale"][0] != pytest.approx(long["attention_scale"][1], rel=1e-6),
        "softmax": "softmax_scale" in settings,
    }
    assert next(kind for kind, differs in found.items() if differs) == respect


def test_the_command_finds_nothing(tmp_path: Path) -> None:
    """Exit 0 for a config against its conversion, and a sentence that says so."""
    folder, file = both(MODELS["deepseek with yarn"], tmp_path)
    ended = run("diff", folder, file)
    assert ended.code == 0, ended.out
    assert "The frequencies are the same" in ended.out or "No difference" in ended.out


@pytest.mark.parametrize("name", ["cohere2", "exaone4"])
def test_layers_without_rope_are_seen_in_both(name: str, tmp_path: Path) -> None:
    """Where only sliding layers rotate, both formats say so, and both refuse a patch for it."""
    for path in both(MODELS[name], tmp_path):
        profile = ropepatch.open(path).profile
        assert profile.groups["default"].window == 4096
        ended = run("apply", "--method", "ntk", "--factor", 2, "--existing", "replace", path)
        assert (ended.code, "rotate within a sliding window of 4096 tokens" in ended.err) == (3, True)
