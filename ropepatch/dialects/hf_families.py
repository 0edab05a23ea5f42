"""Where each family of models keeps its RoPE in ``config.json``.

The common rules are transformers 5's ``convert_rope_params_to_dict``; which groups a class has, which key moves which
group's base and which groups a scaling reaches is data (``hf_class_defaults.json``). A family with rules of its own is
one entry of ``FAMILIES``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.dialects import hf_remote, hf_values
from ropepatch.dialects.hf_section import MAX_LAYERS, Section
from ropepatch.methods.base import Method


@dataclass(frozen=True)
class Entry:
    """One set of frequencies as the config has it.

    Attributes:
        rope: the rope dict, merged.
        key: where it stands below the text section.
        theta: the base.
        head_dim: the head's dimensions.
        partial: share of the head that rotates.
        partial_when: when that share counts: ``always``, ``scaled`` or ``never``.
        original: a top-level original context that overrides the dict's.
        layers: the layers that use it.
        window: their sliding window.
        reached: whether a scaling in the file reaches this group.
        scaling: the method in force where no rope dict spells it.
    """

    rope: Mapping[str, Any]
    key: tuple[str, ...]
    theta: float
    head_dim: int
    partial: float = 1.0
    partial_when: str = "always"
    original: int | None = None
    layers: tuple[int, ...] | None = None
    window: int | None = None
    reached: bool = True
    scaling: Method | None = None

    def rotary_dim(self, kind: str) -> int:
        """The dimensions that rotate under a rope type."""
        counts = self.partial_when == "always" or (self.partial_when == "scaled" and kind != "default")
        return max(2, int(self.head_dim * (self.partial if counts else 1.0)))


def entries(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Every set of frequencies of the text model, by group name."""
    family = FAMILIES.get(section.model_type, hf_remote.read)
    if (special := family(section, notes)) is not None:
        return special
    names = section.defaults.facts.get("groups")
    rope, key = hf_values.rope_dict(section)
    if names and not str(names[0]).startswith("theta="):
        return {name: _grouped(section, name, rope, key) for name in _all_names(names, rope)}
    if names and (bases := section.get("layer_rope_theta")) and isinstance(bases, Sequence):
        return _by_layer_base(section, rope, key, bases)
    nested = {name: value for name, value in rope.items() if isinstance(value, Mapping) and _is_group(section, name)}
    if nested:
        return {name: entry(section, value, (*key, name), name) for name, value in nested.items()}
    default = {k: v for k, v in hf_values.default_dict(section).items() if not isinstance(v, Mapping)}
    if not rope and section.defaults.line.startswith("4."):
        rope = default
    elif not rope:
        rope = {k: v for k, v in default.items() if k not in ("rope_theta", "partial_rotary_factor")}
    found = entry(section, rope, key)
    return {"default": dataclasses.replace(found, reached=not section.defaults.fixed)}


def _is_group(section: Section, name: str) -> bool:
    """Whether a key of a rope dict names a layer type rather than a setting."""
    return (
        name.endswith("_attention") or name in (section.layer_types() or ()) or name in hf_values.default_dict(section)
    )


def _by_layer_base(
    section: Section, rope: Mapping[str, Any], key: tuple[str, ...], bases: Sequence[Any]
) -> dict[str, Entry]:
    """Granite's list of a base for each layer, 0 for a layer without RoPE: a group for each base."""
    layers: dict[float, list[int]] = {}
    for index, base in enumerate(bases[:MAX_LAYERS]):
        if base:
            layers.setdefault(float(section.check("layer_rope_theta", base) or 0), []).append(index)
    plain = {k: v for k, v in rope.items() if k != "rope_theta"}
    found = {
        f"theta={base!r}": dataclasses.replace(entry(section, plain, key, theta=base), layers=tuple(own))
        for base, own in layers.items()
    }
    return {"default": next(iter(found.values()))} if len(found) == 1 else found


def _all_names(names: Sequence[str], rope: Mapping[str, Any]) -> list[str]:
    """The class's groups and any other that the file spells; a null entry is a layer type without RoPE."""
    extra = [name for name, value in rope.items() if isinstance(value, Mapping) and name not in names]
    return [name for name in (*names, *extra) if name not in rope or rope[name] is not None]


def _grouped(section: Section, name: str, rope: Mapping[str, Any], key: tuple[str, ...]) -> Entry:
    """One group of a class that has several: its own dict, or the flat one where scaling reaches it."""
    default = hf_values.default_dict(section).get(name)
    default = default if isinstance(default, Mapping) else {}
    reached = name in _reached(section)
    if any(isinstance(value, Mapping) for value in rope.values()):
        own = rope.get(name)
        found = entry(section, own if isinstance(own, Mapping) else default, (*key, name), name)
        return dataclasses.replace(found, reached=reached)
    flat = {**{k: v for k, v in default.items() if k not in ("rope_theta", "rope_type")}, **rope}
    if rope and reached:
        return dataclasses.replace(entry(section, flat, key, name), reached=True)
    plain = {k: v for k, v in default.items() if k != "rope_theta"}
    return dataclasses.replace(entry(section, plain, key, name), reached=reached)


def _reached(section: Section) -> tuple[str, ...]:
    scaling = section.defaults.facts.get("scaling", {})
    found = next((value for value in (scaling.get("all"), scaling.get("linear")) if isinstance(value, list)), None)
    return tuple(found or ())


def entry(
    section: Section, rope: Mapping[str, Any], key: tuple[str, ...], name: str = "default", theta: float | None = None
) -> Entry:
    """One entry by the common rules: a value in the dict beats one beside it, that beats the class's."""
    head = section.head_dim(name)
    original = section.given_number("original_max_position_embeddings", limit=1 << 40)
    return Entry(
        rope=rope,
        key=key,
        theta=hf_values.theta(section, rope, name, theta),
        head_dim=head,
        partial=hf_values.partial(section, rope, name, head),
        partial_when=hf_values.partial_when(section),
        original=int(original) if original and len(key) == 1 else None,
        layers=hf_values.layers(section, name),
        window=hf_values.window(section, name),
    )


def _clvp(section: Section, notes: list[str]) -> dict[str, Entry]:
    """CLVP rotates ``max(projection_dim / (2 heads), 32)`` dimensions at a fixed base."""
    width = max(
        int((section.number("projection_dim") or 768) // ((section.number("num_attention_heads") or 12) * 2)), 32
    )
    return {"default": Entry({}, ("rope_scaling",), 10000.0, width, reached=False)}


def _deepseek_v4(section: Section, notes: list[str]) -> dict[str, Entry]:
    """DeepSeek-V4: ``main`` for sliding layers is never scaled, ``compress`` for compressed ones takes the scaling."""
    rope, key = hf_values.rope_dict(section)
    if any(isinstance(rope.get(name), Mapping) for name in ("main", "compress")):
        return {
            "main": dataclasses.replace(entry(section, rope.get("main") or {}, (*key, "main"), "main"), reached=False),
            "compress": entry(section, rope.get("compress") or {}, (*key, "compress"), "compress"),
        }
    compress = section.number("compress_rope_theta") or 160000.0
    scaled = {k: v for k, v in rope.items() if k != "rope_theta"}
    if scaled.get("rope_type", scaled.get("type")) == "yarn":
        scaled.setdefault("attention_factor", 1.0)
    return {
        "main": dataclasses.replace(entry(section, {}, key, "main"), reached=False),
        "compress": entry(section, scaled, key, "compress", compress),
    }


def _modernbert(section: Section, notes: list[str]) -> dict[str, Entry]:
    """ModernBERT: a flat ``rope_scaling`` reaches both groups, an entry by layer type its own."""
    rope, key = hf_values.rope_dict(section)
    flat = bool(rope) and not any(isinstance(value, Mapping) for value in rope.values())
    names = ("full_attention", "sliding_attention")
    found = {name: _grouped(section, name, {} if flat else rope, key) for name in names}
    return {name: dataclasses.replace(item, rope=rope) for name, item in found.items()} if flat else found


FAMILIES: dict[str, Callable[[Section, list[str]], dict[str, Entry] | None]] = {
    "clvp": _clvp,
    "clvp_encoder": _clvp,
    "deepseek_v4": _deepseek_v4,
    "modernbert": _modernbert,
    "modernbert-decoder": _modernbert,
}
