"""What the layers of an HF model have beside their frequencies: groups that are one, layers without RoPE, softmax."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ropepatch.dialects.hf_families import Entry
from ropepatch.dialects.hf_section import MAX_LAYERS, Section
from ropepatch.dialects.hf_values import only_sliding_rotates
from ropepatch.methods.base import Method, yarn_attention
from ropepatch.profile import RopeGroup


def merge_equal(groups: dict[str, RopeGroup], entries: Mapping[str, Entry]) -> dict[str, RopeGroup]:
    """One ``default`` group where several say the same and a scaling would reach them alike."""
    plain = [dataclasses.replace(group, layers=None, window=None) for group in groups.values()]
    alike = len({entry.reached for entry in entries.values()}) == 1
    if len(plain) > 1 and alike and all(group == plain[0] for group in plain):
        return {"default": plain[0]}
    return groups


def nope_layers(section: Section) -> tuple[int, ...] | None:
    """Layers without RoPE, where the config lists or implies them."""
    rule = section.defaults.facts.get("rotates")
    types = section.layer_types()
    flags = section.get("no_rope_layers")
    if isinstance(flags, Mapping):
        count = section.layers() or 0
        step = section.given.get("no_rope_layer_interval")
        cycle = flags.get("cycle", [1])
        flags = [
            (i + 1) % step != 0 if isinstance(step, int) and step > 0 else cycle[i % len(cycle)] for i in range(count)
        ]
    found: tuple[int, ...] = ()
    if isinstance(flags, Sequence) and not isinstance(flags, str) and len(flags) <= MAX_LAYERS:
        found = tuple(i for i, rotates in enumerate(flags) if not rotates)
    elif types and only_sliding_rotates(section):
        found = tuple(i for i, kind in enumerate(types) if "sliding" not in kind)
    elif types and rule == "full":
        found = tuple(i for i, kind in enumerate(types) if kind != "full_attention")
    elif rule == "theta" and isinstance(bases := section.get("layer_rope_theta"), Sequence):
        found = tuple(i for i, base in enumerate(bases[:MAX_LAYERS]) if not base)
    return found or None


def softmax_scale(section: Section, scaling: Method) -> float | None:
    """DeepSeek's extra factor on the softmax scale: the squared magnitude of ``mscale_all_dim``."""
    everywhere = getattr(scaling, "mscale_all_dim", None)
    if section.defaults.facts.get("softmax_factor") != "mscale_all_dim" or not everywhere:
        return None
    return float(yarn_attention(getattr(scaling, "factor", 1.0), everywhere) ** 2)


def query_temperature(section: Section, rope: Mapping[str, Any]) -> dict[str, float] | None:
    """Position-dependent scaling of the queries: ``1 + scale ln(1 + floor(p / length))``."""
    if section.defaults.facts.get("query_temperature") == "floor_scale":
        scale, length = section.number("attn_scale"), section.number("floor_scale")
        on = section.get("attn_temperature_tuning")
        return {"scale": float(scale), "length": float(length)} if on and scale and length else None
    scale, length = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if isinstance(scale, (int, float)) and isinstance(length, (int, float)) and scale and math.isfinite(scale):
        return {"scale": float(scale), "length": float(length)}
    return None
