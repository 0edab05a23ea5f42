"""The part of a ``config.json`` that describes the text model, with what transformers' class adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropepatch.dialects import hf_defaults, hf_remote
from ropepatch.errors import InputError

#: sub-configs that may hold the text model of a type that transformers does not know, in the order they are tried
TEXT_SECTIONS = (
    ("thinker_config", "text_config"),
    ("text_config",),
    ("llm_config",),
    ("language_config",),
    ("language_model",),
    ("decoder",),
    ("decoder_config",),
    ("llm_cfg",),
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
ROPE_SIGNS = ("rope_theta", "rope_scaling", "rope_parameters", "rope_ratio", "rotary_pct", "rotary_dim", *THETA_KEYS)
#: larger than any head or model; beyond it a config is broken or hostile
MAX_WIDTH = 1 << 20
MAX_LAYERS = 1 << 16


@dataclass
class Section:
    """The text model's part of a config.

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
        if (own := hf_remote.rotates(self)) is not None:
            return own
        if self.given.get("mla_use_nope") is True:
            return False  # Kimi's linear-attention family keeps qk_rope_head_dim and rotates nothing
        rule = str(self.defaults.facts.get("rotates", ""))
        if rule.startswith("flag not "):
            return not self.get(rule.removeprefix("flag not "))
        if rule.startswith("flag "):
            key, _, value = rule.removeprefix("flag ").partition("=")
            found = self.get(key)
            return bool(found == value if value else found)
        return self.defaults.known or any(self.given.get(key) is not None for key in ROPE_SIGNS)

    @property
    def silent(self) -> bool:
        """Whether the file says nothing either way about RoPE: no key of it, and no switch that turns it off."""
        return self.given.get("mla_use_nope") is not True and not isinstance(self.given.get("attn_config"), Mapping)

    @property
    def layout(self) -> str:
        """How pairs lie in a head: ``half`` or ``interleaved``."""
        interleave = self.given.get("rope_interleave")
        if isinstance(interleave, bool):
            return "interleaved" if interleave else "half"
        return hf_remote.layout(self) or self.defaults.layout

    def get(self, *names: str) -> Any:
        """The first of ``names`` that the file, else the class, gives a value."""
        aliases = self.defaults.values.get("(aliases)", {})
        spelled = (*names, *(aliases[name] for name in names if name in aliases))
        for source in (self.given, self.defaults.values, self.defaults.values.get("(computed)", {})):
            for name in spelled:
                if source.get(name) is not None:
                    return source[name]
        return None

    def number(self, *names: str, limit: float = math.inf) -> float | None:
        """As :meth:`get`, refusing what is not a positive finite number up to ``limit``.

        Raises:
            InputError: naming file and key.
        """
        return self.check(names[0], self.get(*names), limit)

    def given_number(self, *names: str, limit: float = math.inf) -> float | None:
        """As :meth:`number`, from the file alone."""
        found = next((self.given[name] for name in names if self.given.get(name) is not None), None)
        return self.check(names[0], found, limit)

    def check(self, name: str, value: Any, limit: float = math.inf) -> float | None:
        """``value`` when it is a positive finite number up to ``limit``, None when it is None."""
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value <= limit
            or value == math.inf
        ):
            raise InputError(f"is {value!r:.60}, not a usable number", where=f"{self.where}: {name}")
        return value

    def context(self) -> int | None:
        """The declared context in tokens."""
        value = self.number(*CONTEXT_KEYS, limit=1 << 40)
        return int(value) if value is not None else None

    def context_key(self) -> str:
        """The key that the file, else the class, declares its context under."""
        for source in (self.given, self.defaults.values):
            for key in CONTEXT_KEYS:
                if source.get(key) is not None:
                    return key
        return "max_position_embeddings"

    @property
    def own_keys(self) -> frozenset[str]:
        """Base keys that transformers 5's class keeps beside ``rope_parameters`` as attributes of its own."""
        if self.defaults.line.startswith("4."):
            return frozenset()
        return frozenset(key for key in ("rope_theta", *THETA_KEYS) if key in self.defaults.values)

    def layers(self) -> int | None:
        """How many layers the model has."""
        count = self.number("num_hidden_layers", "n_layer", "n_layers", "num_layers", limit=MAX_LAYERS)
        return int(count) if count else None

    def head_dim(self, group: str = "default") -> int:
        """The dimensions of one head that RoPE may reach.

        Raises:
            InputError: the config does not say.
        """
        sources = self.defaults.width_from
        values = self.defaults.values
        whole = values.get("head_dim") == values.get("qk_rope_head_dim") and "head_dim" not in self.given
        if (whole or not self.defaults.known) and (latent := self.latent_width()):
            return latent
        if group == "full_attention" and "global_head_dim" in sources and (width := self._global_head()):
            return int(width)
        head = self.given_number("head_dim", "kv_channels", "attention_head_size", limit=MAX_WIDTH)
        derived = not sources or "hidden_size" in sources or "d_model" in sources or "projection_dim" in sources
        if head is None and (derived or self.given.get("qk_rope_head_dim") == 0):
            head = self._derived_head()
        if head is None:
            head = self.number("head_dim", limit=MAX_WIDTH) or self._derived_head()
        if head and head > MAX_WIDTH:  # what was divided was fine
            raise InputError(f"heads of {head:g} dimensions: hidden_size by num_attention_heads", where=self.where)
        if not head or head < 2:
            raise InputError("says neither head_dim nor hidden_size and num_attention_heads", where=self.where)
        return int(head)

    def latent_width(self) -> int | None:
        """The rotating part of a head under latent attention; None where there is none (0 switches it off)."""
        given = self.given.get("qk_rope_head_dim")
        if given == 0 or (self.defaults.known and "qk_rope_head_dim" not in self.defaults.width_from):
            return None
        width = self.number("qk_rope_head_dim", limit=MAX_WIDTH)
        return int(width) if width else None

    def _global_head(self) -> float | None:
        """The full-attention layers' own head dimension: a key, or the first entry of ``per_layer_config``."""
        if head := self.number("global_head_dim", limit=MAX_WIDTH):
            return head
        layers = self.get("per_layer_config")
        if not isinstance(layers, Mapping) or not layers:
            return None
        first = next(iter(layers.values()))
        return self.check("per_layer_config", first.get("head_dim"), MAX_WIDTH) if isinstance(first, Mapping) else None

    def _derived_head(self) -> float | None:
        width = self.number("hidden_size", "n_embd", "d_model", "dim", "projection_dim", limit=MAX_WIDTH * 64)
        heads = self.number("num_attention_heads", "n_head", "n_heads", limit=MAX_WIDTH)
        return width // heads if width and heads else None

    def layer_types(self) -> tuple[str, ...] | None:
        """The type of each layer, where the config lists or implies it."""
        types = self.given.get("layer_types")
        if isinstance(types, Sequence) and not isinstance(types, str) and len(types) <= MAX_LAYERS:
            return tuple(str(kind) for kind in types)
        count = self.layers()
        if not count:
            return None
        if (every := self._every()) is not None:
            return every
        default = self.defaults.values.get("layer_types")
        if isinstance(default, Mapping) and "cycle" in default:
            cycle = default["cycle"]
            return tuple(cycle[i % len(cycle)] for i in range(count))
        if isinstance(default, Mapping) and "runs" in default:
            spread = tuple(kind for kind, length in default["runs"] for _ in range(length))
            return spread if len(spread) == count else None
        return None

    def _every(self) -> tuple[str, ...] | None:
        """Layer types from a rule that the file gives: every n-th layer is full."""
        count = self.layers() or 0
        for key, offset in (
            ("sliding_window_pattern", 1),
            ("_sliding_window_pattern", 1),
            ("global_attn_every_n_layers", 0),
        ):
            step = self.given.get(key)
            if key == "global_attn_every_n_layers" and step is None:
                step = self.defaults.values.get(key)
            if isinstance(step, int) and not isinstance(step, bool) and step > 0:
                kinds = ("sliding_attention", "full_attention")
                return tuple(kinds[(i + offset) % step == 0] for i in range(count))
        return None


def text_section(config: Mapping[str, Any], where: str) -> Section:
    """The part of ``config`` that describes the text model; a part that the file leaves out is all defaults."""
    version = config.get("transformers_version")
    version = version if isinstance(version, str) else None
    path, given, model_type = _descend(config)
    notes: list[str] = []
    if model_type == "unknown":
        notes.append("the config names no model_type; the rules of llama-like models are taken")
    defaults = hf_defaults.lookup(hf_remote.ALIASES.get(model_type, model_type), version)
    if model_type != "unknown" and not defaults.known and not hf_remote.known(model_type):
        notes.append(
            f"transformers {hf_defaults.lines()[-1]} has no RoPE model type {model_type!r}; llama's rules are taken"
        )
    return Section(path, given, defaults, model_type, where, notes)


def _descend(config: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any], str]:
    """Follow the class's own statement of where its text model is, else the usual names."""
    path: tuple[str, ...] = ()
    given: Mapping[str, Any] = config
    kind = _text(config.get("model_type"))
    for _ in range(4):
        step = hf_defaults.lookup(kind, None).values if kind else {}
        if "text" not in step:
            break
        keys = tuple(str(step["text"]).split("."))
        if (nested := _inside(given, keys)) is None and any(given.get(key) is not None for key in ROPE_SIGNS):
            kind = str(step["text_type"])  # an older layout of the same model: everything at the top
            break
        path, given = (*path, *keys), nested or {}
        kind = _text(given.get("model_type")) or str(step["text_type"])
        if not hf_defaults.lookup(kind, None).known:
            kind = str(step["text_type"])
    known = bool(kind) and hf_defaults.lookup(kind or "", None).known
    if path or (known and not _inside(config, ("text_config",))):
        return path, given, kind or "unknown"
    for keys in TEXT_SECTIONS:
        nested = _inside(config, keys)
        if nested is not None and (nested.get("num_attention_heads") or any(nested.get(k) for k in ROPE_SIGNS)):
            return keys, nested, _text(nested.get("model_type")) or kind or "unknown"
    return (), config, kind or "unknown"


def _inside(config: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any] | None:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
