"""RP301 to RP311: YaRN's magnitude, ramp and company."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effects
from ropepatch.doctor.rules.spelling import dotted, kind_of, number
from ropepatch.doctor.subject import Subject
from ropepatch.methods.base import yarn_attention
from ropepatch.patch import Edit
from ropepatch.runtimes.config_view import ORIGINAL
from ropepatch.runtimes.recipes import magnitude_ratio


def _yarns(subject: Subject) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The YaRN dicts in force; of two layouts with the same content the one that transformers takes."""
    found = [(path, rope) for path, rope in subject.ropes() if kind_of(rope) == "yarn"]
    old = [item for item in found if "rope_scaling" in item[0]]
    yield from old or found


def _off(subject: Subject, *names: str) -> tuple[str, ...]:
    """The engines that take no notice of a key and compute something else than the settings mean."""
    return tuple(s for s in subject.ignoring(*names) if s not in subject.explained and subject.differs(s))


def _other_scale(subject: Subject, specs: Sequence[str]) -> tuple[str, ...]:
    """Those whose magnitude is another one."""
    return tuple(spec for spec in specs if subject.other_scale(spec))


@rule(
    "RP301",
    "attention_factor that engines do not read",
    "warning",
    fix="write attn_factor beside it: attention_factor / (0.1 ln factor + 1), for SGLang and vLLM up to 0.29",
    upstream=("vllm-project/vllm#46280", "ml-explore/mlx-lm#1507", "vllm-project/vllm#56446"),
    automatic=True,
    explains=True,
)
def attention_factor(subject: Subject) -> Iterator[Hit]:
    """attention_factor is the final factor on cos and sin. transformers, vLLM from 0.30 on and exllamav3 read it.
    SGLang and older vLLM read attn_factor, which multiplies the usual magnitude; TGI, mlx-lm and exllamav2 read
    neither."""
    for path, rope in _yarns(subject):
        wanted, factor = number(rope, "attention_factor"), number(rope, "factor")
        concerned = _other_scale(subject, _off(subject, "attention_factor")) if wanted is not None else ()
        if not concerned or wanted is None:
            continue
        edits: tuple[Edit, ...] = ()
        if factor and factor > 0 and rope.get("attn_factor") is None:
            edits = (subject.put((*path, "attn_factor"), wanted / yarn_attention(factor)),)
            edits = edits if subject.moved(edits) else ()
        text = f"attention_factor {wanted:g} is not read: {effects(subject, concerned)}"
        fix = None if edits else "none in the file for these engines"
        yield Hit(dotted(*path, "attention_factor"), text, concerned, edits, fix)


@rule(
    "RP302",
    "attn_factor, which transformers does not read",
    "warning",
    fix="say which is meant: take attn_factor out, or write attention_factor (the final value) beside it",
    upstream=("deepseek-ai/DeepSeek-R1#684",),
    explains=True,
)
def attn_factor(subject: Subject) -> Iterator[Hit]:
    """attn_factor multiplies YaRN's usual magnitude in SGLang and in vLLM up to 0.29; transformers, newer vLLM, mlx-lm
    and the exllamas do not know it. DeepSeek-R1-0528-Qwen3-8B has 0.8782 = 1 / (0.1 ln 4 + 1): its magnitude is 1 on
    the former and 1.1386 on the latter."""
    for path, rope in _yarns(subject):
        multiplier, factor = number(rope, "attn_factor"), number(rope, "factor")
        if multiplier is None or not factor or rope.get("attention_factor") is not None or multiplier == 1:
            continue
        reads = subject.moved((subject.drop((*path, "attn_factor")),))
        if not reads:
            continue
        meant = multiplier * yarn_attention(factor)
        text = f"attn_factor {multiplier:.4g} counts for some engines alone: {effects(subject, reads)}"
        fix = f"take attn_factor out (attention scale {yarn_attention(factor):.4g} everywhere), or write "
        fix += f"attention_factor {meant:.4g} beside it"
        yield Hit(dotted(*path, "attn_factor"), text, reads, (), fix)


@rule(
    "RP303",
    "mscale without mscale_all_dim",
    "warning",
    fix="take mscale and mscale_all_dim out: transformers counts them only together and not 0",
    automatic=True,
    explains=True,
)
def mscale_alone(subject: Subject) -> Iterator[Hit]:
    """DeepSeek's two numbers give the magnitude g(mscale) / g(mscale_all_dim). transformers ignores one without the
    other, or a 0; SGLang, TGI and mlx-lm put defaults in their place and come to another magnitude."""
    for path, rope in _yarns(subject):
        there = [key for key in ("mscale", "mscale_all_dim") if key in rope]
        if not there or all(rope.get(key) for key in ("mscale", "mscale_all_dim")):
            continue
        edits = tuple(subject.drop((*path, key)) for key in there)
        concerned = subject.moved(edits)
        if concerned:
            text = f"{' and '.join(f'{key} {rope[key]}' for key in there)}: {effects(subject, concerned)}"
            yield Hit(dotted(*path, there[0]), text, concerned, edits)


@rule(
    "RP304",
    "mscale pair that engines do not read",
    "warning",
    fix="write the magnitude that the pair gives as attention_factor beside it",
    upstream=("vllm-project/vllm#48621", "turboderp-org/exllamav3#259"),
    automatic=True,
    explains=True,
)
def mscale_pair(subject: Subject) -> Iterator[Hit]:
    """On models without DeepSeek's latent attention, exllamav3, vLLM up to 0.29 and transformers up to 4.49 take no
    notice of mscale and mscale_all_dim and apply the usual magnitude."""
    for path, rope in _yarns(subject):
        factor, one, every = (number(rope, key) for key in ("factor", "mscale", "mscale_all_dim"))
        if not factor or not one or not every:
            continue
        concerned = _other_scale(subject, _off(subject, "mscale", "mscale_all_dim"))
        if not concerned:
            continue
        ratio = magnitude_ratio(factor, one, every)
        edits = (subject.put((*path, "attention_factor"), ratio),)
        useful = rope.get("attention_factor") is None and subject.moved(edits)
        text = f"the pair gives {ratio:.4g} and is not read: {effects(subject, concerned)}"
        yield Hit(dotted(*path, "mscale_all_dim"), text, concerned, edits if useful else ())


@rule(
    "RP305",
    "truncate that engines do not read",
    "warning",
    fix="none in the file; apply --bake writes the exact factors for the engines that read LongRoPE",
    upstream=("vllm-project/vllm#27722", "huggingface/transformers#42189"),
    explains=True,
)
def truncate(subject: Subject) -> Iterator[Hit]:
    """truncate: false (gpt-oss) leaves the ends of YaRN's ramp unrounded. TGI, mlx-lm, exllamav2 and older transformers
    round them all the same, and transformers 5.23 looks for the key beside the dicts of the layer types, not in
    them."""
    for path, rope in _yarns(subject):
        concerned = _off(subject, "truncate") if rope.get("truncate") is False else ()
        if concerned:
            text = f"the ends of the ramp are rounded all the same: {effects(subject, concerned)}"
            yield Hit(dotted(*path, "truncate"), text, concerned)


@rule(
    "RP306",
    "betas that engines do not read",
    "warning",
    fix="none in the file for these engines",
    explains=True,
)
def betas(subject: Subject) -> Iterator[Hit]:
    """beta_fast and beta_slow set where YaRN's ramp begins and ends. TGI and exllamav2 keep 32 and 1."""
    for path, rope in _yarns(subject):
        concerned = _off(subject, "beta_fast", "beta_slow")
        if concerned and (
            number(rope, "beta_fast") not in (None, 32.0) or number(rope, "beta_slow") not in (None, 1.0)
        ):
            there = [name for name in ("beta_fast", "beta_slow") if rope.get(name) is not None]
            said = " and ".join(f"{name} {rope[name]}" for name in there)
            yield Hit(dotted(*path, there[0]), f"{said} not read: {effects(subject, concerned)}", concerned)


@rule(
    "RP307",
    "M-RoPE with YaRN",
    "warning",
    fix="none in the file; vLLM 0.33 is right for Qwen3-VL and Qwen3.5",
    upstream=("vllm-project/vllm#8281",),
    explains=True,
)
def mrope(subject: Subject) -> Iterator[Hit]:
    """vLLM makes the table of a multimodal rotation four times as long before it computes YaRN's ramp from that length,
    so that the ramp starts from four times the original context."""
    for path, rope in _yarns(subject):
        concerned = subject.noting("4 times") if "mrope_section" in rope else ()
        concerned = tuple(spec for spec in concerned if subject.differs(spec))
        if concerned:
            text = f"the ramp is computed from 4 times the original context: {effects(subject, concerned)}"
            yield Hit(dotted(*path, "mrope_section"), text, concerned)


@rule("RP308", "M-RoPE with mscale", "error", fix="write attention_factor instead of the mscale keys", explains=True)
def mrope_mscale(subject: Subject) -> Iterator[Hit]:
    """SGLang's class for a multimodal rotation with YaRN takes no mscale and stops with a TypeError."""
    for path, rope in _yarns(subject):
        there = [key for key in ("mscale", "mscale_all_dim") if key in rope]
        if "mrope_section" not in rope or not there:
            continue
        other = subject.with_edits([subject.drop((*path, key)) for key in there])
        concerned = tuple(spec for spec in subject.scope.specs if subject.refuses(spec) and not other.refuses(spec))
        if concerned:
            yield Hit(dotted(*path, there[0]), effects(subject, concerned), concerned)


@rule("RP309", "query temperature hangs on the original context", "info", fix="check the temperature after a change")
def temperature(subject: Subject) -> Iterator[Hit]:
    """Ministral 3 and Mistral 4 raise the queries of all layers by 1 + beta ln(1 + floor(position / original context)).
    Whoever changes the original context changes this as well."""
    for path, rope in subject.ropes():
        beta, original = number(rope, "llama_4_scaling_beta"), number(rope, ORIGINAL)
        if beta and original:
            text = f"llama_4_scaling_beta {beta:g} counts from {ORIGINAL} {original:,.0f}; a change of it moves both"
            yield Hit(dotted(*path, "llama_4_scaling_beta"), text)


@rule(
    "RP310",
    "dynamic NTK",
    "warning",
    fix="a fixed base for the length that is needed: apply --method ntk --existing replace",
    upstream=(
        "vllm-project/vllm#41236",
        "vllm-project/vllm#52665",
        "vllm-project/vllm#55910",
        "huggingface/transformers#27226",
    ),
    explains=True,
)
def dynamic(subject: Subject) -> Iterator[Hit]:
    """transformers raises the base as the sequence grows. vLLM from 0.22 on turns by the plain rotation and reads
    outside its table beyond the declared context, older vLLM and SGLang apply the full extension to short inputs too,
    exllamav3 stops and exllamav2 takes no notice."""
    for path, rope in subject.ropes():
        concerned = subject.deviating() if kind_of(rope) == "dynamic" else ()
        concerned = tuple(spec for spec in concerned if spec not in subject.explained)
        if concerned:
            yield Hit(
                dotted(*path), f"dynamic NTK is not the same everywhere: {effects(subject, concerned)}", concerned
            )


@rule(
    "RP311",
    "magnitude below 1 or far from YaRN's",
    "info",
    fix="check that the model was tuned with it",
)
def odd_magnitude(subject: Subject) -> Iterator[Hit]:
    """YaRN's magnitude is 0.1 ln factor + 1 unless the file says otherwise. An explicit value that is neither this nor
    1 was either trained with, or written by somebody who took it for a multiplier."""
    for path, rope in _yarns(subject):
        given, factor = number(rope, "attention_factor"), number(rope, "factor")
        if given is None or not factor or factor <= 1:
            continue
        usual = yarn_attention(factor)
        if not any(math.isclose(given, value, rel_tol=1e-3) for value in (1.0, usual)):
            text = f"attention_factor is {given:.4g}; factor {factor:g} usually brings {usual:.4g}"
            fix = f"write {usual:.6g}" if math.isclose(given, 1 / usual, rel_tol=1e-3) else None
            yield Hit(dotted(*path, "attention_factor"), text, (), (), fix)
