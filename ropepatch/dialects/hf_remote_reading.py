"""Reading the RoPE of models whose code comes with the checkpoint, one function a family of code.

None as an answer means that the common rules hold for this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.errors import InputError, NoRope
from ropepatch.methods.dynamic import Dynamic
from ropepatch.methods.linear import Linear
from ropepatch.methods.ntk import ntk_theta

if TYPE_CHECKING:
    from ropepatch.dialects.hf_families import Entry
    from ropepatch.dialects.hf_section import Section

#: the base that ChatGLM's ``rope_ratio`` multiplies, and that several codes have fixed
BASE = 10000.0


def _entry(section: Section, key: str, theta: float, **more: Any) -> dict[str, Entry]:
    from ropepatch.dialects.hf_families import Entry

    head = more.pop("head_dim", None) or section.head_dim()
    return {"default": Entry(more.pop("rope", {}), (key,), float(theta), int(head), **more)}


def inner(section: Section, name: str) -> Mapping[str, Any]:
    value = section.given.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"is {value!r:.60}, not an object", where=f"{section.where}: {name}")
    return value or {}


def chatglm(section: Section, notes: list[str]) -> dict[str, Entry]:
    """ChatGLM2, ChatGLM3 and GLM-4: the base is a multiple of 10000, half of each head turns."""
    if section.given.get("position_encoding_2d"):
        raise InputError(
            "position_encoding_2d gives each half of a head positions of its own; no method here extends that",
            where=f"{section.where}: position_encoding_2d",
        )
    ratio = section.given_number("rope_ratio") or 1.0
    if ratio != 1:
        notes.append(
            f"rope_ratio {ratio:g} multiplies the base, as in the code of ChatGLM3 and GLM-4 and in vLLM; the code of "
            "ChatGLM2-6B-32K divides positions by it instead"
        )
    head = section.given_number("kv_channels", limit=1 << 20)
    return _entry(section, "rope_ratio", BASE * ratio, head_dim=head, partial=0.5)


def qwen(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Qwen-1: a base of its own name, and a base that grows in steps beyond ``seq_length``."""
    theta = section.given_number("rotary_emb_base") or BASE
    partial = section.given_number("rotary_pct", limit=1.0) or 1.0
    trained = section.given_number("seq_length", limit=1 << 40)
    scaling = None
    if section.given.get("use_dynamic_ntk") and trained:
        scaling = Dynamic(2.0, int(trained))
        notes.append(
            f"use_dynamic_ntk: beyond seq_length {int(trained):d} the code takes the base of dynamic NTK at the next "
            f"power of two times that length; between those lengths the frequencies here are a little higher"
        )
    if section.given.get("use_logn_attn"):
        notes.append("use_logn_attn: beyond seq_length queries are scaled by the logarithm of the position as well")
    head = section.given_number("kv_channels", limit=1 << 20)
    return _entry(section, "rotary_emb_base", theta, head_dim=head, partial=partial, scaling=scaling)


def baichuan(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Baichuan: the 7B models turn at a fixed base, the 13B models use ALiBi."""
    if section.number("hidden_size") != 4096:
        raise NoRope("the Baichuan models wider than 4096 use ALiBi; there is nothing to patch", where=section.where)
    return _entry(section, "rope_theta", BASE)


def mpt(section: Section, notes: list[str]) -> dict[str, Entry]:
    """MPT: RoPE is a switch in ``attn_config``; transformers' own class has none."""
    attention = inner(section, "attn_config")
    if attention.get("rope") is not True:
        raise NoRope(
            "attn_config.rope is not true: no RoPE in this MPT; there is nothing to patch", where=section.where
        )
    implementation = attention.get("rope_impl", "dail")
    scaled = attention.get("rope_hf_config") if implementation == "hf" else None
    rope = dict(scaled) if isinstance(scaled, Mapping) else {}
    if rope.get("type") == "no_scaling":
        rope = {}
    theta = section.check("attn_config.rope_theta", attention.get("rope_theta")) or BASE
    return _entry(section, "attn_config", theta, rope=rope)


def dbrx(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """DBRX: transformers 4 and vLLM read the base in ``attn_config``; transformers 5 reads it from the top alone."""
    theta = section.check("attn_config.rope_theta", inner(section, "attn_config").get("rope_theta"))
    if theta is None or any(section.given.get(key) for key in ("rope_parameters", "rope_theta")):
        return None
    notes.append(f"attn_config.rope_theta {theta:g} is read by transformers 4 and vLLM; transformers 5.23 takes 10000")
    return _entry(section, "rope_scaling", theta)


def nomic(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """Nomic BERT before transformers had it; with a factor its base follows the length."""
    if section.given.get("rotary_emb_fraction") is None and section.given.get("rotary_emb_base") is None:
        return None
    fraction = section.given.get("rotary_emb_fraction")
    if fraction == 0:
        raise NoRope("rotary_emb_fraction is 0: this model has no RoPE; there is nothing to patch", where=section.where)
    partial = section.given_number("rotary_emb_fraction", limit=1.0) or 1.0
    trained = section.given_number("max_trained_positions", limit=1 << 40) or 2048
    factor = section.given_number("rotary_scaling_factor", limit=1e6)
    scaling = Dynamic(float(factor), int(trained)) if factor and factor >= 1 else None
    if scaling is None:
        notes.append(f"trained on {int(trained)} positions; rotary_scaling_factor is what would scale beyond them")
    theta = section.given_number("rotary_emb_base") or 1000.0
    return _entry(section, "rotary_emb_base", theta, partial=partial, scaling=scaling)


def phi3_small(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Phi-3-small: its own name for the base, and for a division of positions."""
    from ropepatch.dialects.hf_values import rope_dict

    rope, _ = rope_dict(section)
    scale = section.given_number("rope_position_scale") or 1.0
    original = int(section.given_number("original_max_position_embeddings", limit=1 << 40) or 0) or None
    theta = section.given_number("rope_embedding_base") or 1e6
    scaling = Linear(float(scale)) if scale > 1 and not rope else None
    kept = {key: value for key, value in rope.items() if key not in ("short_mscale", "long_mscale")}
    if kept != rope:
        notes.append("short_mscale and long_mscale scale cos and sin in the model's own code; vLLM reads them as well")
    return _entry(section, "rope_scaling", theta, rope=kept, original=original, scaling=scaling)


def hunyuan(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """Hunyuan: ``dynamic`` with an ``alpha`` is a fixed NTK-aware base, at every length."""
    from ropepatch.dialects.hf_values import rope_dict

    rope, key = rope_dict(section)
    alpha = section.check("rope_scaling.alpha", rope.get("alpha"))
    if alpha is None or rope.get("rope_type", rope.get("type")) != "dynamic":
        return None
    head = section.given_number("attention_head_dim", "head_dim", limit=1 << 20) or section.head_dim()
    base = section.check("rope_theta", rope.get("rope_theta")) or section.given_number("rope_theta") or BASE
    theta = ntk_theta(base, int(head), alpha)
    notes.append(f"alpha {alpha:g} is a fixed stretch of the base at every length: {base:g} becomes {theta:.6g}")
    return _entry(section, key[0], theta, head_dim=head)


def fixed(section: Section, notes: list[str]) -> dict[str, Entry]:
    """A base that stands in the code, unless the file has one."""
    theta = section.given_number("rope_theta", "rope_theta_base")
    if theta is None:
        notes.append(f"the base {BASE:g} stands in the code of {section.model_type}, not in the config")
    head = section.given_number("dim_head", limit=1 << 20)
    return _entry(section, "rope_theta", theta or BASE, head_dim=head)


def fixed_or_common(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """As transformers has it when the file says anything, else the base in the code."""
    if any(section.given.get(key) is not None for key in ("rope_theta", "rope_scaling", "rope_parameters")):
        return None
    return fixed(section, notes)
