"""A config.json as the GGUF metadata that llama.cpp's converter makes of it: the RoPE part, and no weights.

Written from what the converter does for each class (its `conversion` package of 2026), not with it. What it drops
(`truncate`, `attention_factor`, the scaling of classes that never call the common code) is dropped here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Config = Mapping[str, Any]
Keys = dict[str, Any]
FREQS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


def _rope(config: Config) -> dict[str, Any]:
    """The rope dict, of either layout, flat: of several by layer type that of full attention."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope = {**rope, **rope.pop("full_attention", {})}
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta"))
    return rope


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def common(config: Config) -> Keys:
    """What the common class writes."""
    rope = _rope(config)
    keys = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "attention.key_length": config.get("head_dim"),
        "rope.freq_base": rope["rope_theta"],
    }
    kind, factor = rope["rope_type"], rope.get("factor")
    if kind in ("linear", "yarn") and factor:
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(factor)}
    if kind == "yarn":
        keys |= {"rope.scaling.original_context_length": rope["original_max_position_embeddings"]}
        for name in ("beta_fast", "beta_slow"):
            keys[f"rope.scaling.yarn_{name}"] = rope.get(name)
    if kind == "longrope":
        keys["rope.scaling.type"] = kind
    if sections := rope.get("mrope_section"):
        keys["rope.dimension_sections"] = [*sections, 0, 0, 0][:4]
    return keys


def llama(config: Config) -> Keys:
    """Llama and its children: the common keys and the head's width."""
    return common(config) | {"rope.dimension_count": _head_dim(config)}


def llama3_factors(config: Config) -> dict[str, np.ndarray[Any, Any]]:
    """The tensor that carries Llama 3's scaling, in float32 as the converter computes it."""
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return {}
    dim, original = _head_dim(config), rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    made = []
    for index in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / dim)
        if wavelength < original / high:
            made.append(1.0)
        elif wavelength > original / low:
            made.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            made.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {FREQS: np.array(made, np.float32)}


def phi3(config: Config) -> Keys:
    """Phi-3 does not call the common code: no scaling type; LongRoPE's magnitude is computed."""
    rope, original = _rope(config), config["original_max_position_embeddings"]
    stretch = config["max_position_embeddings"] / original
    keys = {name: value for name, value in common(config).items() if "scaling" not in name}
    keys |= {"rope.dimension_count": _head_dim(config), "rope.scaling.original_context_length": original}
    if rope["rope_type"] == "longrope" and stretch > 1:
        keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretch) / math.log(original))
    return keys


def phi3_factors(config: Config) -> dict[str, np.ndarray[Any, Any]]:
    """LongRoPE's two lists."""
    rope = _rope(config)
    names = {LONG: "long_factor", SHORT: "short_factor"}
    return {name: np.array(rope[key], np.float32) for name, key in names.items() if key in rope}


def windowed(config: Config) -> Keys:
    """The common keys, the window and the layers that slide."""
    keys = common(config) | {"attention.sliding_window": config.get("sliding_window")}
    if types := config.get("layer_types"):
        keys["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in types]
    return keys


def gemma3(config: Config) -> Keys:
    """Gemma 3: the sliding layers' base beside the common keys; that every sixth layer is full is not written."""
    local = config.get("rope_local_base_freq") or config["rope_parameters"]["sliding_attention"]["rope_theta"]
    return common(config) | {"attention.sliding_window": config["sliding_window"], "rope.freq_base_swa": local}


def gpt_oss(config: Config) -> Keys:
    """gpt-oss: the window; which layers slide is not written."""
    return common(config) | {"attention.sliding_window": config["sliding_window"]}


def cohere2(config: Config) -> Keys:
    """Cohere 2: the window, the width, and no scaling."""
    return gpt_oss(config) | {"rope.dimension_count": _head_dim(config), "rope.scaling.type": "none"}


def deepseek2(config: Config) -> Keys:
    """DeepSeek: the latent vector as the one key head, and a tenth of mscale_all_dim."""
    rope = _rope(config)
    keys = common(config) | {
        "rope.dimension_count": config["qk_rope_head_dim"],
        "attention.kv_lora_rank": config["kv_lora_rank"],
        "attention.key_length": config["kv_lora_rank"] + config["qk_rope_head_dim"],
        "attention.key_length_mla": config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
    }
    if everywhere := rope.get("mscale_all_dim"):
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * everywhere
    return keys


def partial(config: Config) -> Keys:
    """GLM: the common keys and the share of the head that rotates."""
    share = _rope(config).get("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
    return common(config) | {"rope.dimension_count": int(_head_dim(config) * share)}


def stablelm(config: Config) -> Keys:
    """StableLM: neither base nor scaling, which its class never writes."""
    return {k: v for k, v in partial(config).items() if k == "rope.dimension_count" or not k.startswith("rope.")}


Tensors = Callable[[Config], dict[str, np.ndarray[Any, Any]]]
#: model type -> architecture, keys and tensors
CLASSES: dict[str, tuple[str, Callable[[Config], Keys], Tensors]] = {
    "llama": ("llama", llama, llama3_factors),
    "mistral": ("llama", llama, llama3_factors),
    "granite": ("granite", llama, llama3_factors),
    "smollm3": ("smollm3", llama, lambda config: {}),
    "qwen2": ("qwen2", common, lambda config: {}),
    "qwen2_vl": ("qwen2vl", common, lambda config: {}),
    "qwen3": ("qwen3", common, lambda config: {}),
    "starcoder2": ("starcoder2", common, lambda config: {}),
    "stablelm": ("stablelm", stablelm, lambda config: {}),
    "phi3": ("phi3", phi3, phi3_factors),
    "gemma3_text": ("gemma3", gemma3, lambda config: {}),
    "gpt_oss": ("gpt-oss", gpt_oss, lambda config: {}),
    "cohere2": ("cohere2", cohere2, lambda config: {}),
    "deepseek_v3": ("deepseek2", deepseek2, lambda config: {}),
    "olmo2": ("olmo2", windowed, lambda config: {}),
    "olmo3": ("olmo2", windowed, lambda config: {}),
    "exaone4": ("exaone4", windowed, llama3_factors),
    "glm4": ("glm4", partial, lambda config: {}),
}


def convert(config: Config, path: str | Path) -> Path:
    """Write the GGUF of a config; returns the path.

    Raises:
        KeyError: a class that is not in `CLASSES`, or a config without a key that its class needs.
    """
    path = Path(path)
    arch, keys, tensors = CLASSES[config["model_type"]]
    writer = gguf.GGUFWriter(path, arch)
    text = {**config, **(config.get("text_config") or {})}
    for name, value in keys(text).items():
        _add(writer, f"{arch}.{name}", value)
    for name, array in tensors(text).items():
        writer.add_tensor(name, array)
    writer.add_tensor("output_norm.weight", np.ones(text["hidden_size"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    floating = name.endswith(("freq_base", "freq_base_swa", "factor", "beta_fast", "beta_slow", "multiplier"))
    if value is None:
        return
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif floating:
        writer.add_float32(name, float(value))
    else:
        writer.add_uint32(name, int(value))
