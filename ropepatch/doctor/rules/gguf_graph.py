"""RP607 to RP622, as far as they hang on the architecture: what llama.cpp's graph makes of a GGUF's keys."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ropepatch.containers.gguf import ArrayRef
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.rules.gguf_keys import FACTOR, SCALING_TYPE
from ropepatch.doctor.subject import Subject
from ropepatch.errors import NoRope
from ropepatch.methods.yarn import Yarn
from ropepatch.runtimes.llama_cpp_keys import LOG_MULTIPLIER, SECTIONS, used

_GGUF = ("gguf",)
#: YaRN keys that few architectures read, with the value that stands in for them elsewhere
_RARE = {
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    LOG_MULTIPLIER: 0.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.alpha": 0.0,
}


@rule(
    "RP607",
    "key that llama.cpp does not read for this architecture",
    "warning",
    fix="bake the method into rope_freqs.weight where the architecture reads it (apply --bake --existing replace)",
    formats=_GGUF,
    upstream=("ikawrakow/ik_llama.cpp#1298", "ikawrakow/ik_llama.cpp#2003"),
)
def unread_keys(subject: Subject) -> Iterator[Hit]:
    """The converter writes YaRN's betas and factors for every architecture; llama.cpp reads the betas for grok,
    mistral3 and k2-horizon, the log multiplier for DeepSeek's and Mistral's, the others for grok alone."""
    view = subject.gguf
    for name, usual in _RARE.items():
        value = view.number(name)
        if value is None or used(view.row, name) or math.isclose(value, usual, abs_tol=1e-9):
            continue
        text = f"is {value:g} and is not read for {view.arch}; {usual:g} stands in for it"
        yield Hit(view.full(name), text, subject.scope.specs)


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
    """rope.scaling.yarn_log_multiplier is mscale_all_dim for mistral3 and a tenth of it for DeepSeek's architectures. A
    value that fits the other convention makes the magnitude wrong by a factor of ten in its logarithm."""
    view = subject.gguf
    value, row = view.number(LOG_MULTIPLIER), view.row
    if not value or row is None:
        return
    if row.log_mul == "tenth" and value >= 0.5:
        right = value / 10
    elif row.log_mul == "raw" and 0 < value <= 0.15:
        right = value * 10
    else:
        return
    edits = (subject.put_key(LOG_MULTIPLIER, "FLOAT32", float(np.float32(right))),)
    text = (
        f"is {value:g}; {view.arch} stores {'a tenth of mscale_all_dim' if right < value else 'mscale_all_dim itself'}"
    )
    yield Hit(view.full(LOG_MULTIPLIER), text, subject.scope.specs, edits, f"write {right:g}")


@rule(
    "RP610",
    "M-RoPE sections",
    "error",
    fix="write four numbers, the last one 0 where there are three sections",
    formats=_GGUF,
    upstream=("ollama/ollama#17903",),
)
def sections(subject: Subject) -> Iterator[Hit]:
    """llama.cpp takes exactly four sections; Ollama's converter writes three. Qwen's vision architectures do not load
    without them."""
    view = subject.gguf
    name = SECTIONS
    value = view.get(name)
    if view.row is None or not view.row.needs_sections:
        return  # not asked for, or taken as it is
    if isinstance(value, ArrayRef) and value.count != 4:
        text = f"has {value.count} numbers, llama.cpp takes 4"
        yield Hit(view.full(name), text, subject.scope.but("ollama"))
    elif value is None:
        yield Hit(view.full(name), f"is not there, and {view.arch} does not load without it", subject.scope.specs)


@rule(
    "RP611",
    "finetuned: false turns RoPE off",
    "warning",
    fix="set rope.scaling.finetuned to true, unless the model was trained without positions",
    formats=_GGUF,
)
def granite(subject: Subject) -> Iterator[Hit]:
    """On granite, granitehybrid and graniteswitch this flag says whether the graph rotates at all; everywhere else it
    is only printed."""
    view = subject.gguf
    if view.row is not None and "finetuned" in view.row.note and view.get("rope.scaling.finetuned") is False:
        text = f"is false: llama.cpp rotates nothing on {view.arch}, whatever the other keys say"
        yield Hit(view.full("rope.scaling.finetuned"), text, subject.scope.specs)


@rule(
    "RP615",
    "rounded ends of gpt-oss's ramp",
    "warning",
    fix="none: the architecture reads no factor tensors, and the ends are always rounded",
    formats=_GGUF,
    upstream=("vllm-project/vllm#27722", "vllm-project/vllm#28244"),
)
def gpt_oss(subject: Subject) -> Iterator[Hit]:
    """gpt-oss was trained with truncate: false, a YaRN ramp whose ends are not rounded to whole pairs. GGUF has no key
    for it, and llama.cpp always rounds."""
    if subject.gguf.arch != "gpt-oss" or subject.profile is None:
        return
    for group in subject.profile.groups.values():
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
            yield Hit(subject.gguf.full(SCALING_TYPE), text, subject.scope.specs)
            return


@rule(
    "RP618",
    "rotated dimensions are not the head's",
    "error",
    fix="set rope.dimension_count to attention.key_length",
    formats=_GGUF,
)
def dimension(subject: Subject) -> Iterator[Hit]:
    """Some architectures always rotate the whole head: with another rope.dimension_count llama and falcon raise an
    error, qwen2 and most others end the process."""
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
    """On some hybrids the full-attention layers carry no RoPE and the sliding ones take no factor, or the graph ignores
    the scaling keys: a factor in the file changes nothing."""
    view, row = subject.gguf, subject.gguf.row
    if row is None or view.factor == 1 or view.kind == "none" or subject.profile is None:
        return
    still = all(group.scalable is False for group in subject.profile.groups.values())
    if still:
        text = f"factor {view.factor:g} changes nothing on {view.arch}"
        yield Hit(view.full(FACTOR), text, subject.scope.specs)


@rule("RP620", "architecture that llama.cpp does not know", "error", fix="use the engine that wrote it", formats=_GGUF)
def unknown_architecture(subject: Subject) -> Iterator[Hit]:
    """llama.cpp stops on a general.architecture that it has no loader for."""
    if subject.gguf.row is None:
        yield Hit(
            "general.architecture", f"is {subject.gguf.prefix!r}, which llama.cpp does not load", subject.scope.specs
        )


@rule("RP622", "rope keys without a rotation", "info", fix="nothing to do", formats=_GGUF)
def no_rotation(subject: Subject) -> Iterator[Hit]:
    """The architecture has no rotary embedding in llama.cpp; rope keys in the file do nothing."""
    if isinstance(subject.lifted, NoRope):
        yield Hit("general.architecture", subject.lifted.what, subject.scope.specs)
