"""RP601 to RP621: the keys of a GGUF that hold for every architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ropepatch.containers.gguf import ArrayRef
from ropepatch.dialects.gguf import ALIASES
from ropepatch.dialects.gguf_scaling import SCALING_TYPES
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.subject import Subject
from ropepatch.errors import NoRope, RopepatchError
from ropepatch.methods.base import yarn_attention
from ropepatch.patch import Edit
from ropepatch.runtimes.llama_cpp_keys import SECTIONS, TYPES, wrong_types

_GGUF = ("gguf",)
#: a multiplier that was stored as float32 brings a magnitude no nearer to 1
_ROUNDING = 1e-6
SCALING_TYPE, FACTOR, _ORIGINAL = "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"
_ATTN = "rope.scaling.attn_factor"
#: what a string that llama.cpp aborts on comes to there
_SAME_AS = {"default": "none", "mrope": "none", "proportional": "none", "su": "longrope"}


@rule(
    "RP601",
    "scaling type that llama.cpp aborts on",
    "error",
    fix="use none, linear, yarn or longrope; Llama 3's scaling is the tensor rope_freqs.weight",
    formats=_GGUF,
    automatic=True,
)
def unknown_type(subject: Subject) -> Iterator[Hit]:
    """rope.scaling.type takes four words. On any other, llama3 and dynamic among them, the loader does not report an
    error: an assertion ends the process."""
    kind = subject.gguf.get(SCALING_TYPE)
    if kind is None or kind in SCALING_TYPES or not isinstance(kind, str):
        return
    same = _SAME_AS.get(kind)
    edits = (subject.put_key(SCALING_TYPE, "STRING", same),) if same else ()
    text = f"is {kind!r:.40}; llama.cpp knows {', '.join(SCALING_TYPES)} and aborts on the rest"
    yield Hit(subject.gguf.full(SCALING_TYPE), text, subject.scope.specs, edits, f"write {same}" if same else None)


def _retyped(subject: Subject, name: str, wanted: str) -> tuple[Edit, ...]:
    """The same value under the type that is asked for; nothing where it does not fit."""
    value, number = subject.gguf.get(name), subject.gguf.number(name)
    if wanted == "FLOAT32" and number is not None and abs(number) < 3e38:
        return (subject.put_key(name, wanted, float(np.float32(number))),)
    if wanted == "UINT32" and number is not None and number == int(number) and 0 <= number < 1 << 32:
        return (subject.put_key(name, wanted, int(number)),)
    if wanted == "BOOL" and value in (0, 1):
        return (subject.put_key(name, wanted, bool(value)),)
    return ()


@rule(
    "RP602",
    "value of the wrong scalar type",
    "error",
    fix="write the value with the type that the loader asks for",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#14182",),
    automatic=True,
)
def wrong_type(subject: Subject) -> Iterator[Hit]:
    """llama.cpp is strict: a 64-bit float or a signed number under a key that wants float32 or uint32 makes the whole
    model unloadable. Editors that guess the type from the text write such files."""
    view = subject.gguf
    if view.row is None:
        return
    for name, have, wanted in wrong_types(view.row, view.type_of):
        edits = _retyped(subject, name, wanted)
        text = f"is a {have}, llama.cpp expects {wanted} and refuses the file"
        yield Hit(view.full(name), text, subject.scope.specs, edits)


@rule(
    "RP603",
    "factor beside longrope",
    "error",
    fix="take rope.scaling.factor out: the lists hold the whole scaling",
    formats=_GGUF,
    automatic=True,
)
def factor_with_longrope(subject: Subject) -> Iterator[Hit]:
    """llama.cpp divides all positions by rope.scaling.factor under every type but none. Beside factor tensors it comes
    on top of them."""
    view = subject.gguf
    factor = view.number(FACTOR)
    if view.kind == "longrope" and factor not in (None, 0.0, 1.0):
        text = f"is {factor:g}: every pair turns {factor:g} times slower than the lists say"
        yield Hit(view.full(FACTOR), text, subject.scope.specs, (subject.drop_key(FACTOR),))


@rule(
    "RP604",
    "factor that does nothing",
    "warning",
    fix="take it out, or name the type that is meant",
    formats=_GGUF,
)
def factor_with_none(subject: Subject) -> Iterator[Hit]:
    """With rope.scaling.type none the factor is not applied, although it stands there."""
    view = subject.gguf
    factor = view.number(FACTOR)
    if view.kind == "none" and factor not in (None, 0.0, 1.0):
        text = f"is {factor:g} and is not applied: rope.scaling.type is none"
        yield Hit(view.full(FACTOR), text, subject.scope.specs)


@rule(
    "RP605",
    "YaRN or LongRoPE without an original context",
    "warning",
    fix="write rope.scaling.original_context_length, the trained length, as uint32",
    formats=_GGUF,
)
def no_original(subject: Subject) -> Iterator[Hit]:
    """Without the key llama.cpp takes context_length, so that raising that one moves YaRN's ramp, and a long list of
    factors is never chosen."""
    view = subject.gguf
    longs = any("rope_factors" in name for name in view.tensors)
    if view.get(_ORIGINAL) is not None or not (view.kind in ("yarn", "longrope") or longs):
        return
    context = view.number("context_length")
    text = f"is not there; llama.cpp takes context_length {context:,.0f}" if context else "is not there"
    text += ": the ramp starts from there" if view.kind == "yarn" else ": the long factors are never in force"
    fix = None
    if view.kind == "yarn" and context and view.factor > 1:
        fix = f"write {context / view.factor:.0f} if {context:.0f} is the extended context, else {context:.0f}"
    yield Hit(view.full(_ORIGINAL), text, subject.scope.specs, (), fix)


@rule(
    "RP606",
    "context_length is not original context times factor",
    "warning",
    fix="set context_length to original context times factor",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#17459", "ggml-org/llama.cpp#22140", "ggml-org/llama.cpp#28030"),
    automatic=True,
)
def context(subject: Subject) -> Iterator[Hit]:
    """llama-server gives a slot no more than context_length, and Ollama, LM Studio and others cut to it as well: where
    it was not raised with the factor, the extension cannot be used. Where it is higher, it promises too much."""
    view = subject.gguf
    declared, original = view.number("context_length"), view.number(_ORIGINAL)
    if not declared or not original or view.kind in ("none", "longrope") or view.factor <= 1:
        return
    reach = round(original * view.factor) if original * view.factor < 1 << 32 else 0
    if not reach or abs(declared - reach) <= 1:
        return
    text = f"is {declared:,.0f}; factor {view.factor:g} of {original:,.0f} reaches {reach:,}"
    if declared < reach:
        edits = (subject.put_key("context_length", "UINT32", reach),)
        yield Hit(view.full("context_length"), f"{text}: the rest cannot be used", subject.scope.specs, edits)
    else:
        yield Hit(view.full("context_length"), f"{text}: beyond that nothing is scaled", subject.scope.specs)


@rule(
    "RP608",
    "magnitude applied twice",
    "error",
    fix="take rope.scaling.attn_factor out: llama.cpp multiplies YaRN's own magnitude in by itself",
    formats=_GGUF,
    automatic=True,
)
def doubled(subject: Subject) -> Iterator[Hit]:
    """rope.scaling.attn_factor is a multiplier on top of YaRN's 0.1 ln factor + 1. transformers' attention_factor is
    the final value; copied over as it is, the magnitude counts twice."""
    view = subject.gguf
    given = view.number(_ATTN)
    if view.kind != "yarn" or not given or view.factor <= 1:
        return
    if view.number("rope.scaling.yarn_log_multiplier"):
        return  # latent attention: the two keys together make the magnitude, and neither says it alone
    usual = yarn_attention(view.factor)
    if math.isclose(given, usual, rel_tol=2e-3):
        text = f"is {given:.4g}, YaRN's own magnitude: cos and sin are multiplied by {given * usual:.4g}"
        yield Hit(view.full(_ATTN), text, subject.scope.specs, (subject.drop_key(_ATTN),), severity="warning")


@rule("RP612", "keys that cannot be read", "error", fix="mend the value", formats=_GGUF)
def unreadable(subject: Subject) -> Iterator[Hit]:
    """A number is negative, not finite or impossible. llama.cpp checks none of this: it loads the file, and crashes or
    computes NaN."""
    error, view = subject.lifted, subject.gguf
    typed = view.get(SCALING_TYPE)
    if not isinstance(error, RopepatchError) or isinstance(error, NoRope) or view.row is None:
        return
    if typed is None or typed in SCALING_TYPES:
        where = (error.where or "").rpartition(": ")[2] if ": " in (error.where or "") else ""
        yield Hit(where, error.what, subject.scope.specs, (), error.hint)


@rule(
    "RP613",
    "magnitude and cache shifts",
    "info",
    fix="do not use --context-shift, --cache-reuse or --grp-attn-n with this file",
    formats=_GGUF,
)
def shifts(subject: Subject) -> Iterator[Hit]:
    """A context shift rotates the cached keys again and multiplies them by the magnitude again, those that do not move
    among them. With a magnitude of 1 that is harmless."""
    concerned = subject.noting("context shift")
    scales = [one.attention_scale for spec in concerned for one in subject.predictions(spec)]
    scale = next((value for value in scales if abs(value - 1) > _ROUNDING), None)
    if scale is not None:
        yield Hit("", f"cos and sin are multiplied by {scale:.4g}; every shift applies it once more", concerned)


@rule(
    "RP614",
    "key under Ollama's name",
    "error",
    fix="write the key under llama.cpp's name",
    formats=_GGUF,
    upstream=("ollama/ollama#12348", "ollama/ollama#13449"),
    automatic=True,
)
def foreign(subject: Subject) -> Iterator[Hit]:
    """Ollama's converter has names of its own (rope.global.freq_base, rope.scaling.beta_fast, …), which its own loader
    translates. llama.cpp does not look for them and takes its defaults."""
    view, concerned = subject.gguf, subject.scope.but("ollama")
    if view.prefix != view.arch:
        text = f"is {view.prefix!r}; llama.cpp calls it {view.arch!r} and does not load the file"
        yield Hit("general.architecture", text, concerned)
    for name, others in ALIASES.items():
        for other in others:
            if other in ("rope.scale_linear", "rope.scale") or view.get(other) is None or view.get(name) is not None:
                continue
            record, kind = view.record(other), view.type_of(other)
            known = record is not None and kind is not None and not isinstance(record.value, ArrayRef)
            edits = (subject.drop_key(other), subject.put_key(name, kind or "", view.get(other))) if known else ()
            yield Hit(view.full(other), f"llama.cpp looks for {view.full(name)}", concerned, edits, f"write {name}")


@rule(
    "RP616",
    "old and new name of the factor",
    "info",
    fix="take rope.scale_linear out",
    formats=_GGUF,
    automatic=True,
)
def two_factors(subject: Subject) -> Iterator[Hit]:
    """rope.scale_linear is the factor's old name, read only where rope.scaling.factor is absent."""
    view = subject.gguf
    if view.get("rope.scale_linear") is not None and view.get(FACTOR) is not None:
        text = f"is not read beside rope.scaling.factor {view.get(FACTOR)}"
        edits = (subject.drop_key("rope.scale_linear"),)
        yield Hit(view.full("rope.scale_linear"), text, subject.scope.specs, edits)


@rule(
    "RP617",
    "no base",
    "info",
    fix="write rope.freq_base where the model's base is another",
    formats=_GGUF,
    upstream=("ollama/ollama#2379",),
)
def no_base(subject: Subject) -> Iterator[Hit]:
    """Without rope.freq_base llama.cpp takes 10000. Files of Qwen 1.5 that lack the key run with the wrong base."""
    view = subject.gguf
    spellings = ("rope.freq_base", *ALIASES["rope.freq_base"])
    if subject.profile is not None and all(view.get(name) is None for name in spellings):
        yield Hit(view.full("rope.freq_base"), "is not there; llama.cpp takes 10000", subject.scope.specs)


@rule("RP621", "rope key that llama.cpp does not know", "info", fix="nothing reads it", formats=_GGUF)
def unknown_keys(subject: Subject) -> Iterator[Hit]:
    """The key is none that llama.cpp reads or its converter writes."""
    view = subject.gguf
    known = {*TYPES, *(other for others in ALIASES.values() for other in others), SECTIONS}
    for name in view.names():
        if name.startswith("rope.") and name not in known:
            yield Hit(view.full(name), "is none that llama.cpp reads", subject.scope.specs)
