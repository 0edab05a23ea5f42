"""RP201 to RP205, RP207 to RP209: contexts that do not add up, and those that engines derive."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ropepatch import runtimes
from ropepatch.dialects.hf_section import CONTEXT_KEYS
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effect, grouped
from ropepatch.doctor.files import TOKENIZER
from ropepatch.doctor.rules.spelling import dotted, kind_of, number
from ropepatch.doctor.subject import Subject
from ropepatch.runtimes.config_view import ORIGINAL

#: what saved tokenizers have for "no limit"
_UNLIMITED = 1 << 60


def derived(subject: Subject, spec: str) -> int | None:
    """The longest context that an engine derives by itself; None where it derives none or refuses."""
    lengths = [one.context for one in subject.predictions(spec) if one.context is not None]
    return max(lengths, default=None)


def _capped(subject: Subject, below: float) -> tuple[str, ...]:
    """The capping engines that derive less than ``below`` tokens."""
    found = []
    for spec in subject.scope.specs:
        context = derived(subject, spec) if runtimes.get(spec).caps_context else None
        if context is not None and context < below and not subject.refuses(spec):
            found.append(spec)
    return tuple(found)


def _reaches(subject: Subject) -> Iterator[tuple[int, int, str]]:
    """The declared context of each YaRN dict, how far its factor reaches, and both in words."""
    declared = subject.section.context()
    for _, rope in subject.ropes():
        factor, original = number(rope, "factor"), number(rope, ORIGINAL)
        if kind_of(rope) != "yarn" or not factor or not original or not declared or factor * original > 1 << 31:
            continue
        reach = round(factor * original)
        text = f"{declared:,} tokens are declared, factor {factor:g} of {original:,.0f} reaches {reach:,}"
        yield declared, reach, text


@rule(
    "RP201",
    "declared context is less than the scaling reaches",
    "error",
    fix="set max_position_embeddings to the original context times the factor",
    upstream=(
        "huggingface/transformers#38224",
        "vllm-project/vllm#10293",
        "sgl-project/sglang#2943",
        "NVIDIA/Megatron-LM#1418",
    ),
    automatic=True,
    explains=True,
)
def declares_too_little(subject: Subject) -> Iterator[Hit]:
    """Qwen's model cards add a YaRN dict and leave max_position_embeddings alone. exllamav3 and transformers 4.50 to
    4.55 put declared over original context in place of the factor, which comes to 1 and turns YaRN off; vLLM from 0.30
    on and SGLang derive the unextended context. Where it is original times factor, all agree."""
    for declared, reach, text in _reaches(subject):
        if declared >= reach - 1:
            continue
        key = subject.section.context_key()
        edits = (subject.put(subject.at(key), reach),)
        turned = tuple(spec for spec in subject.moved(edits) if spec in subject.deviating())
        capped = tuple(spec for spec in _capped(subject, reach) if spec not in turned)
        said = [grouped(turned, lambda spec: _replaced(subject, spec))] if turned else []
        said += [grouped(capped, lambda spec: f"serves {derived(subject, spec) or 0:,} tokens")] if capped else []
        concerned = tuple(spec for spec in subject.scope.specs if spec in (*turned, *capped))
        severity = None if any(subject.unscaled(spec) for spec in turned) else "warning"
        fix = f"set {key} to {reach}"
        yield Hit(dotted(*subject.at(key)), ": ".join([text, "; ".join(said)]), concerned, edits, fix, severity)


def _replaced(subject: Subject, spec: str) -> str:
    notes = [note for one in subject.predictions(spec) for note in one.notes if "factor is replaced" in note]
    said = effect(subject, spec)
    return f"takes {notes[0].rpartition(' = ')[2]} for the factor: {said}" if notes else said


@rule(
    "RP202",
    "declared context is more than the scaling reaches",
    "warning",
    fix="raise the factor, or declare original context times factor",
    explains=True,
)
def declares_too_much(subject: Subject) -> Iterator[Hit]:
    """Positions beyond original context times factor were neither trained nor scaled for. exllamav3 and transformers
    4.50 to 4.55 take declared over original context for the factor instead, and so compute something else."""
    for declared, reach, text in _reaches(subject):
        if declared <= reach + 1:
            continue
        turned = subject.moved((subject.put(subject.at(subject.section.context_key()), reach),))
        turned = tuple(spec for spec in turned if subject.differs(spec))
        text += f": {grouped(turned, lambda spec: _replaced(subject, spec))}" if turned else ""
        yield Hit(dotted(*subject.at(subject.section.context_key())), text, turned)


@rule(
    "RP203",
    "no original context",
    "warning",
    fix="write original_max_position_embeddings: the length that the model was trained at",
    upstream=("NVIDIA-NeMo/Automodel#1398",),
    explains=True,
)
def no_original(subject: Subject) -> Iterator[Hit]:
    """YaRN, Llama 3 and LongRoPE work from the length that the model was trained at. Where it is not written,
    transformers 5 and vLLM take the declared context, mlx-lm 4096 or 8192, and the others stop with a KeyError."""
    declared = subject.section.context()
    for path, rope in subject.ropes():
        kind = kind_of(rope)
        if kind not in ("yarn", "llama3", "longrope") or rope.get(ORIGINAL) is not None or not declared:
            continue
        if subject.section.given.get(ORIGINAL) is not None:
            continue
        concerned = subject.moved((subject.put((*path, ORIGINAL), declared),))
        text = f"{kind} without {ORIGINAL}: transformers 5 takes the declared {declared:,}"
        text += f"; {grouped(concerned, lambda spec: effect(subject, spec))}" if concerned else ""
        factor = number(rope, "factor")
        fix = None
        if factor and declared / factor == int(declared / factor):
            fix = (
                f"write {ORIGINAL} in the dict: {declared / factor:.0f} if {declared} is the extended context, else "
                f"{declared}, and declare {declared * factor:.0f}"
            )
        yield Hit(dotted(*path, ORIGINAL), text, concerned, (), fix)


@rule(
    "RP204",
    "factor counted twice",
    "warning",
    fix="for linear and dynamic declare the context before scaling: engines multiply it by the factor themselves",
    upstream=("vllm-project/vllm#33911", "vllm-project/vllm#48621"),
    automatic=True,
)
def counted_twice(subject: Subject) -> Iterator[Hit]:
    """vLLM and SGLang multiply max_position_embeddings by the factor of linear and dynamic scaling; dynamic also begins
    to work beyond that length. If it is the extended context already, the factor counts twice."""
    declared = subject.section.context()
    for _, rope in subject.ropes():
        factor, original = number(rope, "factor"), number(rope, ORIGINAL)
        if kind_of(rope) not in ("linear", "dynamic") or not factor or factor <= 1 or not declared:
            continue
        beyond = tuple(
            spec for spec in subject.scope.specs if (derived(subject, spec) or 0) >= int(declared * factor) > declared
        )
        if not beyond or original == declared:
            continue
        sure = original is not None and abs(original * factor - declared) <= 1
        text = (
            f"{declared:,} tokens are declared: {grouped(beyond, lambda spec: f'derives {derived(subject, spec):,}')}"
        )
        key = subject.section.context_key()
        edits = (subject.put(subject.at(key), int(original)),) if sure and original else ()
        if not sure:
            text += f"; too long if {declared:,} is the extended context"
        yield Hit(dotted(*subject.at(key)), text, beyond, edits, None, None if sure else "info")


@rule(
    "RP205",
    "engine serves less than is declared",
    "warning",
    fix="start the engine with the length (ropepatch inspect --launch prints how)",
    upstream=("vllm-project/vllm#27414",),
)
def serves_less(subject: Subject) -> Iterator[Hit]:
    """An engine derives a shorter context than the file declares: vLLM takes the original context of a LongRoPE model
    and the smallest of several length keys."""
    declared = subject.section.context()
    short = _capped(subject, declared - 1) if declared and len(set(_lengths(subject).values())) < 2 else ()
    if short and declared:
        said = grouped(short, lambda spec: f"serves {derived(subject, spec) or 0:,}")
        key = subject.section.context_key()
        yield Hit(dotted(*subject.at(key)), f"of the {declared:,} tokens declared: {said}", short)


@rule(
    "RP207",
    "tokenizer's limit below the context",
    "warning",
    fix="raise model_max_length in tokenizer_config.json",
    automatic=True,
)
def tokenizer_limit(subject: Subject) -> Iterator[Hit]:
    """vLLM takes the smaller of the model's context and the tokenizer's model_max_length, and pipelines of transformers
    cut or warn there."""
    limit, declared = subject.tokenizer.get("model_max_length"), subject.section.context()
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not declared or limit > _UNLIMITED:
        return
    if not math.isfinite(limit) or not 0 < limit < declared:
        return
    concerned = subject.scope.of("vllm")
    edits = (subject.put(("model_max_length",), declared, TOKENIZER),)
    text = f"the tokenizer's limit is {limit:,.0f}, the model declares {declared:,} tokens; vllm takes the smaller one"
    yield Hit("model_max_length", text, concerned, edits, f"set it to {declared}", file=TOKENIZER)


def _lengths(subject: Subject) -> dict[str, int]:
    """Every length key of the text model that the file has."""
    given = subject.section.given
    keys = [key for key in CONTEXT_KEYS if key != "max_target_positions"]
    return {key: given[key] for key in keys if type(given.get(key)) is int and 0 < given[key] < _UNLIMITED}


@rule("RP208", "length keys disagree", "warning", fix="give all of them the same value", automatic=True)
def two_lengths(subject: Subject) -> Iterator[Hit]:
    """Configs may have max_position_embeddings beside seq_length, n_positions or model_max_length. Each engine takes
    another one, vLLM the smallest, so that they have to agree."""
    lengths = _lengths(subject)
    declared = subject.section.context()
    if len(set(lengths.values())) < 2 or not declared:
        return
    for key, value in lengths.items():
        if value == declared:
            continue
        edits = (subject.put(subject.at(key), declared),)
        other = subject.with_edits(edits)
        concerned = tuple(s for s in subject.scope.specs if derived(subject, s) != derived(other, s))
        text = f"{key} is {value:,}, {subject.section.context_key()} {declared:,}"
        said = grouped(concerned, lambda spec: f"derives {derived(subject, spec) or 0:,}")
        severity = None if concerned else "info"
        yield Hit(dotted(*subject.at(key)), f"{text}: {said}" if said else text, concerned, edits, None, severity)


@rule("RP209", "original context is not below the declared one", "warning", fix="check the two contexts")
def nothing_extended(subject: Subject) -> Iterator[Hit]:
    """A scaling with a factor is in force, and the context that is declared is no longer than the one that it starts
    from: short inputs are rotated as if they were long, and nothing is gained."""
    profile = subject.profile
    if profile is None or not profile.declared_context:
        return
    for path, rope in subject.ropes():
        original, factor = number(rope, ORIGINAL), number(rope, "factor")
        if kind_of(rope) == "llama3" and original and factor and factor > 1 and original >= profile.declared_context:
            text = f"is {original:,.0f}, and {profile.declared_context:,} tokens are declared"
            yield Hit(dotted(*path, ORIGINAL), text)
