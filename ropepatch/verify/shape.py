"""What a decoder of the llama family has to know besides its tensors: sizes, norms, which layers rotate how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropepatch.errors import InputError
from ropepatch.frequencies import group_frequencies

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.profile import RopeProfile

#: Model types of config.json that :mod:`ropepatch.verify.decoder` computes (each held against transformers).
HF_TYPES = ("llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
#: GGUF architectures of the same kind.
GGUF_ARCHITECTURES = ("llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe")
_LIMIT = 1 << 24
_MOST_LAYERS = 4096


@dataclass(frozen=True)
class LayerRope:
    """How one layer rotates.

    Attributes:
        inv_freq: float64, radians per position, shape ``(rotary_dim // 2,)``; empty for a layer without RoPE.
        attention_scale: the factor on cos and sin.
        layout: ``half`` or ``interleaved``.
        window: the sliding window in tokens, None for full attention.
        group: the rope group's name.
    """

    inv_freq: npt.NDArray[np.float64]
    attention_scale: float
    layout: str
    window: int | None
    group: str


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, as its metadata gives them."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    eps: float
    windows: tuple[int | None, ...] = ()

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer in tokens; None for full attention."""
        return self.windows[layer] if layer < len(self.windows) else None


def read(checkpoint: Checkpoint) -> Shape:
    """The sizes of a checkpoint.

    Raises:
        InputError: it is not of the llama family, or a size is missing or impossible.
    """
    source = checkpoint.profile.source
    if source.format not in ("gguf", "hf"):
        raise InputError(
            f"a forward pass needs a Hugging Face folder or a GGUF file; this is {source.format}", where=checkpoint.ref
        )
    known = GGUF_ARCHITECTURES if source.format == "gguf" else HF_TYPES
    if source.architecture not in known:
        raise InputError(
            f"the built-in decoder knows {', '.join(known)}, not {source.architecture}",
            where=checkpoint.ref,
            hint="--engine transformers or --engine llama.cpp runs what they load",
        )
    if source.format == "gguf":
        return _from_gguf(checkpoint, source.architecture)
    return _from_config(checkpoint)


def _from_config(checkpoint: Checkpoint) -> Shape:
    raw: Mapping[str, Any] = checkpoint.raw_config or {}
    config = raw.get("text_config") if isinstance(raw.get("text_config"), Mapping) else raw
    assert isinstance(config, Mapping)
    where = checkpoint.ref
    hidden, heads = _size(config, "hidden_size", where), _size(config, "num_attention_heads", where)
    if config.get("num_key_value_heads") is None:
        kv_heads = heads
    else:
        kv_heads = _size(config, "num_key_value_heads", where)
    head_dim = _size(config, "head_dim", where) if config.get("head_dim") else hidden // heads
    eps = config.get("rms_norm_eps", 1e-6)
    layers = _size(config, "num_hidden_layers", where)
    windows = _windows(config, min(layers, _MOST_LAYERS))
    return _checked(Shape(hidden, heads, kv_heads, head_dim, layers, _float(eps, where), windows), where)


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Sliding windows as transformers applies them to these model types; a GGUF of them has none in llama.cpp."""
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        return ()
    if str(config.get("model_type")).startswith("qwen") and not config.get("use_sliding_window"):
        return ()
    if isinstance(kinds, list):
        return tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers])
    first = config.get("max_window_layers", 0) if str(config.get("model_type")).startswith("qwen") else 0
    return tuple(window if isinstance(first, int) and layer >= first else None for layer in range(layers))


def _from_gguf(checkpoint: Checkpoint, architecture: str) -> Shape:
    from ropepatch.verify.weights import gguf_header

    header = gguf_header(checkpoint)

    class Keys(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            value = header.get(f"{architecture}.{key}")
            return default if value is None else value

    keys, where = Keys(), checkpoint.ref
    hidden, heads = _size(keys, "embedding_length", where), _size(keys, "attention.head_count", where)
    kv_heads = _size(keys, "attention.head_count_kv", where) if keys.get("attention.head_count_kv") else heads
    head_dim = _size(keys, "attention.key_length", where) if keys.get("attention.key_length") else hidden // heads
    eps = _float(keys.get("attention.layer_norm_rms_epsilon", 1e-5), where)
    return _checked(Shape(hidden, heads, kv_heads, head_dim, _size(keys, "block_count", where), eps), where)


def _size(values: Mapping[str, Any], key: str, where: str) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _LIMIT:
        raise InputError(f"{key} is {value!r:.40}, not a size", where=where)
    return value


def _float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(f"the norm's epsilon is {value!r:.40}", where=where)
    return float(value)


def _checked(shape: Shape, where: str) -> Shape:
    if shape.heads % shape.kv_heads:
        raise InputError(f"{shape.heads} query heads do not share {shape.kv_heads} key heads evenly", where=where)
    return shape


def ropes(profile: RopeProfile, shape: Shape, layers: int, length: int | None) -> list[LayerRope]:
    """How each of the first ``layers`` layers rotates in a context of ``length`` tokens, and how far it looks."""
    found = []
    still = set(profile.nope_layers or ())
    frequencies = {name: group_frequencies(group, length) for name, group in profile.groups.items()}
    for layer in range(layers):
        name = _group_of(profile, layer)
        group, now = profile.groups[name], frequencies[name]
        inv_freq = np.empty(0) if layer in still else np.asarray(now.inv_freq, np.float64)
        window = group.window or shape.window(layer)
        found.append(LayerRope(inv_freq, float(now.attention_scale), group.layout, window, name))
    return found


def _group_of(profile: RopeProfile, layer: int) -> str:
    for name, group in profile.groups.items():
        if group.layers is not None and layer in group.layers:
            return name
    for name, group in profile.groups.items():
        if group.layers is None:
            return name
    return next(iter(profile.groups))
