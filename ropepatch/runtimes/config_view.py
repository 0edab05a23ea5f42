"""How the two lines of transformers hand a ``config.json`` on to whoever computes the rotation.

Line 5 (and vLLM and SGLang, which load through it) merges everything into ``rope_parameters`` and checks it; line 4
and those who read the file on its terms take ``rope_theta`` and ``rope_scaling`` from the top and never look at
``rope_parameters``. Sources: transformers ``modeling_rope_utils.py`` and ``models/*/configuration_*.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.dialects import hf_defaults, hf_families
from ropepatch.dialects.hf_families import Section
from ropepatch.methods.base import Spectrum
from ropepatch.runtimes.base import Engine, Source

#: rope types that work from a trained context
WITH_ORIGINAL = ("llama3", "yarn", "longrope")
#: keys without which transformers 5 refuses a rope type (``_validate_*_rope_parameters``)
REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
ORIGINAL = "original_max_position_embeddings"
_TYPES = ("rope_type", "type")
#: architectures that keep one dict per layer type in line 5 and ignore a flat one
_NESTED = frozenset(
    {"gemma3_text", "gemma3", "gemma3n_text", "gemma3n", "t5gemma2_text", "t5gemma2_decoder", "modernbert",
     "modernbert-decoder", "olmo3"}
)  # fmt: skip
_OLMO3_THETA = 500000.0


@dataclass(frozen=True)
class View:
    """One set of frequencies, as one line of readers sees the file.

    Attributes:
        rope: the rope dict; empty when there is none.
        key: where the dict stands, from the top of the file.
        kind: the rope type in force; None where the dict names none.
        theta: the base.
        head_dim: the head's dimensions.
        partial: share of the head that rotates, as declared.
        partial_by_default: whether that share counts without scaling.
        original: the top-level ``original_max_position_embeddings``.
        max_position: the declared context.
        model_type: transformers' name of the architecture.
        nested: whether the dict is one of several.
        section: the text section of the file.
        ignored: keys that this line of readers drops before anyone computes.
    """

    rope: Mapping[str, Any]
    key: tuple[str, ...]
    kind: str | None
    theta: float
    head_dim: int
    partial: float
    partial_by_default: bool
    original: int | None
    max_position: int | None
    model_type: str
    nested: bool
    section: Section
    ignored: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """File and key, for messages."""
        return f"{self.section.where}: {'.'.join(self.key)}"

    def spectrum(self, rotary_dim: int | None = None) -> Spectrum:
        """The plain rotation of ``rotary_dim`` dimensions; default all of the head."""
        return Spectrum.plain(self.theta, rotary_dim or self.head_dim, self.head_dim)

    def share(self, partial: float | None = None) -> int:
        """The rotated dimensions at a share of the head (default the declared one), even, at least 2."""
        return max(2, int(self.head_dim * (self.partial if partial is None else partial)) // 2 * 2)

    def unread(self, *reads: str) -> tuple[str, ...]:
        """Keys of the dict that are neither in ``reads`` nor say the type or the base, and those dropped before."""
        known = {*reads, *_TYPES, "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"}
        return (*(f"{'.'.join(self.key)}.{name}" for name in self.rope if name not in known), *self.ignored)


class Reader:
    """Takes numbers from a view's dict the way an engine does: what is missing or null makes it fail."""

    def __init__(self, view: View, engine: Engine) -> None:
        self.view = view
        self.engine = engine

    def need(self, name: str) -> float:
        """A number that the engine indexes the dict for.

        Raises:
            RuntimeRejects: it is missing, null or no number.
        """
        if name not in self.view.rope:
            raise self.engine.rejects(f"stops with a KeyError: there is no {name!r}", self.view.where)
        return self._number(name, self.view.rope[name])

    def get(self, name: str, default: float) -> float:
        """A number with a default for a missing key; null is passed on and fails, as ``dict.get`` has it.

        Raises:
            RuntimeRejects: it is null or no number.
        """
        return self._number(name, self.view.rope.get(name, default))

    def either(self, name: str, default: float) -> float:
        """A number with a default for a missing, null or zero key, as ``dict.get(name) or default`` has it."""
        value = self.view.rope.get(name)
        return self._number(name, value) if value else default

    def optional(self, name: str) -> float | None:
        """A number, None where it is missing or null."""
        value = self.view.rope.get(name)
        return None if value is None else self._number(name, value)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        return bool(self.view.rope.get(name, default))

    def factors(self, name: str, pairs: int) -> tuple[float, ...]:
        """A list of divisors, one per rotated pair.

        Raises:
            RuntimeRejects: it is missing, no list of numbers, or of another length.
        """
        values = self.view.rope.get(name)
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self.engine.rejects(f"needs {name!r}, a list", self.view.where)
        if len(values) != pairs:
            raise self.engine.rejects(
                f"cannot use {name!r}: {len(values)} factors for {pairs} rotated pairs", self.view.where
            )
        return tuple(self._number(name, value) for value in values)

    def _number(self, name: str, value: Any) -> float:
        if value is None:
            raise self.engine.rejects(f"stops with a TypeError: {name!r} is null", self.view.where)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.engine.rejects(f"stops on {name!r}: {value!r:.40} is no number", self.view.where)
        return float(value)


def section_of(source: Source) -> Section:
    """The text section of the file."""
    return hf_families.text_section(source.config, source.where)


def context_of(section: Section) -> int | None:
    """``max_position_embeddings`` or what the family calls it; None when neither file nor class says."""
    return section.context()


# ---------------------------------------------------------------- line 5


def line5(source: Source, engine: Engine) -> dict[str, View]:
    """The dicts that transformers 5 ends up with, by group name, standardised and checked.

    ``convert_rope_params_to_dict``, ``standardize_rope_params`` and ``validate_rope`` of transformers 5.23.

    Raises:
        RuntimeRejects: a key is missing that its rope type requires.
    """
    section = section_of(source)
    views: dict[str, View] = {}
    for name, entry in hf_families.entries(section, []).items():
        view = View(
            rope=entry.rope,
            key=(*section.path, *entry.key),
            kind=None,
            theta=entry.theta,
            head_dim=entry.head_dim,
            partial=entry.partial,
            partial_by_default=entry.partial_by_default,
            original=entry.original,
            max_position=context_of(section),
            model_type=section.model_type,
            nested=len(entry.key) > 1,
            section=section,
            ignored=_shadowed(section),
        )
        views[name] = _checked(_standardised(_stray(view, name)), engine)
    return views


def _shadowed(section: Section) -> tuple[str, ...]:
    """Keys that another key of the same file overrules: ``rope_scaling`` replaces ``rope_parameters`` whole."""
    scaling, parameters = section.given.get("rope_scaling"), section.given.get("rope_parameters")
    dropped: list[str] = []
    if isinstance(scaling, Mapping) and scaling and isinstance(parameters, Mapping) and parameters:
        same = {**parameters, "rope_theta": None} == {**scaling, "rope_theta": None}
        dropped += [] if same else ["rope_parameters"]
    chosen = scaling or parameters
    inner = chosen.get("rope_theta") if isinstance(chosen, Mapping) else None
    outer = section.given.get("rope_theta")
    if inner is not None and outer is not None and inner != outer:
        dropped.append("rope_theta")
    return tuple(".".join((*section.path, name)) for name in dropped)


def _stray(view: View, group: str) -> View:
    """A flat ``rope_parameters`` on a class that keeps one dict per layer type is kept beside them and ignored."""
    flat = view.model_type in _NESTED and view.section.given.get("rope_parameters") and not view.nested
    if not flat or view.section.given.get("rope_scaling"):
        return view
    theta = {"gemma": {"full_attention": 1e6}, "modernbert": {"full_attention": 160000.0}}
    family = "modernbert" if view.model_type.startswith("modernbert") else "gemma"
    default = _OLMO3_THETA if view.model_type == "olmo3" else theta[family].get(group, 10000.0)
    ignored = tuple(f"{'.'.join(view.key)}.{name}" for name in view.rope)
    return dataclasses.replace(view, rope={}, theta=default, ignored=(*view.ignored, *ignored))


def _standardised(view: View) -> View:
    """The type under its new name, and the original context filled in.

    A top-level original context overwrites the one in a flat dict; without either it becomes max_position_embeddings.
    """
    rope = dict(view.rope)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in WITH_ORIGINAL:
        if view.original is not None and not view.nested:
            rope[ORIGINAL] = view.original
        elif ORIGINAL not in rope and view.max_position is not None:
            rope[ORIGINAL] = view.max_position
    if view.model_type in ("phi3", "phi4_multimodal") and kind in ("su", "yarn"):
        kind = "longrope"  # after the original context was filled in for the old name: "su" is left without one
    if kind == "mrope" and view.model_type in ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_vl", "qwen2_5_vl"):
        kind = "default"
    return dataclasses.replace(view, rope=rope, kind=kind)


def _checked(view: View, engine: Engine) -> View:
    missing = [key for key in REQUIRED.get(view.kind or "", ()) if key not in view.rope]
    if missing:
        raise engine.rejects(
            f"stops with a KeyError: rope type {view.kind!r} lacks {', '.join(missing)}",
            view.where,
            _legacy_hint(view),
        )
    if engine.name == "transformers" and view.head_dim > 4 and view.head_dim % 2 and view.share() >= view.head_dim - 1:
        raise engine.rejects(f"refuses a head of {view.head_dim} dimensions: RoPE needs pairs", view.where)
    return view


def _legacy_hint(view: View) -> str | None:
    return f"write {ORIGINAL} inside the dict" if view.rope.get("type") == "su" else None


# ---------------------------------------------------------------- line 4


def line4(source: Source) -> dict[str, View]:
    """``rope_theta`` and ``rope_scaling`` as readers of the old layout take them, by group name; nothing is checked.

    ``rope_parameters`` is not looked at, and an inner ``rope_theta`` neither: a file that has only the new layout
    gives the class defaults, without an error or a warning.
    """
    section = section_of(source)
    defaults = hf_defaults.lookup(section.model_type, "4.57.6", [])
    section = dataclasses.replace(section, defaults=defaults)
    scaling = section.given.get("rope_scaling")
    if scaling is None and "rope_scaling" not in section.given:
        scaling = defaults.values.get("rope_scaling")
    rope = scaling if isinstance(scaling, Mapping) else {}
    theta = section.number("rope_theta", *hf_families.THETA_KEYS) or 10000.0
    full = _view4(section, rope, theta)
    groups = _groups4(section, full)
    return groups if groups is not None else {"default": full}


def _view4(section: Section, rope: Mapping[str, Any], theta: float) -> View:
    head = section.head_dim()
    partial = section.number("partial_rotary_factor", "rotary_pct", limit=1.0)
    if partial is None and (rotary := section.number("rotary_dim")):
        partial = rotary / head
    ignored = ["rope_parameters"] if section.given.get("rope_parameters") else []
    if rope.get("rope_theta") not in (None, theta):
        ignored.append("rope_scaling.rope_theta")
    original = section.given.get(ORIGINAL)
    return View(
        rope=rope,
        key=(*section.path, "rope_scaling"),
        kind=None,
        theta=float(theta),
        head_dim=head,
        partial=float(partial) if partial else 1.0,
        partial_by_default=True,
        original=original if isinstance(original, int) else None,
        max_position=context_of(section),
        model_type=section.model_type,
        nested=False,
        section=section,
        ignored=tuple(".".join((*section.path, name)) for name in ignored),
    )


def _groups4(section: Section, full: View) -> dict[str, View] | None:
    """Families with two bases in line 4: Gemma 3 and OLMo 3 scale the full layers only, ModernBERT both."""
    kind = section.model_type
    local: View | None = None
    if kind in ("gemma3_text", "gemma3", "gemma3n_text", "gemma3n"):
        full = dataclasses.replace(full, theta=section.number("rope_theta") or 1e6)
        local = dataclasses.replace(full, rope={}, theta=section.number("rope_local_base_freq") or 1e4)
    elif kind == "olmo3":
        local = dataclasses.replace(full, rope={})
    elif kind in ("modernbert", "modernbert-decoder"):
        full = dataclasses.replace(full, theta=section.number("global_rope_theta") or 160000.0)
        local = dataclasses.replace(full, theta=section.number("local_rope_theta") or 10000.0)
    return None if local is None else {"full_attention": full, "sliding_attention": local}
