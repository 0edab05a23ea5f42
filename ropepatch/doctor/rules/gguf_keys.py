"""RP601 to RP621: the keys of a GGUF, as llama.cpp reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ropepatch.containers.gguf import ArrayRef
from ropepatch.dialects.gguf import ALIASES, SCALING_TYPES
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.gguf_view import GgufView
from ropepatch.doctor.subject import Subject
from ropepatch.errors import NoRope, RopepatchError
from ropepatch.methods.base import yarn_attention
from ropepatch.methods.yarn import Yarn

_GGUF = ("gguf",)
_TYPE, _FACTOR, _ORIGINAL = "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"
_ATTN, _LOG = "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier"
#: the scalar type that the loader demands of each key that it reads
_TYPES = {
    "context_length": "UINT32", "rope.dimension_count": "UINT32", "rope.dimension_count_swa": "UINT32",
    "rope.freq_base": "FLOAT32", "rope.freq_base_swa": "FLOAT32", _TYPE: "STRING", _FACTOR: "FLOAT32",
    "rope.scale_linear": "FLOAT32", _ATTN: "FLOAT32", _ORIGINAL: "UINT32", "rope.scaling.finetuned": "BOOL",
    _LOG: "FLOAT32", "rope.scaling.yarn_ext_factor": "FLOAT32", "rope.scaling.yarn_attn_factor": "FLOAT32",
    "rope.scaling.yarn_beta_fast": "FLOAT32", "rope.scaling.yarn_beta_slow": "FLOAT32", "rope.scaling.alpha": "FLOAT32",
}  # fmt: skip
#: YaRN keys that few architectures read, with the value that stands in for them elsewhere
_RARE = {
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    _LOG: 0.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.alpha": 0.0,
}
#: what a string that llama.cpp aborts on comes to there
_SAME_AS = {"default": "none", "mrope": "none", "proportional": "none", "su": "longrope"}


def _reads(view: GgufView, key: str) -> bool:
    """Whether llama.cpp looks at a key for this architecture."""
    row = view.row
    if key in ("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"):
        return row is not None and row.betas
    if key == _LOG:
        return row is not None and row.log_mul in ("raw", "tenth")
    if key in ("rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"):
        return view.arch == "grok"
    if key == "rope.scaling.alpha":
        return row is not None and "rope.scaling.alpha" in row.note
    return True


@rule(
    "RP601",
    "scaling type that llama.cpp aborts on",
    "error",
    fix="use none, linear, yarn or longrope; Llama 3's scaling is the tensor rope_freqs.weight",
    formats=_GGUF,
    automatic=True,
)
def unknown_type(subject: Subject) -> Iterator[Hit]:
    """rope.scaling.type takes four words. On any other, llama3 and dynamic among them, the loader does not report an error:
    an assertion ends the process."""
    kind = subject.gguf.get(_TYPE)
    if kind is None or kind in SCALING_TYPES or not isinstance(kind, str):
        return
    same = _SAME_AS.get(kind)
    edits = (subject.put_key(_TYPE, "STRING", same),) if same else ()
    text = f"is {kind!r:.40}; llama.cpp knows {', '.join(SCALING_TYPES)} and aborts on the rest"
    yield Hit(subject.gguf.full(_TYPE), text, subject.scope.specs, edits, f"write {same}" if same else None)


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
    """llama.cpp is strict: a 64-bit float or a signed number under a key that wants float32 or uint32 makes the whole model
    unloadable. Editors that guess the type from the text write such files."""
    view = subject.gguf
    for name, wanted in _TYPES.items():
        have = view.type_of(name)
        if have in (None, wanted, "ARRAY") or not _reads(view, name):
            continue
        value = view.get(name)
        edits = ()
        if wanted == "FLOAT32" and isinstance(value, (int, float)) and abs(value) < 3e38:
            edits = (subject.put_key(name, wanted, float(np.float32(value))),)
        elif wanted == "UINT32" and isinstance(value, (int, float)) and value == int(value) and 0 <= value < 1 << 32:
            edits = (subject.put_key(name, wanted, int(value)),)
        elif wanted == "BOOL" and value in (0, 1):
            edits = (subject.put_key(name, wanted, bool(value)),)
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
    """llama.cpp divides all positions by rope.scaling.factor under every type but none. Beside factor tensors it comes on
    top of them."""
    view = subject.gguf
    factor = view.number(_FACTOR)
    if view.kind == "longrope" and factor not in (None, 0.0, 1.0):
        text = f"is {factor:g}: every pair turns {factor:g} times slower than the lists say"
        yield Hit(view.full(_FACTOR), text, subject.scope.specs, (subject.drop_key(_FACTOR),))


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
    factor = view.number(_FACTOR)
    if view.kind == "none" and factor not in (None, 0.0, 1.0):
        text = f"is {factor:g} and is not applied: rope.scaling.type is none"
        yield Hit(view.full(_FACTOR), text, subject.scope.specs)


@rule(
    "RP605",
    "YaRN or LongRoPE without an original context",
    "warning",
    fix="write rope.scaling.original_context_length, the trained length, as uint32",
    formats=_GGUF,
)
def no_original(subject: Subject) -> Iterator[Hit]:
    """Without the key llama.cpp takes context_length, so that raising that one moves YaRN's ramp, and a long list of factors
    is never chosen."""
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
    """llama-server gives a slot no more than context_length, and Ollama, LM Studio and others cut to it as well: where it
    was not raised with the factor, the extension cannot be used. Where it is higher, it promises too much."""
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
    "RP607",
    "key that llama.cpp does not read for this architecture",
    "warning",
    fix="bake the method into rope_freqs.weight where the architecture reads it (apply --bake --existing replace)",
    formats=_GGUF,
    upstream=("ikawrakow/ik_llama.cpp#1298", "ikawrakow/ik_llama.cpp#2003"),
)
def unread_keys(subject: Subject) -> Iterator[Hit]:
    """The converter writes YaRN's betas and factors for every architecture; llama.cpp reads the betas for grok, mistral3 and
    k2-horizon, the log multiplier for DeepSeek's and Mistral's, the others for grok alone."""
    view = subject.gguf
    for name, usual in _RARE.items():
        value = view.number(name)
        if value is None or _reads(view, name) or math.isclose(value, usual, abs_tol=1e-9):
            continue
        text = f"is {value:g} and is not read for {view.arch}; {usual:g} stands in for it"
        yield Hit(view.full(name), text, subject.scope.specs)


@rule(
    "RP608",
    "magnitude applied twice",
    "error",
    fix="take rope.scaling.attn_factor out: llama.cpp multiplies YaRN's own magnitude in by itself",
    formats=_GGUF,
    automatic=True,
)
def doubled(subject: Subject) -> Iterator[Hit]:
    """rope.scaling.attn_factor is a multiplier on top of YaRN's 0.1 ln factor + 1. transformers' attention_factor is the
    final value; copied over as it is, the magnitude counts twice."""
    view = subject.gguf
    given = view.number(_ATTN)
    if view.kind != "yarn" or not given or view.factor <= 1:
        return
    usual = yarn_attention(view.factor)
    if math.isclose(given, usual, rel_tol=2e-3):
        text = f"is {given:.4g}, YaRN's own magnitude: cos and sin are multiplied by {given * usual:.4g}"
        yield Hit(view.full(_ATTN), text, subject.scope.specs, (subject.drop_key(_ATTN),), severity="warning")


@rule(
    "RP609",
    "log multiplier in the other convention",
    "warning",
    fix="deepseek2, deepseek32 and mistral4 store a tenth of mscale_all_dim, mistral3 stores it as it is",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#14896",),
    automatic=True,
)
def log_multiplier(subject: Subject) -> Iterator[Hit]:
    """rope.scaling.yarn_log_multiplier is mscale_all_dim for mistral3 and a tenth of it for DeepSeek's architectures. A value
    that fits the other convention makes the magnitude wrong by a factor of ten in its logarithm."""
    view = subject.gguf
    value, row = view.number(_LOG), view.row
    if not value or row is None:
        return
    if row.log_mul == "tenth" and value >= 0.5:
        right = value / 10
    elif row.log_mul == "raw" and 0 < value <= 0.15:
        right = value * 10
    else:
        return
    edits = (subject.put_key(_LOG, "FLOAT32", float(np.float32(right))),)
    text = (
        f"is {value:g}; {view.arch} stores {'a tenth of mscale_all_dim' if right < value else 'mscale_all_dim itself'}"
    )
    yield Hit(view.full(_LOG), text, subject.scope.specs, edits, f"write {right:g}")


@rule(
    "RP610",
    "M-RoPE sections",
    "error",
    fix="write four numbers, the last one 0 where there are three sections",
    formats=_GGUF,
    upstream=("ollama/ollama#17903",),
)
def sections(subject: Subject) -> Iterator[Hit]:
    """llama.cpp takes exactly four sections; Ollama's converter writes three. Qwen's vision architectures do not load without
    them."""
    view = subject.gguf
    name = "rope.dimension_sections"
    value = view.get(name)
    if isinstance(value, ArrayRef) and value.count != 4:
        text = f"has {value.count} numbers, llama.cpp takes 4"
        yield Hit(view.full(name), text, tuple(s for s in subject.scope.specs if not s.startswith("ollama")))
    elif value is None and view.row is not None and f"{name} required" in view.row.note:
        yield Hit(view.full(name), f"is not there, and {view.arch} does not load without it", subject.scope.specs)


@rule(
    "RP611",
    "finetuned: false turns RoPE off",
    "warning",
    fix="set rope.scaling.finetuned to true, unless the model was trained without positions",
    formats=_GGUF,
)
def granite(subject: Subject) -> Iterator[Hit]:
    """On granite, granitehybrid and graniteswitch this flag says whether the graph rotates at all; everywhere else it is
    only printed."""
    view = subject.gguf
    if view.row is not None and "finetuned" in view.row.note and view.get("rope.scaling.finetuned") is False:
        text = f"is false: llama.cpp rotates nothing on {view.arch}, whatever the other keys say"
        yield Hit(view.full("rope.scaling.finetuned"), text, subject.scope.specs)


@rule("RP612", "keys that cannot be read", "error", fix="mend the value", formats=_GGUF)
def unreadable(subject: Subject) -> Iterator[Hit]:
    """A number is negative, not finite or impossible. llama.cpp checks none of this: it loads the file, and crashes or
    computes NaN."""
    error, view = subject.lifted, subject.gguf
    typed = view.get(_TYPE)
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
    if concerned:
        scale = next(one.attention_scale for one in subject.predictions(concerned[0]) if one.attention_scale != 1)
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
    view, concerned = subject.gguf, tuple(s for s in subject.scope.specs if not s.startswith("ollama"))
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
    "RP615",
    "rounded ends of gpt-oss's ramp",
    "warning",
    fix="none: the architecture reads no factor tensors, and the ends are always rounded",
    formats=_GGUF,
    upstream=("vllm-project/vllm#27722", "vllm-project/vllm#28244"),
)
def gpt_oss(subject: Subject) -> Iterator[Hit]:
    """gpt-oss was trained with truncate: false, a YaRN ramp whose ends are not rounded to whole pairs. GGUF has no key for
    it, and llama.cpp always rounds."""
    if subject.gguf.arch != "gpt-oss" or subject.profile is None:
        return
    for name, group in subject.profile.groups.items():
        scaling = group.scaling
        if not isinstance(scaling, Yarn):
            continue
        exact = Yarn(scaling.factor, scaling.original_max_position_embeddings, truncate=False)
        quotient = scaling.apply(group.spectrum(), None).inv_freq / exact.apply(group.spectrum(), None).inv_freq
        off = np.abs(np.log(quotient)) > 1e-3
        pair = int(np.argmax(np.abs(np.log(quotient))))
        if off.any():
            text = f"llama.cpp rounds the ends of the ramp (truncate: false is lost): {int(off.sum())} pairs are off, "
            text += f"pair {pair} turns {quotient[pair]:.3g} times as fast as trained"
            yield Hit(subject.gguf.full(_TYPE), text, subject.scope.specs)
            return


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
    if view.get("rope.scale_linear") is not None and view.get(_FACTOR) is not None:
        text = f"is not read beside rope.scaling.factor {view.get(_FACTOR)}"
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
    if subject.profile is not None and view.number("rope.freq_base") is None:
        if not any(view.get(other) is not None for other in ALIASES["rope.freq_base"]):
            yield Hit(view.full("rope.freq_base"), "is not there; llama.cpp takes 10000", subject.scope.specs)


@rule(
    "RP618",
    "rotated dimensions are not the head's",
    "error",
    fix="set rope.dimension_count to attention.key_length",
    formats=_GGUF,
)
def dimension(subject: Subject) -> Iterator[Hit]:
    """Some architectures always rotate the whole head: with another rope.dimension_count llama and falcon raise an error,
    qwen2 and most others end the process."""
    view, profile = subject.gguf, subject.profile
    if view.row is None or view.row.rot != "head" or profile is None or view.get("attention.kv_lora_rank") is not None:
        return
    group = next(iter(profile.groups.values()))
    if group.rotary_dim != group.head_dim:
        text = f"{group.rotary_dim} of the head's {group.head_dim} dimensions; {view.arch} loads only with all of them"
        yield Hit(view.full("rope.dimension_count"), text, subject.scope.specs)


@rule(
    "RP619",
    "scaling that reaches no layer",
    "error",
    fix="none in the file: the layers that see far do not rotate",
    formats=_GGUF,
    upstream=("meta-models/meta-oss-cookbook#37",),
)
def no_effect(subject: Subject) -> Iterator[Hit]:
    """On some hybrids the full-attention layers carry no RoPE and the sliding ones take no factor, or the graph ignores the
    scaling keys: a factor in the file changes nothing."""
    view, row = subject.gguf, subject.gguf.row
    if row is None or view.factor == 1 or view.kind == "none" or subject.profile is None:
        return
    still = all(group.scalable is False for group in subject.profile.groups.values())
    if still or "scaling ignored" in row.note:
        text = f"factor {view.factor:g} changes nothing on {view.arch}"
        yield Hit(view.full(_FACTOR), text, subject.scope.specs)


@rule("RP620", "architecture that llama.cpp does not know", "error", fix="use the engine that wrote it", formats=_GGUF)
def unknown_architecture(subject: Subject) -> Iterator[Hit]:
    """llama.cpp stops on a general.architecture that it has no loader for."""
    if subject.gguf.row is None:
        yield Hit(
            "general.architecture", f"is {subject.gguf.prefix!r}, which llama.cpp does not load", subject.scope.specs
        )


@rule("RP621", "rope key that llama.cpp does not know", "info", fix="nothing reads it", formats=_GGUF)
def unknown_keys(subject: Subject) -> Iterator[Hit]:
    """The key is none that llama.cpp reads or its converter writes."""
    view = subject.gguf
    known = {*_TYPES, *(other for others in ALIASES.values() for other in others), "rope.dimension_sections"}
    for name in view.names():
        if name.startswith("rope.") and name not in known:
            yield Hit(view.full(name), "is none that llama.cpp reads", subject.scope.specs)


@rule("RP622", "rope keys without a rotation", "info", fix="nothing to do", formats=_GGUF)
def no_rotation(subject: Subject) -> Iterator[Hit]:
    """The architecture has no rotary embedding in llama.cpp; rope keys in the file do nothing."""
    if isinstance(subject.lifted, NoRope):
        yield Hit("general.architecture", subject.lifted.what, subject.scope.specs)
