"""The rope dict of an HF config (``rope_scaling`` or one entry of ``rope_parameters``) to a method and back.

What each key means is transformers' ``modeling_rope_utils.py``; where its lines differ, the 5.x reading is the
profile's, and what another runtime makes of the same dict is that runtime's room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ropepatch.errors import InputError
from ropepatch.methods.base import Method, ParameterError, yarn_attention
from ropepatch.methods.dynamic import Dynamic
from ropepatch.methods.linear import Linear
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.none import NoScaling
from ropepatch.methods.proportional import Proportional
from ropepatch.methods.yarn import Yarn

#: keys that say which scaling is on; each rope type reads its own, every other key stays
TYPE_KEYS = ("rope_type", "type")
#: keys of the dict that belong to the rotation itself and outlive a change of scaling
KEPT_KEYS = frozenset(
    {
        "rope_theta",
        "partial_rotary_factor",
        "mrope_section",
        "mrope_interleaved",
        "xdrope_section",
        "llama_4_scaling_beta",
    }
)
ALIASES = {"su": "longrope", "mrope": "default", "deepseek_yarn": "yarn", "none": "default"}
#: keys of each rope type that ropepatch understands
READ = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "truncate",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "original_max_position_embeddings", "short_factor", "long_factor", "attention_factor"),
    "proportional": ("factor", "partial_rotary_factor"),
}


@dataclass
class Context:
    """What a rope dict is read in the light of.

    Attributes:
        where: file and key, for messages.
        max_position: the config's declared context.
        original: a top-level ``original_max_position_embeddings``; it overrides the one in the dict.
        notes: sentences for the person are added here.
    """

    where: str
    max_position: int | None
    original: int | None = None
    notes: list[str] = field(default_factory=list)


def rope_type(rope: Mapping[str, Any], where: str) -> str:
    """The rope type by its canonical name; ``default`` when the dict names none.

    Raises:
        InputError: it is none that transformers knows.
    """
    name = rope.get("rope_type", rope.get("type")) or "default"
    canonical = ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(canonical, str) or canonical not in READ:
        raise InputError(
            f"unknown rope_type {name!r}", where=where, hint=f"transformers knows {', '.join(READ)} and su"
        )
    return canonical


def lift(rope: Mapping[str, Any], context: Context) -> Method:
    """The method that a rope dict puts in force.

    Raises:
        InputError: an unknown type, a missing key, or an impossible value.
    """
    kind = rope_type(rope, context.where)
    for key in TYPE_KEYS:
        other = rope.get(key)
        if isinstance(other, str) and ALIASES.get(other, other) != kind:
            context.notes.append(
                f"{context.where}: type and rope_type disagree; {kind} is taken, as transformers 5 does"
            )
    if kind == "default" and rope.get("factor") is not None:
        context.notes.append(f"{context.where}: factor {rope['factor']} has no effect without a rope_type")
    try:
        return _READERS[kind](rope, context)
    except ParameterError as error:
        raise InputError(str(error), where=context.where) from None


def _default(rope: Mapping[str, Any], context: Context) -> Method:
    return NoScaling()


def _linear(rope: Mapping[str, Any], context: Context) -> Method:
    return Linear.from_parameters({"factor": _need(rope, "factor", context)})


def _dynamic(rope: Mapping[str, Any], context: Context) -> Method:
    return Dynamic.from_parameters(
        {"factor": _need(rope, "factor", context), "original_max_position_embeddings": _declared(context)}
    )


def _yarn(rope: Mapping[str, Any], context: Context) -> Method:
    values = _given(rope, "yarn")
    original = _original(rope, context)
    values["original_max_position_embeddings"] = original
    if "factor" not in values:
        if "factor" not in rope:
            _need(rope, "factor", context)
        values["factor"] = _declared(context) / _whole(original, "original_max_position_embeddings")
        context.notes.append(f"{context.where}: factor is null; transformers 5 takes {values['factor']:g}")
    return Yarn.from_parameters(values)


def _llama3(rope: Mapping[str, Any], context: Context) -> Method:
    values = _given(rope, "llama3")
    for key in ("factor", "low_freq_factor", "high_freq_factor"):
        _need(rope, key, context)
    values["original_max_position_embeddings"] = _original(rope, context)
    return Llama3.from_parameters(values)


def _longrope(rope: Mapping[str, Any], context: Context) -> Method:
    values = _given(rope, "longrope")
    for key in ("short_factor", "long_factor"):
        _need(rope, key, context)
    original = _whole(_original(rope, context), "original_max_position_embeddings")
    values["original_max_position_embeddings"] = original
    if "factor" not in values and context.max_position:
        values["factor"] = context.max_position / original
    return LongRope.from_parameters(values)


def _proportional(rope: Mapping[str, Any], context: Context) -> Method:
    return Proportional.from_parameters(_given(rope, "proportional"))


_READERS: dict[str, Callable[[Mapping[str, Any], Context], Method]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
}


def _given(rope: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {key: rope[key] for key in READ[kind] if rope.get(key) is not None}


def _need(rope: Mapping[str, Any], key: str, context: Context) -> Any:
    if rope.get(key) is None:
        raise InputError(f"{rope_type(rope, context.where)} needs {key}", where=context.where)
    return rope[key]


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise ParameterError(f"{name} must be a positive whole number, not {value!r}")
    return int(value)


def _declared(context: Context) -> int:
    if not context.max_position:
        raise InputError("needs max_position_embeddings, which the config does not have", where=context.where)
    return context.max_position


def _original(rope: Mapping[str, Any], context: Context) -> Any:
    inner = rope.get("original_max_position_embeddings")
    if context.original is not None:
        if inner is not None and inner != context.original:
            context.notes.append(
                f"{context.where}: the top-level original_max_position_embeddings {context.original} overrides {inner}"
            )
        return context.original
    if inner is not None:
        return inner
    context.notes.append(
        f"{context.where}: original_max_position_embeddings is not written; transformers 5 takes "
        f"max_position_embeddings {_declared(context)}"
    )
    return _declared(context)


def unread(rope: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The keys of a rope dict that mean nothing to its rope type."""
    return {
        key: value
        for key, value in rope.items()
        if key not in READ[kind] and key not in TYPE_KEYS and key not in KEPT_KEYS
    }


def spell(scaling: Method) -> dict[str, Any] | None:
    """The portable rope dict of a method: one type key, float factor, whole lengths, no nulls.

    Returns:
        None when transformers has no rope type for it; ``{}`` for no scaling.
    """
    if isinstance(scaling, NoScaling):
        return {}
    if isinstance(scaling, Linear):
        return {"rope_type": "linear", "factor": float(scaling.factor)}
    if isinstance(scaling, Dynamic):
        return {"rope_type": "dynamic", "factor": float(scaling.factor)}
    if isinstance(scaling, Yarn):
        return _spell_yarn(scaling)
    if isinstance(scaling, Llama3):
        return {
            "rope_type": "llama3",
            "factor": float(scaling.factor),
            "low_freq_factor": float(scaling.low_freq_factor),
            "high_freq_factor": float(scaling.high_freq_factor),
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
        }
    if isinstance(scaling, LongRope):
        return _spell_longrope(scaling)
    if isinstance(scaling, Proportional):
        return {"rope_type": "proportional", **scaling.parameters()}
    return None


def _spell_yarn(scaling: Yarn) -> dict[str, Any]:
    rope: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": float(scaling.factor),
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }
    if scaling.beta_fast != 32:
        rope["beta_fast"] = float(scaling.beta_fast)
    if scaling.beta_slow != 1:
        rope["beta_slow"] = float(scaling.beta_slow)
    if not scaling.truncate:
        rope["truncate"] = False
    if scaling.mscale is not None or scaling.mscale_all_dim is not None:
        rope |= {k: v for k in ("mscale", "mscale_all_dim") if (v := getattr(scaling, k)) is not None}
    usual = yarn_attention(scaling.factor)
    if scaling.attention_factor is not None and abs(scaling.attention_factor - usual) > 1e-12:
        # Two spellings of one wish: a final value for transformers, a multiplier for SGLang and older vLLM.
        rope["attention_factor"] = float(scaling.attention_factor)
        rope["attn_factor"] = float(scaling.attention_factor / usual)
    return rope


def _spell_longrope(scaling: LongRope) -> dict[str, Any]:
    rope: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": [float(f) for f in scaling.short_factor],
        "long_factor": [float(f) for f in scaling.long_factor],
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }
    if scaling.attention_factor is not None:
        rope["attention_factor"] = float(scaling.attention_factor)
    return rope
