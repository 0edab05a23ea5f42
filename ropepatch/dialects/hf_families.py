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

from ropepatch.dialects import hf_defaults, hf_remote
from ropepatch.dialects.hf_section import MAX_LAYERS, MAX_WIDTH, THETA_KEYS, Section, text_section
from ropepatch.errors import InputError
from ropepatch.methods.base import Method

__all__ = ["FAMILIES", "THETA_KEYS", "Entry", "Section", "entries", "entry", "text_section"]


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


def rope_dict(section: Section) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The rope dict that the file gives, and its key: a non-empty ``rope_scaling`` replaces ``rope_parameters``.

    Raises:
        InputError: it is no object.
    """
    for key in ("rope_scaling", "rope_parameters"):
        value = section.given.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"is {value!r:.60}, not an object", where=f"{section.where}: {key}")
        if value:
            return value, (key,)
    return {}, ("rope_scaling",)


def default_dict(section: Section) -> Mapping[str, Any]:
    """The rope dict that the class sets when the file gives none."""
    values = section.defaults.values
    found = values.get("rope_parameters") or values.get("rope_scaling")
    return found if isinstance(found, Mapping) else {}


def entries(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Every set of frequencies of the text model, by group name."""
    family = FAMILIES.get(section.model_type, hf_remote.read)
    if (special := family(section, notes)) is not None:
        return special
    names = section.defaults.facts.get("groups")
    rope, key = rope_dict(section)
    if names and not str(names[0]).startswith("theta="):
        return {name: _grouped(section, name, rope, key) for name in _all_names(names, rope)}
    if names and (bases := section.get("layer_rope_theta")) and isinstance(bases, Sequence):
        return _by_layer_base(section, rope, key, bases)
    nested = {name: value for name, value in rope.items() if isinstance(value, Mapping) and _is_group(section, name)}
    if nested:
        return {name: entry(section, value, (*key, name), name) for name, value in nested.items()}
    default = {k: v for k, v in default_dict(section).items() if not isinstance(v, Mapping)}
    if not rope and section.defaults.line.startswith("4."):
        rope = default
    elif not rope:
        rope = {k: v for k, v in default.items() if k not in ("rope_theta", "partial_rotary_factor")}
    found = entry(section, rope, key)
    return {"default": dataclasses.replace(found, reached=not section.defaults.fixed)}


def _is_group(section: Section, name: str) -> bool:
    """Whether a key of a rope dict names a layer type rather than a setting."""
    return name.endswith("_attention") or name in (section.layer_types() or ()) or name in default_dict(section)


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
    default = default_dict(section).get(name)
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
        theta=_theta(section, rope, name, theta),
        head_dim=head,
        partial=_partial(section, rope, name, head),
        partial_when=_partial_when(section),
        original=int(original) if original and len(key) == 1 else None,
        layers=_layers(section, name),
        window=_window(section, name),
    )


def _theta(section: Section, rope: Mapping[str, Any], name: str, theta: float | None) -> float:
    inner = section.check("rope_theta", rope.get("rope_theta"))
    if inner is not None:
        return float(inner)
    if theta is not None:
        return theta
    keys = theta_keys(section, name)
    found = section.given_number(*keys)
    if found is None:
        found = _filled(section, rope, name, "rope_theta")
    if found is None:
        found = section.check(keys[0], next((v for k in keys if (v := section.defaults.values.get(k))), None))
    if found is None:
        found = 10000.0
    if section.given_number(*keys) is None:
        section.notes.append(f"rope_theta {found:g} taken from {_origin(section, rope, name, float(found))}")
    return float(found)


def _origin(section: Section, rope: Mapping[str, Any], name: str, base: float) -> str:
    """Where a base that the file does not write comes from, and whether another line of transformers has another."""
    if not section.defaults.known:
        return "convention"
    text = f"the class default of {section.model_type} (transformers {section.defaults.line})"
    for line in hf_defaults.lines():
        other = hf_defaults.lookup(section.model_type, line)
        if other.line == line != section.defaults.line:
            apart = dataclasses.replace(section, defaults=other)
            theirs = _filled(apart, rope, name, "rope_theta") or apart.number(*theta_keys(apart, name))
            if theirs and theirs != base:
                text += f"; transformers {line} has {theirs:g}, and transformers_version in the config decides"
    return text


def _filled(section: Section, rope: Mapping[str, Any], name: str, key: str) -> float | None:
    """What the class puts into a rope dict that lacks ``key``.

    A dict in the file replaces the class's own one whole; what is then filled in is another value for some classes.
    """
    default, fills = default_dict(section), section.defaults.facts.get("fills")
    fills = fills if isinstance(fills, Mapping) else {}
    own = (default.get(name), default)
    filled = (fills.get(name), fills)
    for source in (*filled, *own) if rope else (*own, *filled):
        if isinstance(source, Mapping) and isinstance(source.get(key), (int, float)):
            return float(source[key])
    return None


def theta_keys(section: Section, name: str) -> tuple[str, ...]:
    """The top-level keys that may hold a group's base, the class's own first."""
    sources = section.defaults.facts.get("base_from", {})
    own = tuple(key for key, groups in sources.items() if name in groups and key != "default_theta")
    if own:
        return own
    if name == "sliding_attention":
        return ("rope_local_base_freq", "local_rope_theta")
    return ("rope_theta", *THETA_KEYS)


def _partial(section: Section, rope: Mapping[str, Any], name: str, head: int) -> float:
    if latent := section.latent_width():
        return min(1.0, latent / head)  # the share that the config spells is derived from these two
    found = rope.get("partial_rotary_factor")
    if found is None:
        found = section.given_number("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction", limit=1.0)
    own = not section.defaults.known or "rotary_dim" in section.defaults.width_from
    if found is None and own and (width := section.given_number("rotary_dim", limit=MAX_WIDTH)):
        found = width / head
    if found is None:
        found = _filled(section, rope, name, "partial_rotary_factor")
    if found is None:
        found = section.defaults.values.get("partial_rotary_factor")
    if found is None:
        found = section.defaults.values.get("rotary_pct")
    if found is None and own and (width := section.number("rotary_dim", limit=MAX_WIDTH)):
        found = width / head
    checked = section.check("partial_rotary_factor", found, 1.0)
    return float(checked) if checked else 1.0


def _partial_when(section: Section) -> str:
    when = section.defaults.partial
    if "qk_rope_head_dim" in section.defaults.width_from:
        return "always"
    if when == "never" and {"partial_rotary_factor", "rotary_pct"} & set(section.defaults.width_from):
        return "always"
    return "always" if when == "default" else when


def only_sliding_rotates(section: Section) -> bool:
    """Whether the full-attention layers of this model carry no RoPE."""
    rule = section.defaults.facts.get("rotates")
    return rule == "window" or (rule == "window-any" and bool(section.get("sliding_window")))


def _layers(section: Section, name: str) -> tuple[int, ...] | None:
    types = section.layer_types()
    if name == "default" and types and only_sliding_rotates(section):
        return tuple(i for i, kind in enumerate(types) if "sliding" in kind) or None
    if name == "default":
        return None
    return tuple(i for i, kind in enumerate(types) if kind == name) or None if types else None


def _window(section: Section, name: str) -> int | None:
    if "sliding" not in name and "local" not in name and not only_sliding_rotates(section):
        return None
    value = section.number("sliding_window", "local_attention", "sliding_window_size", limit=1 << 40)
    return int(value) if value else None


def _clvp(section: Section, notes: list[str]) -> dict[str, Entry]:
    """CLVP rotates ``max(projection_dim / (2 heads), 32)`` dimensions at a fixed base."""
    width = max(
        int((section.number("projection_dim") or 768) // ((section.number("num_attention_heads") or 12) * 2)), 32
    )
    return {"default": Entry({}, ("rope_scaling",), 10000.0, width, reached=False)}


def _deepseek_v4(section: Section, notes: list[str]) -> dict[str, Entry]:
    """DeepSeek-V4: ``main`` for sliding layers is never scaled, ``compress`` for compressed ones takes the scaling."""
    rope, key = rope_dict(section)
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
    rope, key = rope_dict(section)
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
