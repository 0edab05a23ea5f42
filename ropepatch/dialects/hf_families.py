"""Where each family of models keeps its RoPE in ``config.json``.

The rules are transformers 5's (``modeling_rope_utils.py`` and each model's ``configuration_*.py``); what a config
leaves out comes from ``hf_class_defaults.json``. A family with rules of its own is one entry of ``_FAMILIES``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropepatch.dialects import hf_defaults
from ropepatch.errors import InputError
from ropepatch.methods.base import Method, yarn_attention
from ropepatch.profile import RopeGroup

#: sub-configs that may hold the text model, in the order they are tried
TEXT_SECTIONS = (
    ("thinker_config", "text_config"),
    ("text_config",),
    ("llm_config",),
    ("language_config",),
    ("language_model",),
    ("decoder",),
)
THETA_KEYS = ("rotary_emb_base", "rope_embedding_base", "rope_base")
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "model_max_length",
    "max_target_positions",
    "n_ctx",
)
_ROPE_SIGNS = ("rope_theta", "rope_scaling", "rope_parameters", *THETA_KEYS)
#: larger than any head or model; beyond it a config is broken or hostile
_MAX_WIDTH = 1 << 20


@dataclass
class Section:
    """The part of a config that describes the text model.

    Attributes:
        path: keys that lead to it from the top of the file.
        given: what the file says there.
        defaults: what the model type's class adds.
        model_type: transformers' name of the architecture.
        where: the file, for messages.
        notes: what was assumed.
    """

    path: tuple[str, ...]
    given: Mapping[str, Any]
    defaults: hf_defaults.Defaults
    model_type: str
    where: str
    notes: list[str] = field(default_factory=list)

    @property
    def rotates(self) -> bool:
        """Whether the model has RoPE at all."""
        if self.defaults.known:
            return self.defaults.rotates or self.model_type == "esm"
        return any(self.given.get(key) is not None for key in _ROPE_SIGNS)

    @property
    def layout(self) -> str:
        """How pairs lie in a head: ``half`` or ``interleaved``."""
        interleave = self.given.get("rope_interleave")
        if isinstance(interleave, bool):
            return "interleaved" if interleave else "half"
        return self.defaults.layout

    def get(self, *names: str) -> Any:
        """The first of ``names`` that the file, else the class, gives a value."""
        for source in (self.given, self.defaults.values):
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return None

    def number(self, *names: str, limit: float = math.inf) -> float | None:
        """As :meth:`get`, refusing what is not a positive finite number up to ``limit``.

        Raises:
            InputError: naming file and key.
        """
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= limit:
            raise InputError(f"is {value!r:.60}, not a usable number", where=f"{self.where}: {names[0]}")
        return value

    def context(self) -> int | None:
        """The declared context in tokens."""
        value = self.number(*CONTEXT_KEYS, limit=(1 << 40))
        return int(value) if value is not None else None

    def context_key(self) -> str:
        """The key that the file declares its context under."""
        return next((key for key in CONTEXT_KEYS if self.given.get(key) is not None), "max_position_embeddings")

    def head_dim(self) -> int:
        """The dimensions of one head that RoPE may reach.

        Raises:
            InputError: the config does not say.
        """
        if self.defaults.dimension == "qk_rope_head_dim" and (
            width := self.number("qk_rope_head_dim", limit=_MAX_WIDTH)
        ):
            return int(width)
        explicit = self.given.get("head_dim")
        head = self.number("head_dim", limit=_MAX_WIDTH) if explicit is not None or not self._shaped() else None
        if head is None and self.defaults.fixed_head_dim:
            head = self.number("head_dim", limit=_MAX_WIDTH)
        if head is None:
            width = self.number("hidden_size", "n_embd", "d_model", "dim", limit=_MAX_WIDTH * 64)
            heads = self.number("num_attention_heads", "n_head", "n_heads", limit=_MAX_WIDTH)
            head = width // heads if width and heads else None
        if not head or head < 2:
            raise InputError("says neither head_dim nor hidden_size and num_attention_heads", where=self.where)
        return int(head)

    def _shaped(self) -> bool:
        return self.given.get("hidden_size") is not None or self.given.get("num_attention_heads") is not None


@dataclass(frozen=True)
class Entry:
    """One set of frequencies as the config has it.

    Attributes:
        rope: the rope dict, merged.
        key: where it stands below the text section.
        theta: the base.
        head_dim: the head's dimensions.
        partial: share of the head that rotates.
        partial_by_default: whether the class honours ``partial`` when no scaling is on.
        original: a top-level original context that overrides the dict's.
        layers: the layers that use it.
        window: their sliding window.
    """

    rope: Mapping[str, Any]
    key: tuple[str, ...]
    theta: float
    head_dim: int
    partial: float = 1.0
    partial_by_default: bool = True
    original: int | None = None
    layers: tuple[int, ...] | None = None
    window: int | None = None

    def rotary_dim(self, kind: str) -> int:
        """The dimensions that rotate under a rope type."""
        partial = self.partial if kind != "default" or self.partial_by_default else 1.0
        return max(2, int(self.head_dim * partial) // 2 * 2)


def text_section(config: Mapping[str, Any], where: str) -> Section:
    """The part of ``config`` that describes the text model."""
    path: tuple[str, ...] = ()
    given: Mapping[str, Any] = config
    if not any(config.get(key) is not None for key in ("num_attention_heads", *_ROPE_SIGNS)) or "text_config" in config:
        for candidate in TEXT_SECTIONS:
            inner: Any = config
            for key in candidate:
                inner = inner.get(key) if isinstance(inner, Mapping) else None
            if isinstance(inner, Mapping):
                path, given = candidate, inner
                break
    notes: list[str] = []
    model_type = given.get("model_type") or config.get("model_type")
    if not isinstance(model_type, str):
        model_type = "unknown"
        notes.append("the config names no model_type; the rules of llama-like models are taken")
    version = config.get("transformers_version")
    defaults = hf_defaults.lookup(model_type, version if isinstance(version, str) else None, notes)
    return Section(path, given, defaults, model_type, where, notes)


def rope_dict(section: Section) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The rope dict that counts, and its key: a non-empty ``rope_scaling`` replaces ``rope_parameters``.

    Raises:
        InputError: it is no object.
    """
    for key in ("rope_scaling", "rope_parameters"):
        value = section.given.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"is {value!r:.60}, not an object", where=f"{section.where}: {key}")
        if value:
            return value, (key,)
    default = section.defaults.values.get("rope_parameters") or section.defaults.values.get("rope_scaling")
    return (default if isinstance(default, Mapping) else {}), ("rope_scaling",)


def entries(section: Section, notes: list[str]) -> dict[str, Entry]:
    """Every set of frequencies of the text model, by group name."""
    family = _FAMILIES.get(section.model_type)
    if family is not None:
        return family(section, notes)
    rope, key = rope_dict(section)
    nested = {name: value for name, value in rope.items() if isinstance(value, Mapping)}
    if nested:
        return {
            name: entry(section, value, (*key, name), layers=layers_of(section, name), window=window_of(section, name))
            for name, value in nested.items()
        }
    return {"default": entry(section, rope, key)}


def entry(
    section: Section,
    rope: Mapping[str, Any],
    key: tuple[str, ...],
    *,
    theta: float | None = None,
    layers: tuple[int, ...] | None = None,
    window: int | None = None,
) -> Entry:
    """One entry by the common rules: a value in the dict beats one beside it."""
    base = rope.get("rope_theta")
    if base is None:
        base = theta if theta is not None else section.number("rope_theta", *THETA_KEYS)
    if base is None:
        base = 10000.0
        section.notes.append("rope_theta is not written; 10000 is taken")
    if isinstance(base, bool) or not isinstance(base, (int, float)) or not 0 < base < math.inf:
        raise InputError(f"is {base!r:.60}, not a usable base", where=f"{section.where}: rope_theta")
    original = section.number("original_max_position_embeddings", limit=1 << 40)
    partial = rope.get("partial_rotary_factor")
    if partial is None:
        partial = section.number("partial_rotary_factor", "rotary_pct", limit=1.0)
    head = section.head_dim()
    rotary = section.number("rotary_dim", limit=_MAX_WIDTH)
    if rotary and partial is None:
        partial = rotary / head
    return Entry(
        rope=rope,
        key=key,
        theta=float(base),
        head_dim=head,
        partial=float(partial) if partial else 1.0,
        partial_by_default=section.defaults.partial_by_default,
        original=int(original) if original and section.given.get("original_max_position_embeddings") else None,
        layers=layers,
        window=window,
    )


def layers_of(section: Section, name: str) -> tuple[int, ...] | None:
    """The layers whose type is ``name``, where the config lists or implies them."""
    types = section.given.get("layer_types")
    if isinstance(types, Sequence) and not isinstance(types, str):
        return tuple(i for i, kind in enumerate(types) if kind == name)
    count, pattern = section.number("num_hidden_layers", limit=1 << 16), section.get("sliding_window_pattern")
    if count and isinstance(pattern, int) and pattern > 0:
        full = tuple(i for i in range(int(count)) if (i + 1) % pattern == 0)
        if name == "full_attention":
            return full
        return tuple(i for i in range(int(count)) if i not in full)
    return None


def window_of(section: Section, name: str) -> int | None:
    """The sliding window of a group that has one."""
    if "sliding" not in name and "local" not in name:
        return None
    value = section.number("sliding_window", "local_attention", "sliding_window_size", limit=1 << 40)
    return int(value) if value else None


def _by_attention(
    section: Section, full_theta: float, sliding_theta: float, *, scale_sliding: bool
) -> dict[str, Entry]:
    """Two bases in the old spelling: scaling reaches the full layers, or both."""
    rope, key = rope_dict(section)
    full, sliding = "full_attention", "sliding_attention"
    if isinstance(rope.get(full), Mapping) or isinstance(rope.get(sliding), Mapping):
        thetas = {full: full_theta, sliding: sliding_theta}
        return {
            name: entry(section, rope.get(name) or {}, (*key, name), theta=thetas[name], **_place(section, name))
            for name in thetas
        }
    return {
        full: entry(section, rope, key, theta=full_theta, **_place(section, full)),
        sliding: entry(section, rope if scale_sliding else {}, key, theta=sliding_theta, **_place(section, sliding)),
    }


def _place(section: Section, name: str) -> dict[str, Any]:
    return {"layers": layers_of(section, name), "window": window_of(section, name)}


def _gemma3(section: Section, notes: list[str]) -> dict[str, Entry]:
    full = section.number("rope_theta") or 1e6
    local = section.number("rope_local_base_freq") or 1e4
    return _by_attention(section, full, local, scale_sliding=False)


def _modernbert(section: Section, notes: list[str]) -> dict[str, Entry]:
    full = section.number("global_rope_theta") or 160000.0
    local = section.number("local_rope_theta") or 10000.0
    return _by_attention(section, full, local, scale_sliding=True)


_FAMILIES: dict[str, Callable[[Section, list[str]], dict[str, Entry]]] = {
    "gemma3_text": _gemma3,
    "gemma3": _gemma3,
    "gemma3n_text": _gemma3,
    "gemma3n": _gemma3,
    "t5gemma2_text": _gemma3,
    "t5gemma2_decoder": _gemma3,
    "modernbert": _modernbert,
    "modernbert-decoder": _modernbert,
}


def merge_equal(groups: dict[str, RopeGroup]) -> dict[str, RopeGroup]:
    """One ``default`` group where several say the same."""
    plain = [dataclasses.replace(group, layers=None, window=None) for group in groups.values()]
    if len(plain) > 1 and all(group == plain[0] for group in plain):
        return {"default": plain[0]}
    return groups


def nope_layers(section: Section) -> tuple[int, ...] | None:
    """Layers without RoPE, where the config lists them."""
    flags = section.given.get("no_rope_layers")
    if isinstance(flags, Sequence) and not isinstance(flags, str) and len(flags) < 1 << 16:
        return tuple(i for i, rotates in enumerate(flags) if not rotates) or None
    return None


#: DeepSeek's latent attention multiplies the softmax scale by the squared magnitude of mscale_all_dim
_SOFTMAX = frozenset(
    {
        "axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite",
        "glm_moe_dsa", "hy_v4", "kimi_k2", "longcat_flash", "minicpm3", "mistral4", "mistral_large4", "youtu",
    }
)  # fmt: skip


def softmax_scale(section: Section, scaling: Method) -> float | None:
    """The extra factor on the softmax scale, None where there is none."""
    everywhere = getattr(scaling, "mscale_all_dim", None)
    if section.model_type not in _SOFTMAX or not everywhere:
        return None
    return float(yarn_attention(getattr(scaling, "factor", 1.0), everywhere) ** 2)


def query_temperature(section: Section, rope: Mapping[str, Any]) -> dict[str, float] | None:
    """Position-dependent scaling of the queries: ``1 + scale ln(1 + floor(p / length))``."""
    scale = rope.get("llama_4_scaling_beta")
    length = rope.get("original_max_position_embeddings")
    if scale and length:
        return {"scale": float(scale), "length": float(length)}
    return None
