"""Small random models, made on the spot, as a transformers directory and as a GGUF with the same weights.

`write_hf` and `write_gguf` take the same `ModelSpec`, so what the two runtimes compute must agree. The weights are a
function of the spec alone. Queries and keys are drawn large (`_QK_GAIN`) so that attention is peaked and the logits
depend on positions: with small weights a wrong rotation would go unnoticed.

To add an architecture, subclass `Family` (config, weights by transformers name, GGUF keys and names) and list it in
`FAMILIES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import gguf
import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray[Any, np.dtype[np.float32]]
Draw = Callable[..., Array]

_QK_GAIN = 1.5


@dataclass(frozen=True)
class ModelSpec:
    """The size and RoPE of a tiny model; `arch` is a key of `FAMILIES` (a llama.cpp architecture name)."""

    arch: str = "llama"
    layers: int = 2
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    intermediate: int = 192
    vocab: int = 96
    context: int = 64
    rope_theta: float = 10000.0
    seed: int = 0
    sliding_window: int = 48
    sliding_theta: float = 2000.0

    def with_(self, **changes: Any) -> ModelSpec:
        """The same model with some fields changed."""
        return replace(self, **changes)

    @property
    def family(self) -> Family:
        """The entry of `FAMILIES` for this architecture."""
        return FAMILIES[self.arch]


def _permute_to_pairs(weight: Array, heads: int) -> Array:
    """Reorder the rows of each head from halves (0, d/2, …) to adjacent pairs (0, 1, …)."""
    rows = weight.shape[0]
    return np.ascontiguousarray(
        weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


class Family:
    """Llama; the other families change what differs."""

    model_type = "llama"
    class_name = "LlamaForCausalLM"
    adjacent_pairs = True
    tied = False
    norm_offset = 0.0  # what transformers adds to a stored norm weight, and llama.cpp does not
    names: ClassVar[dict[str, str]] = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }

    def config(self, spec: ModelSpec) -> dict[str, Any]:
        """`config.json` without RoPE parameters, dtype and layout."""
        return {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "hidden_size": spec.hidden,
            "intermediate_size": spec.intermediate,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.kv_heads,
            "head_dim": spec.head_dim,
            "vocab_size": spec.vocab,
            "max_position_embeddings": spec.context,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    def rope_v4(self, spec: ModelSpec, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
        """The RoPE members of a transformers 4 config."""
        return {"rope_theta": spec.rope_theta, "rope_scaling": dict(scaling) if scaling else None}

    def rope_v5(self, spec: ModelSpec, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
        """The RoPE members of a transformers 5 config."""
        return {"rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta, **(scaling or {})}}

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """One layer's weights by transformers name, without the `model.layers.N.` prefix."""
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        return {
            "self_attn.q_proj.weight": linear(q, spec.hidden, gain=_QK_GAIN),
            "self_attn.k_proj.weight": linear(kv, spec.hidden, gain=_QK_GAIN),
            "self_attn.v_proj.weight": linear(kv, spec.hidden),
            "self_attn.o_proj.weight": linear(spec.hidden, q),
            "mlp.gate_proj.weight": linear(spec.intermediate, spec.hidden),
            "mlp.up_proj.weight": linear(spec.intermediate, spec.hidden),
            "mlp.down_proj.weight": linear(spec.hidden, spec.intermediate),
            "input_layernorm.weight": norm(spec.hidden),
            "post_attention_layernorm.weight": norm(spec.hidden),
        }

    def finished(self, spec: ModelSpec, tensors: dict[str, Array]) -> dict[str, Array]:
        """All weights by transformers name, as they were drawn; for families that need some of them otherwise."""
        return tensors

    def gguf_keys(self, spec: ModelSpec) -> dict[str, Any]:
        """Architecture keys without the `{arch}.` prefix; Python int, float, str, bool and lists of them."""
        return {
            "context_length": spec.context,
            "embedding_length": spec.hidden,
            "block_count": spec.layers,
            "feed_forward_length": spec.intermediate,
            "vocab_size": spec.vocab,
            "attention.head_count": spec.heads,
            "attention.head_count_kv": spec.kv_heads,
            "attention.key_length": spec.head_dim,
            "attention.value_length": spec.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.dimension_count": spec.head_dim,
            "rope.freq_base": spec.rope_theta,
        }

    def to_gguf(self, spec: ModelSpec, name: str, value: Array) -> Array:
        """A tensor as the GGUF stores it (`name` as in `layer`, or whole)."""
        if "norm" in name:
            return value + np.float32(self.norm_offset)
        if self.adjacent_pairs and name.startswith("self_attn.q_proj"):
            return _permute_to_pairs(value, spec.heads)
        if self.adjacent_pairs and name.startswith("self_attn.k_proj"):
            return _permute_to_pairs(value, spec.kv_heads)
        return value

    def gguf_layer(self, spec: ModelSpec, name: str, value: Array) -> dict[str, Array]:
        """A layer's tensor (`name` as in `layer`) by GGUF name, without the `blk.N.` prefix."""
        module, kind = name.rsplit(".", 1)
        return {f"{self.names[module]}.{kind}": self.to_gguf(spec, name, value)}


class Qwen2(Family):
    """Biases on queries, keys and values; half layout."""

    model_type, class_name, adjacent_pairs = "qwen2", "Qwen2ForCausalLM", False

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """Llama's, with three biases."""
        weights = super().layer(spec, linear, norm)
        for part in ("q", "k", "v"):
            rows = weights[f"self_attn.{part}_proj.weight"].shape[0]
            weights[f"self_attn.{part}_proj.bias"] = linear(rows, gain=0.3, fan_in=1)
        return weights


class Qwen3(Family):
    """Norms on queries and keys; half layout."""

    model_type, class_name, adjacent_pairs = "qwen3", "Qwen3ForCausalLM", False
    names: ClassVar[dict[str, str]] = {
        **Family.names,
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """Llama's, with the two head norms."""
        weights = super().layer(spec, linear, norm)
        weights["self_attn.q_norm.weight"] = norm(spec.head_dim) * np.float32(_QK_GAIN)
        weights["self_attn.k_norm.weight"] = norm(spec.head_dim) * np.float32(_QK_GAIN)
        return weights


class Phi3(Family):
    """Fused projections; half layout; LongRoPE factors come as extra tensors."""

    model_type, class_name, adjacent_pairs = "phi3", "Phi3ForCausalLM", False
    names: ClassVar[dict[str, str]] = {
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }

    def config(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with the members that Phi3Config would otherwise default to a large vocabulary."""
        return super().config(spec) | {
            "pad_token_id": 0,
            "original_max_position_embeddings": spec.context,
            "partial_rotary_factor": 1.0,
        }

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """Llama's, fused."""
        plain = super().layer(spec, linear, norm)
        fused = {
            "self_attn.qkv_proj.weight": [f"self_attn.{part}_proj.weight" for part in "qkv"],
            "mlp.gate_up_proj.weight": [f"mlp.{part}_proj.weight" for part in ("gate", "up")],
        }
        weights = {name: np.concatenate([plain.pop(part) for part in parts]) for name, parts in fused.items()}
        return weights | plain


class Gemma3(Qwen3):
    """Two bases: every second layer is full attention, the others slide; norms are stored minus one."""

    model_type, class_name, adjacent_pairs, tied = "gemma3_text", "Gemma3ForCausalLM", False, True
    norm_offset = 1.0
    names: ClassVar[dict[str, str]] = {
        **Qwen3.names,
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    period = 2

    def config(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with the sliding layers."""
        return super().config(spec) | {
            "sliding_window": spec.sliding_window,
            "sliding_window_pattern": self.period,
            "layer_types": [
                "full_attention" if (index + 1) % self.period == 0 else "sliding_attention"
                for index in range(spec.layers)
            ],
            "query_pre_attn_scalar": spec.head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "pad_token_id": 0,
        }

    def rope_v4(self, spec: ModelSpec, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
        """Llama's, with the sliding layers' base."""
        return super().rope_v4(spec, scaling) | {"rope_local_base_freq": spec.sliding_theta}

    def rope_v5(self, spec: ModelSpec, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
        """One dict a layer type."""
        full = {"rope_type": "default", "rope_theta": spec.rope_theta, **(scaling or {})}
        sliding = {"rope_type": "default", "rope_theta": spec.sliding_theta}
        return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """Qwen3's, with two more norms."""
        weights = super().layer(spec, linear, norm)
        weights["pre_feedforward_layernorm.weight"] = norm(spec.hidden)
        # llama.cpp looks GELU up in a table of half floats: kept small, or it would hide what is looked for.
        weights["post_feedforward_layernorm.weight"] = norm(spec.hidden) * np.float32(0.1)
        return weights

    def gguf_keys(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with the sliding layers."""
        return super().gguf_keys(spec) | {
            "attention.sliding_window": spec.sliding_window,
            "attention.sliding_window_pattern": [(index + 1) % self.period != 0 for index in range(spec.layers)],
            "rope.freq_base_swa": spec.sliding_theta,
        }


class DeepSeek2(Family):
    """Multi-head latent attention: a part of each head rotates, and all heads share the rotated key. Dense layers only.

    `head_dim` is the rotated part and as much again does not rotate.
    """

    model_type, class_name = "deepseek_v3", "DeepseekV3ForCausalLM"
    names: ClassVar[dict[str, str]] = {
        **Family.names,
        "self_attn.q_a_proj": "attn_q_a",
        "self_attn.q_a_layernorm": "attn_q_a_norm",
        "self_attn.q_b_proj": "attn_q_b",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    }

    def ranks(self, spec: ModelSpec) -> tuple[int, int]:
        """The latent widths of queries and of keys and values."""
        return spec.hidden // 2, 2 * spec.head_dim

    def config(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with the latent widths; the layers' experts are left out."""
        queries, keys = self.ranks(spec)
        config = super().config(spec) | {
            "num_key_value_heads": spec.heads,
            "q_lora_rank": queries,
            "kv_lora_rank": keys,
            "qk_rope_head_dim": spec.head_dim,
            "qk_nope_head_dim": spec.head_dim,
            "v_head_dim": spec.head_dim,
            "first_k_dense_replace": spec.layers,
            "num_mtp_layers": 0,
            "moe_intermediate_size": 16,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-6,  # the latent norms have this one, whatever the config says
        }
        return {name: value for name, value in config.items() if name != "head_dim"}

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """Llama's, with projections by way of the latent vectors."""
        queries, keys = self.ranks(spec)
        weights = super().layer(spec, linear, norm)
        for part in "qkv":
            del weights[f"self_attn.{part}_proj.weight"]
        return weights | {
            "self_attn.q_a_proj.weight": linear(queries, spec.hidden),
            "self_attn.q_a_layernorm.weight": norm(queries),
            "self_attn.q_b_proj.weight": linear(spec.heads * 2 * spec.head_dim, queries, gain=_QK_GAIN),
            "self_attn.kv_a_proj_with_mqa.weight": linear(keys + spec.head_dim, spec.hidden, gain=_QK_GAIN),
            "self_attn.kv_a_layernorm.weight": norm(keys),
            "self_attn.kv_b_proj.weight": linear(spec.heads * 2 * spec.head_dim, keys),
        }

    def gguf_keys(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with one key head that is the latent vector beside the rotated part."""
        queries, keys = self.ranks(spec)
        return super().gguf_keys(spec) | {
            "attention.head_count_kv": 1,
            "attention.key_length": keys + spec.head_dim,
            "attention.value_length": keys,
            "attention.key_length_mla": 2 * spec.head_dim,
            "attention.value_length_mla": spec.head_dim,
            "attention.q_lora_rank": queries,
            "attention.kv_lora_rank": keys,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "leading_dense_block_count": spec.layers,
            "expert_feed_forward_length": 16,
            "expert_shared_count": 1,
        }

    def gguf_layer(self, spec: ModelSpec, name: str, value: Array) -> dict[str, Array]:
        """Both halves of the second key and value projection become tensors of their own."""
        if name != "self_attn.kv_b_proj.weight":
            return super().gguf_layer(spec, name, value)
        heads = value.reshape(spec.heads, 2 * spec.head_dim, -1)
        keys, values = heads[:, : spec.head_dim], heads[:, spec.head_dim :]
        return {"attn_k_b.weight": keys.transpose(0, 2, 1), "attn_v_b.weight": values}

    def to_gguf(self, spec: ModelSpec, name: str, value: Array) -> Array:
        """Pairs are adjacent in both formats."""
        return value


class GptOss(Family):
    """Every first of two layers slides; attention sinks, biases everywhere, experts; half layout."""

    model_type, class_name, adjacent_pairs = "gpt_oss", "GptOssForCausalLM", False
    names: ClassVar[dict[str, str]] = {
        **Family.names,
        "post_attention_layernorm": "post_attention_norm",
        "mlp.router": "ffn_gate_inp",
    }
    experts = 4

    def config(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with the sliding layers and the experts."""
        return super().config(spec) | {
            "sliding_window": spec.sliding_window,
            "layer_types": [("sliding_attention", "full_attention")[index % 2] for index in range(spec.layers)],
            "num_local_experts": self.experts,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "pad_token_id": 0,
        }

    def rope_v4(self, spec: ModelSpec, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
        """Llama's; without a dict the class would take the published model's YaRN."""
        return super().rope_v4(spec, scaling or {"rope_type": "default"})

    def layer(self, spec: ModelSpec, linear: Draw, norm: Draw) -> dict[str, Array]:
        """Llama's, with biases and sinks, and experts for the MLP."""
        weights = {name: value for name, value in super().layer(spec, linear, norm).items() if "mlp" not in name}
        for part in "qkvo":
            rows = weights[f"self_attn.{part}_proj.weight"].shape[0]
            weights[f"self_attn.{part}_proj.bias"] = linear(rows, gain=0.3, fan_in=1)
        inner = spec.intermediate
        return weights | {
            "self_attn.sinks": linear(spec.heads, fan_in=1),
            "mlp.router.weight": linear(self.experts, spec.hidden),
            "mlp.router.bias": linear(self.experts, gain=0.3, fan_in=1),
            "mlp.experts.gate_up_proj": linear(self.experts, spec.hidden, 2 * inner, fan_in=spec.hidden),
            "mlp.experts.gate_up_proj_bias": linear(self.experts, 2 * inner, gain=0.3, fan_in=1),
            "mlp.experts.down_proj": linear(self.experts, inner, spec.hidden, fan_in=inner),
            "mlp.experts.down_proj_bias": linear(self.experts, spec.hidden, gain=0.3, fan_in=1),
        }

    def gguf_keys(self, spec: ModelSpec) -> dict[str, Any]:
        """Llama's, with the sliding layers and the experts."""
        return super().gguf_keys(spec) | {
            "attention.sliding_window": spec.sliding_window,
            "expert_count": self.experts,
            "expert_used_count": 2,
            "expert_feed_forward_length": spec.intermediate,
        }

    def gguf_layer(self, spec: ModelSpec, name: str, value: Array) -> dict[str, Array]:
        """Gates and inputs of the experts are interleaved in one tensor, whose matrices stand the other way round."""
        if name == "self_attn.sinks":
            return {"attn_sinks.weight": value}
        if not name.startswith("mlp.experts."):
            return super().gguf_layer(spec, name, value)
        part, bias = name.removeprefix("mlp.experts.").removesuffix("_bias"), name.endswith("_bias")
        kind = "bias" if bias else "weight"
        turned = value if bias else value.swapaxes(1, 2)
        if part == "down_proj":
            return {f"ffn_down_exps.{kind}": turned}
        return {f"ffn_gate_exps.{kind}": turned[:, ::2], f"ffn_up_exps.{kind}": turned[:, 1::2]}


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "qwen2": Qwen2(),
    "qwen3": Qwen3(),
    "phi3": Phi3(),
    "gemma3": Gemma3(),
    "deepseek2": DeepSeek2(),
    "gpt-oss": GptOss(),
}


def weights(spec: ModelSpec) -> dict[str, Array]:
    """All float32 weights by transformers name; equal specs give equal weights."""
    rng = np.random.default_rng(spec.seed)

    def linear(*shape: int, gain: float = 1.0, fan_in: int | None = None) -> Array:
        scale = gain / np.sqrt(fan_in or shape[-1])
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def norm(size: int) -> Array:
        return (1 + 0.1 * rng.standard_normal(size)).astype(np.float32)

    family = spec.family
    tensors = {"model.embed_tokens.weight": linear(spec.vocab, spec.hidden, fan_in=spec.hidden if family.tied else 1)}
    for index in range(spec.layers):
        for name, value in family.layer(spec, linear, norm).items():
            tensors[f"model.layers.{index}.{name}"] = value
    tensors["model.norm.weight"] = norm(spec.hidden)
    if not family.tied:
        tensors["lm_head.weight"] = linear(spec.vocab, spec.hidden, gain=2.0)
    tensors = family.finished(spec, tensors)
    offset = np.float32(family.norm_offset)
    return {name: value - offset if "norm" in name else value for name, value in tensors.items()}


def write_hf(
    directory: str | Path,
    spec: ModelSpec,
    *,
    scaling: Mapping[str, Any] | None = None,
    layout: str = "v4",
    extra_config: Mapping[str, Any] | None = None,
) -> Path:
    """Write `config.json` and `model.safetensors`; returns the directory.

    `scaling` is the `rope_scaling` dict of transformers 4, or the members to add to `rope_parameters` for `layout`
    "v5". `extra_config` is laid over the rest; a value of None there is written as null.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rope = {"v4": spec.family.rope_v4, "v5": spec.family.rope_v5}[layout](spec, scaling)
    dtype = {"v4": "torch_dtype", "v5": "dtype"}[layout]
    config = {**spec.family.config(spec), **rope, dtype: "float32", **(extra_config or {})}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights(spec), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


_OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_tensors(spec: ModelSpec) -> dict[str, Array]:
    """The weights by GGUF name, as llama.cpp wants them."""
    family = spec.family
    tensors: dict[str, Array] = {}
    for name, value in weights(spec).items():
        if name.startswith("model.layers."):
            _, _, index, rest = name.split(".", 3)
            for part, array in family.gguf_layer(spec, rest, value).items():
                tensors[f"blk.{index}.{part}"] = array
        else:
            tensors[_OUTER_NAMES[name]] = family.to_gguf(spec, name, value)
    return tensors


@dataclass(frozen=True)
class Typed:
    """A metadata value with its GGUF type spelled out, for files that a loader must refuse."""

    value: Any
    kind: gguf.GGUFValueType
    element: gguf.GGUFValueType | None = field(default=None)


_KINDS = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}
_NUMPY_KINDS = {
    np.uint32: gguf.GGUFValueType.UINT32,
    np.int32: gguf.GGUFValueType.INT32,
    np.uint64: gguf.GGUFValueType.UINT64,
    np.float32: gguf.GGUFValueType.FLOAT32,
    np.float64: gguf.GGUFValueType.FLOAT64,
}


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, Typed):
        writer.add_key_value(key, value.value, value.kind, sub_type=value.element)
    elif isinstance(value, np.generic):
        writer.add_key_value(key, value.item(), _NUMPY_KINDS[type(value)])
    elif isinstance(value, (list, tuple)):
        kind = gguf.GGUFValueType.INT32 if type(value[0]) is int else _KINDS[type(value[0])]
        writer.add_key_value(key, list(value), gguf.GGUFValueType.ARRAY, sub_type=kind)
    else:
        writer.add_key_value(key, value, _KINDS[type(value)])


def _vocabulary(size: int) -> dict[str, Any]:
    """The smallest vocabulary that the server accepts; nothing is ever tokenised with it."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"<{index}>" for index in range(size)],
        "tokenizer.ggml.scores": [0.0] * size,
        "tokenizer.ggml.token_type": [2] + [1] * (size - 1),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def write_gguf(
    path: str | Path,
    spec: ModelSpec,
    extra_keys: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Any] | None = None,
    *,
    arch: str | None = None,
) -> Path:
    """Write the spec's weights as a float32 GGUF; returns the path.

    A key in `extra_keys` that begins with a dot gets the architecture before it (`.rope.scaling.factor`). Python's
    int, float, bool and str become u32, f32, bool and string, a list of int becomes an i32 array; numpy scalars keep
    their type, `Typed` says any other; None removes the key. `extra_tensors` are numpy arrays, written last with their
    own dtype. `arch` relabels the file (same tensors, other architecture name).
    """
    path = Path(path)
    arch = arch or spec.arch
    keys = {f"{arch}.{key}": value for key, value in spec.family.gguf_keys(spec).items()} | _vocabulary(spec.vocab)
    for key, value in (extra_keys or {}).items():
        keys[f"{arch}{key}" if key.startswith(".") else key] = value
    writer = gguf.GGUFWriter(str(path), arch)
    for key, value in keys.items():
        if value is not None:
            _add_key(writer, key, value)
    for name, value in {**gguf_tensors(spec), **(extra_tensors or {})}.items():
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens(spec: ModelSpec, length: int, seed: int = 1) -> list[int]:
    """A random prompt of token ids that are not special."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, spec.vocab, length)]
