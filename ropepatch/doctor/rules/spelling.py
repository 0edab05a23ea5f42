"""RP101 to RP109: how a rope dict of ``config.json`` is spelled."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from ropepatch.dialects.hf_scaling import ALIASES, KEPT_KEYS, READ, TYPE_KEYS
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effects, grouped, refused
from ropepatch.doctor.scope import labels
from ropepatch.doctor.subject import Subject
from ropepatch.errors import RopepatchError
from ropepatch.patch import Edit
from ropepatch.runtimes.config_view import ORIGINAL

#: model types whose config class and mlx-lm file want ``type``, not ``rope_type``
PHI = ("phi3", "phi4_multimodal")
#: keys that some engine reads beside those of ``READ``
_OTHERS = (
    "alpha", "apply_scale", "apply_yarn_scaling", "attn_factor", "extrapolation_factor", "finetuned", "long_mscale",
    "mixed_b", "mscale", "mscale_all_dim", "short_mscale", "video_rope",
)  # fmt: skip
KNOWN = frozenset({*(key for keys in READ.values() for key in keys), *KEPT_KEYS, *TYPE_KEYS, *_OTHERS})


def number(rope: Mapping[str, Any], key: str) -> float | None:
    """A key's value where it is a number."""
    value = rope.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def kind_of(rope: Mapping[str, Any]) -> str:
    """The rope type as transformers 5 takes it, by its present name."""
    name = rope.get("rope_type", rope.get("type")) or "default"
    return ALIASES.get(name, name) if isinstance(name, str) else "default"


def dotted(*path: str) -> str:
    """A path as it is shown."""
    return ".".join(path)


@rule(
    "RP101",
    "whole number as factor",
    "error",
    fix="write the factor with a decimal point",
    automatic=True,
    explains=True,
)
def whole_factor(subject: Subject) -> Iterator[Hit]:
    """vLLM and SGLang hold a linear factor that is no float for a list of factors and stop with a TypeError. To every
    other reader 4 and 4.0 are the same."""
    for path, rope in subject.ropes():
        factor = rope.get("factor")
        if isinstance(factor, bool) or not isinstance(factor, int) or abs(factor) > 1 << 53:
            continue
        edits = (subject.put((*path, "factor"), float(factor)),)
        concerned = subject.moved(edits)
        if concerned:
            text = f"{factor} is a whole number: {effects(subject, concerned)}"
            yield Hit(dotted(*path, "factor"), text, concerned, edits, f"write {float(factor)}")


@rule("RP102", "null instead of a value", "error", fix="take the key out", automatic=True, explains=True)
def null_value(subject: Subject) -> Iterator[Hit]:
    """A null factor means "declared over original context" to newer releases of transformers and makes the older ones
    and most other engines stop with a TypeError. A null beta is a default to transformers and a TypeError to vLLM,
    SGLang, mlx-lm and exllamav3."""
    for path, rope in subject.ropes():
        for key in (key for key, value in rope.items() if value is None and key in KNOWN):
            edits = _without_null(subject, path, rope, key)
            concerned = subject.moved(edits) if edits else ()
            if concerned:
                text = f"{key} is null: {effects(subject, concerned)}"
                yield Hit(dotted(*path, key), text, concerned, edits, _null_fix(edits[0]))


def _without_null(subject: Subject, path: tuple[str, ...], rope: Mapping[str, Any], key: str) -> tuple[Edit, ...]:
    if key != "factor":
        return (subject.drop((*path, key)),)
    original, declared = number(rope, ORIGINAL), subject.section.context()
    if not original or not declared:
        return ()
    return (subject.put((*path, key), declared / original),)


def _null_fix(edit: Edit) -> str:
    return "take the key out" if edit.after is None else f"write {edit.after.data}"


@rule(
    "RP103",
    "type and rope_type name different methods",
    "error",
    fix="keep rope_type, which transformers 5 follows, and take type out",
    upstream=("vllm-project/vllm#6897",),
    automatic=True,
    explains=True,
)
def two_types(subject: Subject) -> Iterator[Hit]:
    """transformers 5, SGLang and exllamav3 follow rope_type; transformers 4, TGI and mlx-lm follow type; vLLM refuses
    the file. The same config is then a different model on each engine."""
    for path, rope in subject.ropes():
        new, old = rope.get("rope_type"), rope.get("type")
        if not (isinstance(new, str) and isinstance(old, str)) or ALIASES.get(new, new) == ALIASES.get(old, old):
            continue
        edits = (subject.drop((*path, "type")),)
        concerned = subject.moved(edits)
        text = f"rope_type is {new!r} and type is {old!r}"
        said = f"{text}: {effects(subject, concerned)}" if concerned else f"{text}; engines disagree which one counts"
        yield Hit(dotted(*path), said, concerned, edits)


@rule(
    "RP104",
    "type stands beside rope_type",
    "error",
    fix="keep one of the two",
    automatic=True,
    explains=True,
)
def both_types(subject: Subject) -> Iterator[Hit]:
    """exllamav2 fails an assertion when both names of the rope type are there, even with the same value; a config that
    had type and was saved again by transformers has both. Phi-3's class of transformers 4 refuses the second name too,
    and wants the old one."""
    for path, rope in subject.ropes():
        new, old = rope.get("rope_type"), rope.get("type")
        if new is None or old is None or ALIASES.get(str(new), new) != ALIASES.get(str(old), old):
            continue
        gone = "rope_type" if subject.section.model_type in PHI else "type"
        edits = (subject.drop((*path, gone)),)
        concerned = subject.moved(edits)
        if concerned:
            text = f"type and rope_type are both there: {effects(subject, concerned)}"
            yield Hit(dotted(*path, gone), text, concerned, edits, f"take {gone} out")


@rule(
    "RP105",
    "scaling without a type",
    "error",
    fix="name the method under rope_type",
    explains=True,
)
def no_type(subject: Subject) -> Iterator[Hit]:
    """A rope dict that has a factor and names no method is no error to newer engines: they take the default type and
    leave the scaling off. Older ones stop with a KeyError."""
    for path, rope in subject.ropes():
        if any(rope.get(key) for key in TYPE_KEYS) or not rope.keys() & {"factor", "short_factor", "long_factor"}:
            continue
        specs = subject.scope.specs
        said = grouped(specs, lambda spec: _typeless(subject.refuses(spec), spec))
        yield Hit(dotted(*path), f"no rope_type says what the factor is for: {said}", specs)


def _typeless(error: RopepatchError | None, spec: str) -> str:
    return refused(spec, error) if error is not None else "scaling off"


@rule(
    "RP106",
    "rope type that engines do not know",
    "error",
    fix="use one of linear, dynamic, yarn, longrope, llama3; a fixed NTK base is rope_theta alone (apply --method ntk)",
    upstream=("vllm-project/vllm#10293",),
    explains=True,
)
def unknown_type(subject: Subject) -> Iterator[Hit]:
    """The type is none of transformers' own. Some engines have methods of their own under such names (vLLM's ntk, which
    slows every pair), others stop, and exllamav2 leaves the scaling off without a word."""
    for path, rope in subject.ropes():
        kind = kind_of(rope)
        if kind in READ:
            continue
        stops = tuple(spec for spec in subject.scope.specs if subject.refuses(spec))
        runs = tuple(spec for spec in subject.scope.specs if spec not in stops)
        text = f"{kind!r} is unknown to {labels(stops) or 'transformers'}"
        text += f"; {labels(runs)} load it, each in its own way" if runs else ""
        yield Hit(dotted(*path), text, stops)


@rule("RP107", "old name of LongRoPE", "error", fix="write longrope", automatic=True, explains=True)
def old_name(subject: Subject) -> Iterator[Hit]:
    """``su`` is what Phi-3 called LongRoPE at first. transformers 5 and what loads through it (vLLM, SGLang) look for
    the original context before they translate the name, and stop with a KeyError."""
    for path, rope in subject.ropes():
        named = [key for key in TYPE_KEYS if rope.get(key) == "su"]
        if not named:
            continue
        key = "type" if subject.section.model_type in PHI else "rope_type"
        edits = [subject.drop((*path, name)) for name in named if name != key]
        edits.append(subject.put((*path, key), "longrope"))
        concerned = subject.moved(edits)
        if concerned:
            text = f"{named[0]} is 'su': {effects(subject, concerned)}"
            yield Hit(dotted(*path, named[0]), text, concerned, tuple(edits), f"write {key}: longrope")


@rule("RP108", "key that looks misspelled", "warning", fix="write the key's right name", automatic=True)
def misspelled(subject: Subject) -> Iterator[Hit]:
    """No engine reads the key, and it is nearly the name of one that engines read: the value does nothing."""
    for path, rope in subject.ropes():
        for key in (key for key in rope if key not in KNOWN):
            near = difflib.get_close_matches(key.lower(), KNOWN - rope.keys(), n=1, cutoff=0.85)
            if near:
                edits = (subject.drop((*path, key)), subject.put((*path, near[0]), rope[key]))
                text = f"no engine reads {key!r}; {near[0]!r} was probably meant"
                yield Hit(dotted(*path, key), text, (), edits, f"write {near[0]}")


@rule("RP109", "key that no engine reads", "info", fix="take it out, unless an engine of your own reads it")
def unread(subject: Subject) -> Iterator[Hit]:
    """The key stands in the rope dict and none of the engines that ropepatch knows takes notice of it."""
    for path, rope in subject.ropes():
        for key in (key for key in rope if key not in KNOWN):
            if not difflib.get_close_matches(key.lower(), KNOWN - rope.keys(), n=1, cutoff=0.85):
                yield Hit(dotted(*path, key), f"no engine that ropepatch knows reads {key!r}")
