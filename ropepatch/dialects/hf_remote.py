"""Models whose code comes with the checkpoint: where they keep their RoPE in ``config.json``, and what they read.

Each family is one row of :data:`FAMILIES`. Such code reads its own keys and no other: what it would ignore is refused
(:func:`takes`), and a base is written under the key that it has for it (:data:`THETA_SPELLING`). Facts: the published
``modeling_*.py`` of each model, and the model files of vLLM that re-implement them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.errors import InputError, MethodUnsupported, NoRope
from ropepatch.methods.dynamic import Dynamic
from ropepatch.methods.linear import Linear
from ropepatch.methods.ntk import ntk_theta

if TYPE_CHECKING:
    from ropepatch.dialects.hf_families import Entry
    from ropepatch.dialects.hf_section import Section

#: model types of remote code whose rotary class is that of another type
ALIASES = {"kimi_k2": "deepseek_v3"}
#: the base that ChatGLM's ``rope_ratio`` multiplies, and that several codes have fixed
_BASE = 10000.0

Spelling = Callable[["Section", float], dict[tuple[str, ...], Any]]


def _entry(section: Section, key: str, theta: float, **more: Any) -> dict[str, Entry]:
    from ropepatch.dialects.hf_families import Entry

    head = more.pop("head_dim", None) or section.head_dim()
    return {"default": Entry(more.pop("rope", {}), (key,), float(theta), int(head), **more)}


def _inner(section: Section, name: str) -> Mapping[str, Any]:
    value = section.given.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"is {value!r:.60}, not an object", where=f"{section.where}: {name}")
    return value or {}


def _chatglm(section: Section, notes: list[str]) -> dict[str, Entry]:
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
    return _entry(section, "rope_ratio", _BASE * ratio, head_dim=head, partial=0.5)


def _qwen(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Qwen-1: a base of its own name, and a base that grows in steps beyond ``seq_length``."""
    theta = section.given_number("rotary_emb_base") or _BASE
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


def _baichuan(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Baichuan: the 7B models turn at a fixed base, the 13B models use ALiBi."""
    if section.number("hidden_size") != 4096:
        raise NoRope("the Baichuan models wider than 4096 use ALiBi; there is nothing to patch", where=section.where)
    return _entry(section, "rope_theta", _BASE)


def _mpt(section: Section, notes: list[str]) -> dict[str, Entry]:
    """MPT: RoPE is a switch in ``attn_config``; transformers' own class has none."""
    attention = _inner(section, "attn_config")
    if attention.get("rope") is not True:
        raise NoRope(
            "attn_config.rope is not true: no RoPE in this MPT; there is nothing to patch", where=section.where
        )
    implementation = attention.get("rope_impl", "dail")
    scaled = attention.get("rope_hf_config") if implementation == "hf" else None
    rope = dict(scaled) if isinstance(scaled, Mapping) else {}
    if rope.get("type") == "no_scaling":
        rope = {}
    theta = section.check("attn_config.rope_theta", attention.get("rope_theta")) or _BASE
    return _entry(section, "attn_config", theta, rope=rope)


def _dbrx(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """DBRX: transformers 4 and vLLM read the base in ``attn_config``; transformers 5 reads it from the top alone."""
    theta = section.check("attn_config.rope_theta", _inner(section, "attn_config").get("rope_theta"))
    if theta is None or any(section.given.get(key) for key in ("rope_parameters", "rope_theta")):
        return None
    notes.append(f"attn_config.rope_theta {theta:g} is read by transformers 4 and vLLM; transformers 5.23 takes 10000")
    return _entry(section, "rope_scaling", theta)


def _nomic(section: Section, notes: list[str]) -> dict[str, Entry] | None:
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


def _phi3_small(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Phi-3-small: its own name for the base, and for a division of positions."""
    from ropepatch.dialects.hf_families import rope_dict

    rope, _ = rope_dict(section)
    scale = section.given_number("rope_position_scale") or 1.0
    original = int(section.given_number("original_max_position_embeddings", limit=1 << 40) or 0) or None
    theta = section.given_number("rope_embedding_base") or 1e6
    scaling = Linear(float(scale)) if scale > 1 and not rope else None
    kept = {key: value for key, value in rope.items() if key not in ("short_mscale", "long_mscale")}
    if kept != rope:
        notes.append("short_mscale and long_mscale scale cos and sin in the model's own code; vLLM reads them as well")
    return _entry(section, "rope_scaling", theta, rope=kept, original=original, scaling=scaling)


def _hunyuan(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """Hunyuan: ``dynamic`` with an ``alpha`` is a fixed NTK-aware base, at every length."""
    from ropepatch.dialects.hf_families import rope_dict

    rope, key = rope_dict(section)
    alpha = section.check("rope_scaling.alpha", rope.get("alpha"))
    if alpha is None or rope.get("rope_type", rope.get("type")) != "dynamic":
        return None
    head = section.given_number("attention_head_dim", "head_dim", limit=1 << 20) or section.head_dim()
    base = section.check("rope_theta", rope.get("rope_theta")) or section.given_number("rope_theta") or _BASE
    theta = ntk_theta(base, int(head), alpha)
    notes.append(f"alpha {alpha:g} is a fixed stretch of the base at every length: {base:g} becomes {theta:.6g}")
    return _entry(section, key[0], theta, head_dim=head)


def _fixed(section: Section, notes: list[str]) -> dict[str, Entry]:
    """A base that stands in the code, unless the file has one."""
    theta = section.given_number("rope_theta", "rope_theta_base")
    if theta is None:
        notes.append(f"the base {_BASE:g} stands in the code of {section.model_type}, not in the config")
    head = section.given_number("dim_head", limit=1 << 20)
    return _entry(section, "rope_theta", theta or _BASE, head_dim=head)


def _fixed_or_common(section: Section, notes: list[str]) -> dict[str, Entry] | None:
    """As transformers has it when the file says anything, else the base in the code."""
    if any(section.given.get(key) is not None for key in ("rope_theta", "rope_scaling", "rope_parameters")):
        return None
    return _fixed(section, notes)


#: by model type; None as an answer means that the common rules hold for this file
FAMILIES: dict[str, Callable[[Section, list[str]], dict[str, Entry] | None]] = {
    "baichuan": _baichuan,
    "chatglm": _chatglm,
    "dbrx": _dbrx,
    "hunyuan": _hunyuan,
    "hunyuan_v1_dense": _hunyuan,
    "hunyuan_v1_moe": _hunyuan,
    "internlm": _fixed_or_common,
    "internlm2": _fixed_or_common,
    "minicpm": _fixed_or_common,
    "mpt": _mpt,
    "neobert": _fixed,
    "nomic_bert": _nomic,
    "phi3small": _phi3_small,
    "qwen": _qwen,
    "xverse": _fixed_or_common,
    "yuan": _fixed,
}
#: families that have RoPE although their config may not show it; the family's own function says when not
_ROTATE = frozenset(FAMILIES) - {"dbrx", "hunyuan", "hunyuan_v1_dense", "hunyuan_v1_moe", "nomic_bert"}
_LAYOUTS = {"neobert": "interleaved"}
#: the rope types that each code reads as ropepatch writes them; MiniCPM's and Phi-3-small's longrope is no such one,
#: since their code takes the magnitude from elsewhere than attention_factor
_TAKES: dict[str, tuple[str, ...]] = {
    "baichuan": (),
    "chatglm": (),
    "internlm": ("dynamic",),
    "internlm2": ("linear", "dynamic"),
    "minicpm": ("linear", "dynamic"),
    "mpt": (),
    "neobert": (),
    "phi3small": (),
    "qwen": (),
    "xverse": (),
    "yuan": (),
}
#: keys that switch a scaling on and have to go when the base alone is to count
_SWITCHES: dict[str, dict[str, Any]] = {
    "nomic_bert": {"rotary_scaling_factor": None},
    "phi3small": {"rope_position_scale": 1.0},
    "qwen": {"use_dynamic_ntk": False},
}


def rotates(section: Section) -> bool | None:
    """Whether the model has RoPE, None where this is no remote code that is known here."""
    return True if section.model_type in _ROTATE else None


def layout(section: Section) -> str | None:
    """How pairs lie in a head, None where the common rules hold."""
    if section.model_type == "chatglm":
        return "interleaved" if section.given.get("original_rope", True) else "half"
    if section.model_type == "nomic_bert" and section.given.get("rotary_emb_interleaved"):
        return "interleaved"
    return _LAYOUTS.get(section.model_type)


def takes(section: Section, kind: str) -> str | None:
    """Why the model's own code does not take the rope type ``kind``; None when it does, or is not known here."""
    if section.model_type == "nomic_bert" and section.given.get("rotary_emb_base") is not None:
        return "its code reads rotary_emb_base and rotary_scaling_factor alone"
    known = _TAKES.get(section.model_type)
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
    spelling = THETA_SPELLING.get(section.model_type)
    if spelling is None or (section.model_type == "nomic_bert" and section.given.get("rotary_emb_base") is None):
        return dict(values)
    own = spelling(section, theta)
    if section.model_type in _ROTATE:  # transformers' key would mean nothing to this code
        values = {path: value for path, value in values.items() if path[0] in section.given}
    return {**values, **own, **_switched_off(section)}


def _switched_off(section: Section) -> dict[tuple[str, ...], Any]:
    values: dict[tuple[str, ...], Any] = {}
    for key, value in _SWITCHES.get(section.model_type, {}).items():
        if section.given.get(key) not in (None, value):
            values[(key,)] = value
    return values


def _ratio(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    ratio = theta / _BASE
    return {("rope_ratio",): int(ratio) if ratio == int(ratio) else ratio}


def _key(name: str) -> Spelling:
    def spell(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
        names = [name, "rope_theta"] if section.given.get("rope_theta") is not None else [name]
        return {(each,): theta for each in names}

    return spell


def _in_attention(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    return {("attn_config", "rope_theta"): theta} if _inner(section, "attn_config").get("rope_theta") else {}


def _stretched(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    """The base is written out: ``alpha``, which stretched it, goes with the old scaling."""
    from ropepatch.dialects.hf_families import rope_dict

    rope, key = rope_dict(section)
    return {("rope_theta",): theta} if rope.get("alpha") and key == ("rope_scaling",) else {}


def _in_code(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    if section.given.get("rope_theta") is not None and section.model_type == "xverse":
        return {("rope_theta",): theta}
    raise MethodUnsupported(
        f"the base {_BASE:g} stands in the code of {section.model_type}, which reads none from the config",
        where=section.where,
        hint="convert the model to a GGUF, or to a model type whose config has a base",
    )


#: how each code wants its base written: the section and the base to values by path
THETA_SPELLING: dict[str, Spelling] = {
    "baichuan": _in_code,
    "chatglm": _ratio,
    "codegen": _in_code,
    "dbrx": _in_attention,
    "gptj": _in_code,
    "hunyuan": _stretched,
    "hunyuan_v1_dense": _stretched,
    "hunyuan_v1_moe": _stretched,
    "mpt": _in_attention,
    "neobert": _in_code,
    "nomic_bert": _key("rotary_emb_base"),
    "phi3small": _key("rope_embedding_base"),
    "qwen": _key("rotary_emb_base"),
    "roformer": _in_code,
    "xverse": _in_code,
    "yuan": _in_code,
}
