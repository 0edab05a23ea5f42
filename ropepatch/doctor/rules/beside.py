"""RP801 to RP804: what lies beside a config.json, or stands for it: params.json, stored frequencies, bare weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ropepatch import diffing
from ropepatch.dialects import inv_freq_tensors
from ropepatch.dialects.mistral_params import MistralDialect
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.subject import Subject
from ropepatch.errors import RopepatchError
from ropepatch.profile import RopeProfile
from ropepatch.storage import remote

PARAMS = "params.json"


def _other(subject: Subject) -> RopeProfile | None:
    """What a Mistral ``params.json`` beside the config says; None where there is none that can be read."""
    path = remote.bring(subject.dialect.root / PARAMS)
    if not path.is_file():
        return None
    try:
        found = MistralDialect.open(path.parent, path)
        return found.lift(subject.ref) if "dim" in found.given or "yarn" in found.given else None
    except RopepatchError:
        return None


@rule(
    "RP801",
    "params.json says something else",
    "warning",
    fix="give both files the same base, scaling and context, or take one of them out",
)
def params(subject: Subject) -> Iterator[Hit]:
    """Mistral's models carry a params.json of their own beside config.json. vLLM and mistral-inference read that one
    where consolidated*.safetensors lie beside it, and vLLM does with --config-format mistral; everything else reads
    config.json. Who edits one of them changes the model for half of the engines."""
    mine, other = subject.profile, _other(subject)
    if mine is None or other is None or len(mine.groups) != 1:
        return
    (group,) = other.groups.values()  # a params.json has one
    found = diffing.diff(mine, dataclasses.replace(other, groups=dict.fromkeys(mine.groups, group)))
    if found.equivalent and found.same_contexts:
        return
    own = any(subject.dialect.root.glob("consolidated*.safetensors"))
    specs = subject.scope.of("vllm") if own else ()
    reader = "vllm reads it" if own else "vllm --config-format mistral reads it"
    yield Hit("", f"{reader}, other engines config.json: {_clause(found)}", specs, file=PARAMS)


def _clause(found: diffing.Diff) -> str:
    """The settings that differ, of the config and of params.json."""
    settings = [*found.contexts, *(item for group in found.groups for item in group.settings)]
    told = [
        f"{item.name.removeprefix('scaling.')} {item.a if item.a is not None else '-'} against "
        f"{item.b if item.b is not None else '-'}"
        for item in settings
        if not item.same and item.name in _TOLD
    ]
    return "; ".join(told) or "other frequencies"


_TOLD = (
    "declared_context", "rope_theta", "rotary_dim", "window", "scaling.method", "scaling.factor",
    "scaling.original_max_position_embeddings", "scaling.attention_factor", "scaling.beta_fast", "scaling.beta_slow",
)  # fmt: skip


@rule(
    "RP802",
    "scaling that stands in params.json alone",
    "info",
    fix="write a config.json with the same scaling, in the layout of transformers 4",
    formats=("mistral",),
)
def params_alone(subject: Subject) -> Iterator[Hit]:
    """The yarn object of a params.json is read by mistral-inference, vLLM, SGLang and llama.cpp's converter.
    transformers, TGI, mlx-lm and exllama look for a config.json and do not load the folder."""
    if subject.profile is not None and any(group.scaled for group in subject.profile.groups.values()):
        text = "no config.json beside it: transformers, tgi, mlx-lm and exllama do not load the folder"
        yield Hit("yarn", text)


@rule(
    "RP803",
    "stored frequencies that disagree with the config",
    "warning",
    fix="ropepatch apply writes both; or take the inv_freq tensors out of the weights",
)
def stored(subject: Subject) -> Iterator[Hit]:
    """Older checkpoints and those with code of their own keep inv_freq as a tensor. Code that loads the buffer rotates
    by it, and an edit of config.json changes nothing there; transformers computes its own and passes it over."""
    if subject.profile is None or remote.of(subject.dialect.root) is not None:
        return  # on the Hub only the header is here
    for note in inv_freq_tensors.attach(subject.dialect, subject.profile):
        if "disagree with the config" in note:
            yield Hit("", note)


@rule(
    "RP804",
    "weights without a config",
    "info",
    fix="put the model's config.json beside them",
    formats=("safetensors",),
)
def bare(subject: Subject) -> Iterator[Hit]:
    """Frequencies stored among the weights are all that a safetensors file says about its rotation: neither a base nor
    a context, and no engine loads it as it is."""
    if subject.profile is not None:
        yield Hit("", "no config.json beside it: no engine loads it, and base and context are not written")
