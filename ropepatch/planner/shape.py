"""What a checkpoint's metadata says about its size: layers, heads, caches, weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch.errors import InputError
from ropepatch.planner import parameters
from ropepatch.planner.layers import MAX_LAYERS, Layer, of_kinds

if TYPE_CHECKING:
    from pathlib import Path

    from ropepatch.checkpoint import Checkpoint
    from ropepatch.dialects.gguf import GgufDialect
    from ropepatch.dialects.hf_section import Section

MAX_WIDTH = 1 << 24
# canonical name: spellings in config.json, in GGUF (behind the architecture), in params.json
_NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "layers":       (("num_hidden_layers", "n_layer", "n_layers", "num_layers"), ("block_count",), ("n_layers",)),
    "hidden":       (("hidden_size", "n_embd", "d_model", "dim"), ("embedding_length",), ("dim",)),
    "heads":        (("num_attention_heads", "n_head", "n_heads"), ("attention.head_count",), ("n_heads",)),
    "kv_heads":     (("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv"),
                     ("attention.head_count_kv",), ("n_kv_heads",)),
    "head_dim":     (("head_dim", "kv_channels", "attention_head_size"), ("attention.key_length",), ("head_dim",)),
    "v_head_dim":   (("v_head_dim",), ("attention.value_length",), ("v_head_dim",)),
    "intermediate": (("intermediate_size", "ffn_hidden_size", "n_inner"), ("feed_forward_length",), ("hidden_dim",)),
    "vocab":        (("vocab_size", "padded_vocab_size"), ("vocab_size",), ("vocab_size",)),
    "window":       ((), ("attention.sliding_window",), ("sliding_window",)),
    "latent":       (("kv_lora_rank",), ("attention.kv_lora_rank",), ("kv_lora_rank",)),
    "q_latent":     (("q_lora_rank",), ("attention.q_lora_rank",), ("q_lora_rank",)),
    "rope_dim":     (("qk_rope_head_dim",), ("rope.dimension_count",), ("qk_rope_head_dim",)),
    "nope_dim":     (("qk_nope_head_dim",), (), ("qk_nope_head_dim",)),
    "experts":      (("n_routed_experts", "num_local_experts", "num_experts"), ("expert_count",), ()),
    "used":         (("num_experts_per_tok", "moe_top_k", "top_k_experts"), ("expert_used_count",), ()),
    "expert_width": (("moe_intermediate_size",), ("expert_feed_forward_length",), ()),
    "shared":       (("n_shared_experts",), ("expert_shared_count",), ()),
    "shared_width": (("shared_expert_intermediate_size", "shared_intermediate_size"),
                     ("expert_shared_feed_forward_length",), ()),
    "dense":        (("first_k_dense_replace",), ("leading_dense_block_count",), ()),
    "global_head":  (("global_head_dim",), (), ()),
    "global_kv":    (("num_global_key_value_heads",), (), ()),
    "kv_shared":    (("num_kv_shared_layers",), ("attention.shared_kv_layers",), ()),
}  # fmt: skip
#: transformers' classes without ``layer_types`` that slide on every layer where ``sliding_window`` is set
_ALL_SLIDE = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2", "ministral")
#: llama.cpp's built-in rule where a GGUF has a window and no pattern: every n-th layer is full
_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "olmo2": 4, "exaone4": 4}
#: layer types that keep a state of one size
_NOTHING_GROWS = ("linear_attention", "conv", "mamba", "mamba2", "recurrent", "moe", "mlp")
#: classes of transformers that tie the output to the embedding unless the config says otherwise
_TIED = ("cohere", "cohere2", "ernie4_5", "falcon", "gemma", "gemma2", "gemma3_text", "smollm3", "starcoder2")
#: model types whose cache is compressed along the sequence
_COMPRESSED = ("deepseek_v4", "deepseek4")


@dataclass(frozen=True)
class ModelShape:
    """A model's size.

    Attributes:
        layers: every layer.
        latent: whether the cache is multi-head latent attention's.
        parameters: all weights; None where the metadata does not determine them.
        active: weights that one token passes through, embeddings left out; None likewise.
        weight_bytes: what the weights take; None where unknown.
        weight_source: where that number is from.
        notes: what was assumed.
    """

    layers: tuple[Layer, ...]
    latent: bool
    parameters: int | None
    active: int | None
    weight_bytes: int | None
    weight_source: str
    notes: tuple[str, ...] = ()


def of(model: Checkpoint) -> ModelShape:
    """The shape of an opened checkpoint.

    Raises:
        InputError: its metadata does not say how many layers and heads there are.
    """
    dialect: Any = model.dialect
    inner = getattr(dialect, "inner", None)
    if inner is not None:  # a safetensors file with a config inside
        dialect = inner
    if hasattr(dialect, "header") and hasattr(dialect, "shards"):
        return _from_gguf(dialect)
    if hasattr(dialect, "given"):
        return _from_params(dialect.given, dialect.root, str(dialect.path))
    if hasattr(dialect, "section"):
        return _from_hf(dialect.section, dialect.root, dialect.config)
    raise InputError("says nothing about layers and heads", where=model.ref)


def _facts(column: int, get: Callable[[str], Any], where: str) -> dict[str, Any]:
    """Canonical names with whole numbers (or lists of them), what is absent or no number left out.

    Raises:
        InputError: a number is larger than any model has.
    """
    found: dict[str, Any] = {}
    for name, spelled in _NAMES.items():
        value = next((v for key in spelled[column] if (v := get(key)) is not None), None)
        if isinstance(value, list):
            found[name] = [_whole(item, where, name) for item in value[:MAX_LAYERS]]
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:  # -1: not said
            found[name] = _whole(value, where, name)
    return found


def _whole(value: Any, where: str, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WIDTH:
        raise InputError(f"has {value!r:.40} as its number of {name.replace('_', ' ')}", where=where)
    return int(value)


def _from_hf(section: Section, root: Path, config: Mapping[str, Any]) -> ModelShape:
    facts = _facts(0, lambda key: section.get(key), section.where)
    notes: list[str] = []
    if section.model_type in _COMPRESSED:
        raise InputError(f"{section.model_type} compresses its cache along the sequence", where=section.where)
    kinds = _hf_kinds(section, facts.get("layers", 0))
    window = _hf_window(section)
    if facts.get("latent") and section.get("index_head_dim"):
        notes.append("the keys of the sparse-attention indexer are not counted, and prefill is that of full attention")
    layers = of_kinds(facts, kinds, window, section.where)
    tied = next(
        (t for t in (section.get("tie_word_embeddings"), config.get("tie_word_embeddings")) if t is not None), None
    )
    tied = section.model_type in _TIED if tied is None else bool(tied)
    if section.model_type == "falcon" and not section.get("new_decoder_architecture"):
        facts["kv_heads"] = 1 if section.get("multi_query") is not False else facts.get("heads")
    whole = all(kind in ("full", "sliding") for kind in kinds)
    counted = parameters.count(facts, section.model_type, tied=tied) if whole else None
    size, source = _stored(root)
    if size is None and counted is not None:
        each, spelled = parameters.width(config, section.given)
        size, source = round(counted[0] * each), f"estimated: {counted[0] / 1e9:.3g} billion parameters in {spelled}"
    if counted is not None and not section.defaults.known:
        notes.append(f"{section.model_type} is counted as a llama: transformers does not know it")
    if counted is None:
        notes.append("the number of parameters does not follow from the config for this kind of model")
    return _shape(layers, facts, counted, size, source, notes)


def _hf_kinds(section: Section, count: int) -> list[str]:
    """``full``, ``sliding`` or ``none`` (nothing that grows with the length) for each layer."""
    pattern = section.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) == count:
        return ["full" if letter == "*" else "none" for letter in pattern]
    types: Sequence[Any] = section.layer_types() or section.get("layers_block_type") or ()
    if len(types) == count:
        return [_kind(str(name)) for name in types]
    period, offset = section.get("attn_layer_period"), section.get("attn_layer_offset") or 0
    if isinstance(period, int) and period > 0:
        return ["full" if index % period == offset else "none" for index in range(count)]
    slides = section.model_type in _ALL_SLIDE and section.get("use_sliding_window") is not False
    return ["sliding" if slides and _hf_window(section) else "full"] * count


def _kind(name: str) -> str:
    if any(word in name for word in ("sliding", "chunked", "local")):
        return "sliding"
    return "none" if name in _NOTHING_GROWS else "full"


def _hf_window(section: Section) -> int | None:
    for key in ("sliding_window", "attention_chunk_size", "sliding_window_size"):
        value = section.given[key] if key in section.given else section.defaults.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _from_gguf(dialect: GgufDialect) -> ModelShape:
    where = str(dialect.path)
    if dialect.architecture in _COMPRESSED:
        raise InputError(f"{dialect.architecture} compresses its cache along the sequence", where=where)

    def get(name: str) -> Any:
        values = dialect.header.array(dialect.key(name))
        return values if values is not None else dialect.header.get(dialect.key(name))

    facts = _facts(1, get, where)
    count = facts.get("layers", 0)
    if isinstance(count, int) and count > MAX_LAYERS:
        raise InputError(f"has {count} layers", where=where)
    kinds = _gguf_kinds(dialect, get, count)
    notes: list[str] = []
    if facts.get("latent") and get("attention.key_length_mla") is None:
        facts["latent"] = 0  # an older conversion: llama.cpp caches every head's keys and values
        notes.append("converted before llama.cpp cached the latent vector alone: the whole heads are cached")
    elif facts.get("latent"):
        facts["v_head_dim"] = get("attention.value_length_mla") or facts.get("v_head_dim")
        facts["nope_dim"] = (get("attention.key_length_mla") or 0) - facts.get("rope_dim", 0)
    layers = of_kinds(facts, kinds, facts.get("window") or None, where)
    tensors = [info for shard in dialect.shards for info in shard.tensors.values()]
    size: int | None = sum(info.size for info in tensors)
    counted: tuple[int, int] | None = None
    if tensors and size:
        counted = parameters.of_tensors({info.name: math.prod(info.shape) for info in tensors}, facts)
    else:
        notes.append("the file holds no weights")
    return _shape(layers, facts, counted, size or None, "the file's tensors" if size else "unknown", notes)


def _gguf_kinds(dialect: GgufDialect, get: Callable[[str], Any], count: int) -> list[str]:
    if get("full_attention_interval"):
        every = max(1, int(get("full_attention_interval")))
        return ["full" if (index + 1) % every == 0 else "none" for index in range(count)]
    if dialect.row().swa == "-" or not get("attention.sliding_window"):
        return ["full"] * count
    pattern = get("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == count:
        return ["sliding" if slides else "full" for slides in pattern]
    every = pattern if isinstance(pattern, int) and pattern > 1 else _EVERY.get(dialect.architecture, 0)
    return ["full" if every and index % every == every - 1 else "sliding" for index in range(count)]


def _from_params(given: Mapping[str, Any], root: Path, where: str) -> ModelShape:
    facts = _facts(2, given.get, where)
    moe = given.get("moe")
    if isinstance(moe, Mapping):
        named = {"experts": "num_experts", "used": "num_experts_per_tok", "expert_width": "expert_hidden_dim"}
        facts |= {name: _whole(moe[key], where, name) for name, key in named.items() if moe.get(key) is not None}
    if "intermediate" not in facts and facts.get("hidden"):
        facts["intermediate"] = _meta_width(given, facts["hidden"])
    window = facts.get("window") or None
    layers = of_kinds(facts, ["sliding" if window else "full"] * facts.get("layers", 0), window, where)
    size, source = _stored(root)
    counted = parameters.count(
        facts, "params", tied=bool(given.get("tied_embeddings") or given.get("tie_word_embeddings"))
    )
    if size is None and counted is not None:
        size, source = 2 * counted[0], f"estimated: {counted[0] / 1e9:.3g} billion parameters in bfloat16"
    return _shape(layers, facts, counted, size, source, [])


def _meta_width(given: Mapping[str, Any], hidden: int) -> int:
    """The feed-forward width as Meta's code computes it: two thirds of four times, scaled, rounded up."""
    scale, multiple = given.get("ffn_dim_multiplier") or 1.0, given.get("multiple_of") or 1
    if not isinstance(scale, (int, float)) or not isinstance(multiple, int) or not 0 < scale < 64 or multiple < 1:
        return 0
    inner = int(scale * int(2 * 4 * hidden / 3))
    return multiple * -(-inner // multiple)


def _shape(
    layers: tuple[Layer, ...],
    facts: Mapping[str, Any],
    counted: tuple[int, int] | None,
    size: int | None,
    source: str,
    notes: list[str],
) -> ModelShape:
    total, active = counted or (None, None)
    return ModelShape(layers, bool(facts.get("latent")), total, active, size, source, tuple(notes))


def _stored(root: Path) -> tuple[int | None, str]:
    """What the weights beside a config take, by the index or the files' sizes."""
    index = root / "model.safetensors.index.json"
    if index.is_file() and index.stat().st_size < 64 << 20:
        try:
            size = json.loads(index.read_text("utf-8"))["metadata"]["total_size"]
        except (ValueError, KeyError, TypeError):
            size = None
        if isinstance(size, (int, float)) and 0 < size < 1 << 50:
            return int(size), "the safetensors index"
    files = list(root.glob("*.safetensors"))
    own = [file for file in files if not file.name.startswith("consolidated")] or files
    size = sum(file.stat().st_size for file in own)
    return (size, "the safetensors files") if size else (None, "unknown")
