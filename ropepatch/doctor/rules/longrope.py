"""RP401 to RP408: LongRoPE's lists, where its original context stands, and which list is when in force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effects, grouped
from ropepatch.doctor.rules.spelling import PHI, dotted, kind_of
from ropepatch.doctor.subject import Subject
from ropepatch.errors import InputError
from ropepatch.patch import Edit
from ropepatch.runtimes.config_view import ORIGINAL

_LISTS = ("short_factor", "long_factor")


def _longs(subject: Subject) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    found = [(path, rope) for path, rope in subject.ropes() if kind_of(rope) == "longrope"]
    old = [item for item in found if "rope_scaling" in item[0]]
    yield from old or found


@rule(
    "RP401",
    "factor list of the wrong length",
    "error",
    fix="one factor for each rotated pair: half of the dimensions that rotate, not of the head's",
    upstream=("ggml-org/llama.cpp#12468",),
    explains=True,
)
def list_length(subject: Subject) -> Iterator[Hit]:
    """short_factor and long_factor hold one divisor for each pair that rotates. With a partial rotation that is fewer
    than half of the head's dimensions."""
    for path, rope in _longs(subject):
        pairs = _pairs(subject)
        for name in _LISTS:
            values = rope.get(name)
            if not isinstance(values, Sequence) or isinstance(values, str) or pairs is None or len(values) == pairs:
                continue
            stops = tuple(spec for spec in subject.scope.specs if subject.refuses(spec))
            text = f"{len(values)} factors for {pairs} rotated pairs"
            text += f": {effects(subject, stops)}" if stops else ""
            yield Hit(dotted(*path, name), text, stops)


def _pairs(subject: Subject) -> int | None:
    from ropepatch.dialects import hf_families

    try:
        found = hf_families.entries(subject.section, [])
    except InputError:
        return None
    main = found.get("full_attention") or next(iter(found.values()), None)
    return main.rotary_dim("longrope") // 2 if main is not None else None


@rule(
    "RP402",
    "original context where not everyone looks",
    "error",
    fix="write original_max_position_embeddings both at the top and in the dict; for Phi-3 at the top alone",
    automatic=True,
    explains=True,
)
def placement(subject: Subject) -> Iterator[Hit]:
    """transformers 4, TGI and exllamav2 look for LongRoPE's original context at the top of the config, mlx-lm in the
    dict, transformers 5 in both. Phi-3's class of transformers 4 refuses a fourth key in the dict."""
    top = subject.section.given.get(ORIGINAL)
    for path, rope in _longs(subject):
        inner, phi = rope.get(ORIGINAL), subject.section.model_type in PHI
        if (top is None) == (inner is None) and not (phi and inner is not None):
            continue
        edits: list[Edit] = []
        if top is None:
            edits.append(subject.put(subject.at(ORIGINAL), inner))
        if phi and inner is not None:
            edits.append(subject.drop((*path, ORIGINAL)))
        elif inner is None and not phi:
            edits.append(subject.put((*path, ORIGINAL), top))
        concerned = subject.moved(edits) if edits else ()
        if concerned:
            where = (
                "in the dict alone" if top is None else "at the top alone" if inner is None else "in the dict as well"
            )
            text = f"the original context stands {where}: {effects(subject, concerned)}"
            yield Hit(dotted(*(path if inner is not None else subject.at()), ORIGINAL), text, concerned, tuple(edits))


@rule(
    "RP403",
    "LongRoPE magnitude that engines compute themselves",
    "warning",
    fix="none in the file for these engines; factors whose usual magnitude fits need no attention_factor",
    explains=True,
)
def magnitude(subject: Subject) -> Iterator[Hit]:
    """transformers 5 takes attention_factor, else it derives the magnitude from factor. vLLM, SGLang, TGI, mlx-lm and
    the exllamas take neither and compute sqrt(1 + ln s / ln original) from the declared over the original context."""
    for path, rope in _longs(subject):
        there = [key for key in ("attention_factor", "factor") if rope.get(key) is not None]
        concerned = tuple(spec for spec in subject.ignoring(*there) if subject.other_scale(spec)) if there else ()
        if concerned:
            text = f"{' and '.join(there)} not read: {effects(subject, concerned)}"
            yield Hit(dotted(*path, there[0]), text, concerned)


@rule(
    "RP404",
    "which list is in force when",
    "warning",
    fix="for short inputs serve the model at the original context: the list is chosen when the engine starts",
    upstream=(
        "huggingface/transformers#33129",
        "vllm-project/vllm#27414",
        "lablup/mlxcel#1358",
        "ggml-org/llama.cpp#24823",
    ),
    explains=True,
)
def switching(subject: Subject) -> Iterator[Hit]:
    """transformers chooses the list by the length of each forward pass. mlx-lm takes the long one always, vLLM,
    exllamav3 and exllamav2 choose once for the context that they were started with, SGLang for a whole batch, and TGI
    by position within a sequence."""
    for path, rope in _longs(subject):
        if rope.get("short_factor") == rope.get("long_factor"):
            continue
        specs = tuple(s for s in subject.scope.specs if not s.startswith("transformers") and not subject.refuses(s))
        if specs:
            said = grouped(specs, lambda spec: _policy(subject, spec))
            yield Hit(dotted(*path), f"short and long lists differ. {said}", specs)


def _policy(subject: Subject, spec: str) -> str:
    for one in subject.predictions(spec):
        notes = [note for note in one.notes if "list" in note or "long_factor" in note]
        if notes:
            return notes[-1]
    switches = {one.switches for one in subject.predictions(spec)}
    return f"switches {', '.join(sorted(switches))}"


@rule(
    "RP405",
    "Phi-3 under a name that its class refuses",
    "error",
    fix="write exactly type: longrope, short_factor and long_factor",
    automatic=True,
    explains=True,
)
def phi(subject: Subject) -> Iterator[Hit]:
    """Phi3Config of transformers 4 demands exactly three keys, type, short_factor and long_factor, and mlx-lm's phi3
    wants type as well; transformers 5 takes type alone too. exllamav2 refuses both names together."""
    if subject.section.model_type not in PHI:
        return
    for path, rope in _longs(subject):
        if rope.get("type") is not None or not all(name in rope for name in _LISTS):
            continue
        edits: list[Edit] = [subject.put(path, {"type": "longrope", **{name: rope[name] for name in _LISTS}})]
        if rope.get(ORIGINAL) is not None and subject.section.given.get(ORIGINAL) is None:
            edits.append(subject.put(subject.at(ORIGINAL), rope[ORIGINAL]))
        concerned = tuple(spec for spec in subject.moved(edits) if subject.refuses(spec))
        if "rope_scaling" not in path or not concerned:
            continue
        extra = set(rope) - {"rope_type", *_LISTS, ORIGINAL}
        text = f"rope_type instead of type: {effects(subject, concerned)}"
        yield Hit(dotted(*path), text, concerned, () if extra else tuple(edits))


@rule("RP406", "PhiMoE keeps the short list", "warning", fix="use transformers 4.57, vLLM or SGLang", explains=True)
def phimoe(subject: Subject) -> Iterator[Hit]:
    """PhiMoE's rotary class of transformers 5 recomputes its frequencies without a length: beyond the original context
    it keeps short_factor and applies the magnitude of the long list. 5.0 stops there."""
    if subject.section.model_type != "phimoe":
        return
    noted = subject.noting("keeps short_factor")
    crash = tuple(s for s in subject.scope.specs if (error := subject.refuses(s)) and "PhiMoE" in error.what)
    if noted or crash:
        said = grouped(
            (*noted, *crash), lambda spec: "stops" if spec in crash else "short list with the long magnitude"
        )
        yield Hit(dotted(*subject.at("rope_scaling")), f"beyond the original context: {said}", (*noted, *crash))


@rule("RP407", "two original contexts", "warning", fix="give both the same value", automatic=True, explains=True)
def two_originals(subject: Subject) -> Iterator[Hit]:
    """original_max_position_embeddings at the top overrides the one in the dict for transformers 5; others take the
    inner one."""
    top = subject.section.given.get(ORIGINAL)
    for path, rope in subject.ropes():
        inner = rope.get(ORIGINAL)
        if top is None or inner is None or top == inner:
            continue
        edits = (subject.put((*path, ORIGINAL), top),)
        concerned = subject.moved(edits)
        text = f"{ORIGINAL} is {top} at the top and {inner} in the dict"
        text += f": {effects(subject, concerned)}" if concerned else ""
        yield Hit(dotted(*path, ORIGINAL), text, concerned, edits, f"write {top} in both")


@rule(
    "RP408",
    "magnitudes of the two lists",
    "warning",
    fix="none in the file for these engines",
    explains=True,
)
def mscales(subject: Subject) -> Iterator[Hit]:
    """short_mscale and long_mscale are PhiMoE's and Phi-3-small's magnitudes. transformers reads them for PhiMoE alone,
    vLLM and SGLang for every model; TGI multiplies the angles by them instead of cos and sin."""
    for path, rope in _longs(subject):
        there = [key for key in ("short_mscale", "long_mscale") if rope.get(key) is not None]
        if not there:
            continue
        without = subject.with_edits([subject.drop((*path, key)) for key in there])
        reads = tuple(
            spec
            for spec in subject.moved([subject.drop((*path, key)) for key in there])
            if not subject.refuses(spec) and not without.refuses(spec)
        )
        concerned = tuple(spec for spec in reads if subject.differs(spec))
        if concerned:
            yield Hit(dotted(*path, there[0]), f"read by some alone: {effects(subject, concerned)}", concerned)
