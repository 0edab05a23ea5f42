"""RP701 to RP709: factor tensors of a GGUF."""

from __future__ import annotations

from collections.abc import Iterator

from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.gguf_view import F32
from ropepatch.doctor.subject import Subject
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.stack import Stack, stages
from ropepatch.runtimes.llama_cpp_table import FREQS, LONG, SHORT
from ropepatch.runtimes.recipes import longrope_magnitude

_GGUF = ("gguf",)


@rule(
    "RP701",
    "tensor that llama.cpp does not look for",
    "error",
    fix="take the tensor out by converting again; or use a method that needs none (yarn, linear, ntk)",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#8676", "ggml-org/llama.cpp#10759", "ggml-org/llama.cpp#21146"),
    explains=True,
)
def unwanted(subject: Subject) -> Iterator[Hit]:
    """llama.cpp counts the tensors that it has taken. One that the architecture does not look for makes the whole load
    fail with "wrong number of tensors"; so do long and short factors without the type longrope, or beside
    rope_freqs."""
    view = subject.gguf
    if view.row is None or view.row.factors == "x" or not view.row.rotates:
        return
    wanted = view.row.factor_tensors(view.kind)
    for name in view.tensors:
        if name not in wanted:
            takes = f"looks for {' and '.join(wanted)}" if wanted else "has no factor tensors"
            text = f"{view.arch} with rope.scaling.type {view.kind or 'absent'} {takes}: the load fails"
            yield Hit(name, text, subject.scope.specs)


@rule(
    "RP702",
    "factor tensor that is not F32",
    "error",
    fix="store the factors as F32",
    formats=_GGUF,
    explains=True,
)
def not_f32(subject: Subject) -> Iterator[Hit]:
    """Factor tensors must be F32; with F16 an assertion ends the process when the graph is built."""
    for name, tensor in subject.gguf.tensors.items():
        if tensor.kind != F32:
            yield Hit(name, f"has ggml type {tensor.kind}, llama.cpp aborts unless it is F32 (0)", subject.scope.specs)


@rule(
    "RP703",
    "factor tensor of the wrong length",
    "error",
    fix="one factor for each rotated pair: half of rope.dimension_count",
    formats=_GGUF,
    explains=True,
)
def wrong_length(subject: Subject) -> Iterator[Hit]:
    """A factor tensor has one value for each rotated pair; any other length is a load error."""
    view = subject.gguf
    rotated = view.number("rope.dimension_count") or view.number("attention.key_length")
    if rotated is None:
        width, heads = view.number("embedding_length"), view.number("attention.head_count")
        rotated = width / heads if width and heads else None
    for name, tensor in view.tensors.items():
        if rotated and tensor.count != int(rotated) // 2:
            yield Hit(name, f"has {tensor.count} values for {int(rotated) // 2} rotated pairs", subject.scope.specs)


@rule(
    "RP704",
    "one of the two factor lists",
    "warning",
    fix="add the other list",
    formats=_GGUF,
)
def lonely(subject: Subject) -> Iterator[Hit]:
    """With the long list alone, contexts up to the original one are not divided at all; with the short one alone,
    longer ones are not."""
    there = [name for name in (LONG, SHORT) if name in subject.gguf.tensors]
    if len(there) == 1:
        missing = SHORT if there[0] == LONG else LONG
        contexts = "up to" if missing == SHORT else "beyond"
        text = f"{missing} is not there: contexts {contexts} the original one get no factors"
        yield Hit(there[0], text, subject.scope.specs)


@rule("RP705", "tensor that is loaded and not used", "error", fix="use yarn, linear or ntk", formats=_GGUF)
def unused(subject: Subject) -> Iterator[Hit]:
    """For a few architectures llama.cpp loads the factors and its graph does not use them: the scaling is off."""
    view = subject.gguf
    if view.row is not None and view.row.factors == "x":
        for name in view.tensors:
            yield Hit(name, f"is loaded for {view.arch} and not used: these factors are off", subject.scope.specs)


@rule(
    "RP706",
    "scaling that stands in a tensor alone",
    "info",
    fix="nothing to do for llama.cpp; do not add the same scaling by keys, it would come on top",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#8676", "ikawrakow/ik_llama.cpp#2291", "vllm-project/vllm#7268"),
)
def in_tensor(subject: Subject) -> Iterator[Hit]:
    """Llama 3's scaling has no key in a GGUF: the converter writes divisors as rope_freqs.weight, and rope.scaling.type
    stays absent. Whoever looks at the keys alone takes the file for unscaled; transformers drops the tensor when it
    loads a GGUF, builds of llama.cpp before it stop with "wrong number of tensors", and a YaRN patch composes with
    it."""
    if FREQS not in subject.gguf.tensors or subject.profile is None:
        return
    for group in subject.profile.groups.values():
        found = next((stage for stage in stages(group.scaling) if isinstance(stage, Llama3)), None)
        named = f"llama3 with factor {found.factor:g}" if found is not None else "a list of divisors"
        if group.scaled:
            kind = subject.gguf.kind or "absent"
            text = f"holds the scaling ({named}); rope.scaling.type is {kind}, so that the keys alone look unscaled"
            if isinstance(group.scaling, Stack):
                text = f"holds {named}, and the scaling by keys comes on top of it"
            yield Hit(FREQS, text, subject.scope.specs)
            return


@rule(
    "RP707",
    "looks like Llama 3.1 without its factors",
    "warning",
    fix="convert the model again: a converter from before July 2024 left rope_freqs.weight out",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#8676",),
)
def missing_factors(subject: Subject) -> Iterator[Hit]:
    """Llama 3.1, 3.2 and 3.3 declare 131072 tokens over a base of 500000 and were scaled by Llama 3's method. A file
    with these numbers, no scaling and no rope_freqs.weight turns too fast in long contexts."""
    view, profile = subject.gguf, subject.profile
    if view.arch != "llama" or FREQS in view.tensors or profile is None or profile.scaled:
        return
    if view.number("rope.freq_base") == 500000 and view.number("context_length") == 131072:
        text = f"declares 131,072 tokens over base 500,000, and {FREQS} is not there: nothing is scaled"
        yield Hit(view.full("context_length"), text, subject.scope.specs)


@rule(
    "RP708",
    "LongRoPE without its magnitude",
    "warning",
    fix="write rope.scaling.attn_factor: sqrt(1 + ln(context / original) / ln original)",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#12468",),
)
def no_magnitude(subject: Subject) -> Iterator[Hit]:
    """LongRoPE multiplies cos and sin by sqrt(1 + ln s / ln original). llama.cpp takes it from rope.scaling.attn_factor
    and has no default; converters for MiniCPM do not write it."""
    view = subject.gguf
    if LONG not in view.tensors or view.get("rope.scaling.attn_factor") is not None:
        return
    declared = view.number("context_length")
    original = view.number("rope.scaling.original_context_length")
    if declared and original and declared > original > 1:
        usual = longrope_magnitude(declared / original, original)
        text = f"is not there: cos and sin stay as they are; an extension to {declared:,.0f} usually has {usual:.4g}"
        yield Hit(view.full("rope.scaling.attn_factor"), text, subject.scope.specs)


@rule(
    "RP709",
    "long factors for short prompts",
    "warning",
    fix="start with -c at the original context for short work, or give short inputs a server of their own",
    formats=_GGUF,
    upstream=("ggml-org/llama.cpp#24823", "ggml-org/llama.cpp#24875"),
)
def at_load(subject: Subject) -> Iterator[Hit]:
    """llama.cpp chooses between the lists once, by the context that is allocated for a sequence and not by what is in
    it. A server started for a long context rotates short prompts by the long list."""
    concerned = subject.noting("chosen by the allocated context")
    if concerned:
        original = subject.profile.trained_context if subject.profile is not None else None
        beyond = f" above {original:,}" if original else ""
        yield Hit(LONG, f"a context{beyond} puts the long factors in force for short prompts too", concerned)
