"""A profile to edits of ``config.json``, in the layout that the file has and in the portable spelling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.dialects import factors as factor_lists
from ropepatch.dialects import hf_families, hf_remote, hf_scaling, hf_values
from ropepatch.dialects.base import Lowering
from ropepatch.dialects.hf_section import THETA_KEYS
from ropepatch.errors import MethodUnsupported
from ropepatch.methods.base import Method
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.yarn import Yarn
from ropepatch.patch import Edit, Value, difference
from ropepatch.profile import RopeGroup, RopeProfile

if TYPE_CHECKING:
    from ropepatch.dialects.hf_config import HfDialect

#: vLLM leaves their declared context alone where it multiplies that of every other model by the factor
_NOT_MULTIPLIED = ("gemma3", "gemma3_text")


def lower(
    dialect: HfDialect, before: RopeProfile, after: RopeProfile, options: Lowering
) -> tuple[list[Edit], list[str]]:
    """Edits and notes that take the config from ``before`` to ``after``; see :meth:`Dialect.lower`."""
    notes: list[str] = []
    changed = [name for name in after.groups if after.groups[name] != before.groups[name]]
    wanted: dict[tuple[str, ...], Any] = {}
    kinds: set[str] = set()
    for name in changed:
        baked = dataclasses.replace(options, bake=_has_to_bake(dialect, name, after.groups[name], options))
        theta, rope = _spell(dialect, after, after.groups[name], baked, notes)
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        kinds.add(kind)
        if needs_head_dim(dialect, kind):
            wanted[("head_dim",)] = after.groups[name].head_dim
            notes.append(f"head_dim is written: transformers 5 fails on {kind} for this model type without it")
        wanted |= hf_remote.placed(dialect.section, _place(dialect, name, theta, rope, options), theta)
    wanted |= _contexts(dialect, after, changed, kinds, notes)
    return _edits(dialect, wanted), notes


def _spell(
    dialect: HfDialect, after: RopeProfile, group: RopeGroup, options: Lowering, notes: list[str]
) -> tuple[float, dict[str, Any]]:
    """The base and the rope dict (empty for no scaling) that make ``group``."""
    scaling = group.scaling
    _check_class(dialect, group, options)
    if scaling.rebases() and not options.bake:
        return scaling.theta(group.spectrum()), {}
    rope = None if options.bake and scaling.static and scaling.name != "none" else hf_scaling.spell(scaling)
    if rope is None:
        rope = _baked(dialect, after, group, notes)
    if rope.get("rope_type") == "yarn" and dialect.section.model_type == "deepseek_v4":
        rope["attention_factor"] = float(group.scaling.apply(group.spectrum(), None).attention_scale)
    if rope.get("rope_type") == "longrope" and dialect.section.model_type in ("phi3", "phi4_multimodal", "phimoe"):
        rope = _spell_phi(after, rope, notes)
    return group.rope_theta, rope


def _spell_phi(after: RopeProfile, rope: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The one spelling that both lines of transformers, mlx-lm and exllamav2 accept for Phi."""
    block = {"type": "longrope", **{k: v for k, v in rope.items() if k in ("short_factor", "long_factor")}}
    attention, original, declared = rope.get("attention_factor"), after.trained_context, after.declared_context
    if attention is not None:
        usual = None
        if original and declared and original > 1:
            usual = LongRope((1.0,), (1.0,), original, declared / original).attention
        if usual is None or abs(attention / usual - 1) > 1e-9:
            block["attention_factor"] = attention
            notes.append("transformers 4 refuses attention_factor in a Phi config; this one needs transformers 5")
    return block


def _has_to_bake(dialect: HfDialect, name: str, group: RopeGroup, options: Lowering) -> bool:
    """Whether the method has to be written as factors: asked for, or its rope type would be refused or misread."""
    kind = rope_type_of(group.scaling, options)
    if options.bake or kind is None or not group.scaling.static:
        return options.bake
    if isinstance(group.scaling, Yarn) and not group.scaling.truncate and name != "default":
        return True  # transformers 5.23 looks for truncate beside the layer types, not in their dicts
    return _refusal(dialect, kind) is not None and _refusal(dialect, "longrope") is None


def _refusal(dialect: HfDialect, kind: str) -> str | None:
    reason = hf_remote.takes(dialect.section, kind) or dialect.section.defaults.takes(kind)
    return None if needs_head_dim(dialect, kind) else reason


def needs_head_dim(dialect: HfDialect, kind: str) -> bool:
    """Whether transformers fails on ``kind`` for want of a ``head_dim`` that the config does not spell.

    Its functions for some rope types take ``config.head_dim`` as it is, and a few classes leave it null
    (modeling_rope_utils.py of 5.23: ``getattr(config, "head_dim", …)``).
    """
    defaults = dialect.section.defaults
    yarn = defaults.takes("yarn") or ""
    return dialect.section.get("head_dim") is None and "NoneType" in yarn and kind in ("yarn", "dynamic", "longrope")


def rope_type_of(scaling: Method, options: Lowering) -> str | None:
    """The rope type that a method will be written as; None when only the base changes."""
    if scaling.rebases() and not options.bake:
        return None
    named = hf_scaling.spell(scaling)
    if named == {}:
        return None
    return "longrope" if named is None or (options.bake and scaling.static) else str(named["rope_type"])


def _check_class(dialect: HfDialect, group: RopeGroup, options: Lowering) -> None:
    """Refuse what transformers' rotary class for this model type ignores or fails on."""
    kind = rope_type_of(group.scaling, options)
    if kind is None:
        _check_base(dialect, group)
        return
    odd = group.rotary_dim % 2 == 1
    reason = _refusal(dialect, kind) or (f"it rotates {group.rotary_dim} dimensions, an odd number" if odd else None)
    if reason is not None:
        others = [] if odd else [name for name in hf_scaling.READ if name != "default" and not _refusal(dialect, name)]
        raise MethodUnsupported(
            f"model type {dialect.section.model_type} does not take rope_type {kind}: {reason}",
            where=str(dialect.path),
            hint="ntk and theta change the base alone" + (f"; it takes {', '.join(others)}" if others else ""),
        )


def _check_base(dialect: HfDialect, group: RopeGroup) -> None:
    """Refuse a change of base where the base is not one number for the group."""
    groups = dialect.section.defaults.facts.get("groups") or [""]
    if group.scaling.name != "none" and (groups[0] == "scaled" or str(groups[0]).startswith("theta=")):
        raise MethodUnsupported(
            f"the base of {dialect.section.model_type} is shared with layers that a scaling does not reach",
            where=str(dialect.path),
            hint="linear, yarn and llama3 reach the scaled layers alone",
        )


def _baked(dialect: HfDialect, after: RopeProfile, group: RopeGroup, notes: list[str]) -> dict[str, Any]:
    """Any static method as ``longrope`` with equal lists and an explicit attention factor."""
    if not group.scaling.static:
        raise MethodUnsupported(
            f"{group.scaling.to_json()['method']} follows the length at run time and has no rope type here",
            where=str(dialect.path),
        )
    divisors, attention = factor_lists.baked(group)
    factors = tuple(float(f) for f in divisors)
    original = after.trained_context or after.declared_context or 2
    notes.append(
        "written as longrope factors, which transformers reads exactly; vLLM, SGLang and mlx-lm take the factors and "
        "compute an attention factor of their own"
    )
    rope = hf_scaling.spell(LongRope(factors, factors, original, attention_factor=attention))
    assert rope is not None
    return rope


def _layouts(dialect: HfDialect, options: Lowering) -> tuple[str, ...]:
    """The layouts to write.

    Raises:
        MethodUnsupported: the model type cannot say this in the layout of transformers 4.
    """
    layout = options.hf_layout or dialect.layout_version
    section = dialect.section
    groups = section.defaults.facts.get("groups") or []
    by_type = bool(groups) and not str(groups[0]).startswith("theta=")
    if layout == "none" and by_type and section.defaults.only_new:
        layout = "v5"
    if layout != "v5" and by_type and (section.defaults.only_new or section.model_type.startswith("modernbert")):
        reason = (
            "transformers 4 has no such model" if section.defaults.only_new else "it would reach the sliding layers"
        )
        raise MethodUnsupported(
            f"the v4 layout cannot hold a scaling for the full-attention layers of {section.model_type}: {reason}",
            where=str(dialect.path),
            hint="pass --hf-layout v5",
        )
    return {"both": ("v4", "v5"), "v5": ("v5",)}.get(layout, ("v4",))


def _place(
    dialect: HfDialect, name: str, theta: float, rope: dict[str, Any], options: Lowering
) -> dict[tuple[str, ...], Any]:
    """Values by path (below the text section) for one group; None deletes the key, ``_NULL`` writes a null."""
    given = dialect.section.given
    wanted: dict[tuple[str, ...], Any] = {}
    layouts = _layouts(dialect, options)
    old_dict, _ = hf_values.rope_dict(dialect.section)
    nested = isinstance(old_dict.get(name), Mapping)
    old = old_dict.get(name, {}) if nested else old_dict
    kept = {key: value for key, value in old.items() if key in hf_scaling.KEPT_KEYS and key != "rope_theta"}
    if "v4" in layouts:
        wanted |= _place_v4(dialect, name, theta, rope, kept, nested)
    elif given.get("rope_scaling") is not None:
        wanted[("rope_scaling",)] = None
    if "v5" in layouts:
        typed = {"rope_type": rope.get("rope_type", rope.get("type", "default"))}
        block = {**typed, "rope_theta": theta, **{k: v for k, v in rope.items() if k != "type"}, **kept}
        by_type = nested or isinstance(hf_values.default_dict(dialect.section).get(name), Mapping)
        wanted[("rope_parameters", name) if by_type else ("rope_parameters",)] = block
        for key in ("rope_theta", *THETA_KEYS):
            if "v4" not in layouts and given.get(key) is not None and key not in dialect.section.own_keys:
                wanted[(key,)] = None
    elif given.get("rope_parameters") is not None:
        wanted[("rope_parameters",)] = None
    return wanted


def _place_v4(
    dialect: HfDialect, name: str, theta: float, rope: dict[str, Any], kept: dict[str, Any], nested: bool
) -> dict[tuple[str, ...], Any]:
    given = dialect.section.given
    wanted: dict[tuple[str, ...], Any] = {}
    # Without a dict the class's own comes back, and a few classes have a scaling in theirs (gpt_oss).
    default = hf_values.default_dict(dialect.section)
    spoken = bool(kept) or default.get("rope_type", default.get("type", "default")) != "default"
    block: Any = {**rope, **kept} if rope else ({"rope_type": "default", **kept} if spoken else None)
    path = ("rope_scaling", name) if nested and "rope_scaling" in given else ("rope_scaling",)
    if block is not None or "rope_scaling" in given:
        wanted[path] = block if block is not None else _NULL
    key = theta_key(dialect, name)
    moved = given.get("rope_parameters") is not None  # the base that stood in there has to stand beside now
    if given.get(key) is not None or moved or theta != _current_theta(dialect, name):
        wanted[(key,)] = theta
    return wanted


class _Null:
    """Stands for a JSON null, where None means that the key goes."""


_NULL = _Null()


def theta_key(dialect: HfDialect, name: str) -> str:
    """The top-level key that holds the base of a group: the one in the file, else the class's first."""
    keys = hf_values.theta_keys(dialect.section, name)
    return next((key for key in keys if dialect.section.given.get(key) is not None), keys[0])


def _current_theta(dialect: HfDialect, name: str) -> float | None:
    found = hf_families.entries(dialect.section, []).get(name)
    return found.theta if found else None


def _contexts(
    dialect: HfDialect, after: RopeProfile, changed: list[str], kinds: set[str], notes: list[str]
) -> dict[tuple[str, ...], Any]:
    wanted: dict[tuple[str, ...], Any] = {}
    scalings: list[Method] = [after.groups[name].scaling for name in changed]
    declared = after.declared_context
    # transformers starts a dynamic base from this very key; linear is multiplied by the engines.
    stays = "dynamic" in kinds or ("linear" in kinds and dialect.section.model_type not in _NOT_MULTIPLIED)
    if stays and after.trained_context:
        notes.append(
            f"max_position_embeddings stays at {after.trained_context}: engines multiply it by the factor themselves; "
            f"the new context is {declared}"
        )
        declared = after.trained_context
    if declared is not None:
        wanted[(dialect.section.context_key(),)] = declared
    original = next((s.original_max_position_embeddings for s in scalings if isinstance(s, LongRope)), None)
    top = dialect.section.given.get("original_max_position_embeddings")
    if "longrope" in kinds or top is not None:
        wanted[("original_max_position_embeddings",)] = original or after.trained_context or top
    return wanted


def _edits(dialect: HfDialect, wanted: Mapping[tuple[str, ...], Any]) -> list[Edit]:
    prefix, given = dialect.section.path, dialect.section.given
    before: dict[tuple[str, ...], Value] = {}
    after: dict[tuple[str, ...], Value | None] = {}
    for path, value in wanted.items():
        found: Any = given
        present = True
        for key in path:
            present = isinstance(found, Mapping) and key in found
            found = found[key] if present else None
        full = (*prefix, *path)
        if present:
            before[full] = Value(found)
        after[full] = None if value is None else Value(None if value is _NULL else value)
    name = dialect.path.name
    return difference(name, "json", before, {k: v for k, v in after.items() if v is not None or k in before})
