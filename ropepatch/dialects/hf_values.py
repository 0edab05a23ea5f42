"""The values of one rope group of a ``config.json``: what the file spells, else what its class has for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ropepatch.dialects import hf_defaults
from ropepatch.dialects.hf_section import MAX_WIDTH, THETA_KEYS, Section
from ropepatch.errors import InputError


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


def theta(section: Section, rope: Mapping[str, Any], name: str, own: float | None) -> float:
    """The base of a group, ``own`` where it has one that no key of the file changes; a note where it is a default."""
    inner = section.check("rope_theta", rope.get("rope_theta"))
    if inner is not None:
        return float(inner)
    if own is not None:
        return own
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


def partial(section: Section, rope: Mapping[str, Any], name: str, head: int) -> float:
    """The share of a head of ``head`` dimensions that rotates."""
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


def partial_when(section: Section) -> str:
    """For which rope types the class takes a share of the head: ``always``, ``never``, or as its defaults say."""
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


def layers(section: Section, name: str) -> tuple[int, ...] | None:
    """The layers of a group; None where it is all, or the file does not say."""
    types = section.layer_types()
    if name == "default" and types and only_sliding_rotates(section):
        return tuple(i for i, kind in enumerate(types) if "sliding" in kind) or None
    if name == "default":
        return None
    return tuple(i for i, kind in enumerate(types) if kind == name) or None if types else None


def window(section: Section, name: str) -> int | None:
    """The sliding window of a group in tokens; None where it has none."""
    if "sliding" not in name and "local" not in name and not only_sliding_rotates(section):
        return None
    value = section.number("sliding_window", "local_attention", "sliding_window_size", limit=1 << 40)
    return int(value) if value else None
