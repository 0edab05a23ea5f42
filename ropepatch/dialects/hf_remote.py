"""Models whose code comes with the checkpoint: where they keep their RoPE in ``config.json``, and what they read.

Each family is one row of :data:`FAMILIES`. Such code reads its own keys and no other: what it would ignore is refused,
and a base is written under the key that it has for it. Facts: the published ``modeling_*.py`` of each model, and the
model files of vLLM that re-implement them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ropepatch.dialects import hf_remote_base as base
from ropepatch.dialects import hf_remote_reading as reading

if TYPE_CHECKING:
    from ropepatch.dialects.hf_families import Entry
    from ropepatch.dialects.hf_section import Section

#: model types of remote code whose rotary class is that of another type
ALIASES = {"kimi_k2": "deepseek_v3"}


class Family(NamedTuple):
    """What the code of a model type does otherwise than the common rules.

    Attributes:
        read: the sets of frequencies by group name; None as an answer where the common rules hold for the file.
        rotates: it has RoPE although its config may not show it; ``read`` says when not.
        layout: how pairs lie in a head; None where the common rules say.
        takes: the rope types that it reads as ropepatch writes them; None where it takes what transformers does.
        switches: keys that switch a scaling on and have to go when the base alone is to count, with what turns it off.
        base: where it wants its base written; None for transformers' key.
    """

    read: Callable[[Section, list[str]], dict[str, Entry] | None] | None = None
    rotates: bool = False
    layout: str | None = None
    takes: tuple[str, ...] | None = None
    switches: Mapping[str, Any] = {}
    base: base.Spelling | None = None


_HUNYUAN = Family(reading.hunyuan, base=base.stretched)
#: MiniCPM's and Phi-3-small's longrope is no rope type that is taken: their code has its magnitude from elsewhere than
#: attention_factor
FAMILIES: dict[str, Family] = {
    "baichuan": Family(reading.baichuan, True, takes=(), base=base.in_code),
    "chatglm": Family(reading.chatglm, True, takes=(), base=base.ratio),
    "codegen": Family(base=base.in_code),
    "dbrx": Family(reading.dbrx, base=base.in_attention),
    "gptj": Family(base=base.in_code),
    "hunyuan": _HUNYUAN,
    "hunyuan_v1_dense": _HUNYUAN,
    "hunyuan_v1_moe": _HUNYUAN,
    "internlm": Family(reading.fixed_or_common, True, takes=("dynamic",)),
    "internlm2": Family(reading.fixed_or_common, True, takes=("linear", "dynamic")),
    "minicpm": Family(reading.fixed_or_common, True, takes=("linear", "dynamic")),
    "mpt": Family(reading.mpt, True, takes=(), base=base.in_attention),
    "neobert": Family(reading.fixed, True, "interleaved", (), base=base.in_code),
    "nomic_bert": Family(reading.nomic, switches={"rotary_scaling_factor": None}, base=base.key("rotary_emb_base")),
    "phi3small": Family(
        reading.phi3_small, True, None, (), {"rope_position_scale": 1.0}, base.key("rope_embedding_base")
    ),
    "qwen": Family(reading.qwen, True, None, (), {"use_dynamic_ntk": False}, base.key("rotary_emb_base")),
    "roformer": Family(base=base.in_code),
    "xverse": Family(reading.fixed_or_common, True, takes=(), base=base.in_code),
    "yuan": Family(reading.fixed, True, takes=(), base=base.in_code),
}
_COMMON = Family()


def _of(section: Section) -> Family:
    return FAMILIES.get(section.model_type, _COMMON)


def read(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """The sets of frequencies by group name; None where the common rules hold."""
    own = _of(section).read
    return None if own is None else own(section, notes)


def known(model_type: str) -> bool:
    """Whether the type is one whose code has rules of its own here."""
    return FAMILIES.get(model_type, _COMMON).read is not None


def rotates(section: Section) -> bool | None:
    """Whether the model has RoPE, None where this is no remote code that is known here."""
    return True if _of(section).rotates else None


def layout(section: Section) -> str | None:
    """How pairs lie in a head, None where the common rules hold."""
    if section.model_type == "chatglm":
        return "interleaved" if section.given.get("original_rope", True) else "half"
    if section.model_type == "nomic_bert" and section.given.get("rotary_emb_interleaved"):
        return "interleaved"
    return _of(section).layout


def takes(section: Section, kind: str) -> str | None:
    """Why the model's own code does not take the rope type ``kind``; None when it does, or is not known here."""
    if section.model_type == "nomic_bert" and section.given.get("rotary_emb_base") is not None:
        return "its code reads rotary_emb_base and rotary_scaling_factor alone"
    known = _of(section).takes
    if known is None or kind in known:
        return None
    return f"its own code reads {', '.join(known)} alone" if known else "its own code reads no scaling of this kind"


def placed(section: Section, values: Mapping[tuple[str, ...], Any], theta: float) -> dict[tuple[str, ...], Any]:
    """``values`` (by path below the text section) as the model's own code wants the base, with its own scaling off.

    Args:
        section: the config.
        values: what the common rules would write.
        theta: the base that is to be in force.

    Raises:
        MethodUnsupported: the base stands in the code.
    """
    spelling = _of(section).base
    if spelling is None or (section.model_type == "nomic_bert" and section.given.get("rotary_emb_base") is None):
        return dict(values)
    own = spelling(section, theta)
    if _of(section).rotates:  # transformers' key would mean nothing to this code
        values = {path: value for path, value in values.items() if path[0] in section.given}
    return {**values, **own, **_switched_off(section)}


def _switched_off(section: Section) -> dict[tuple[str, ...], Any]:
    values: dict[tuple[str, ...], Any] = {}
    for key, value in _of(section).switches.items():
        if section.given.get(key) not in (None, value):
            values[(key,)] = value
    return values
