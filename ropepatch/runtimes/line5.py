"""The rope dicts that transformers 5 makes of a ``config.json``; vLLM and SGLang load through it.

``convert_rope_params_to_dict``, ``standardize_rope_params`` and ``validate_rope`` of ``modeling_rope_utils.py`` 5.23,
and what ``models/*/configuration_*.py`` put in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.runtimes.base import Engine, Source
from ropepatch.runtimes.config_view import ORIGINAL, REQUIRED, View, path_of, section_of, views_of, without

if TYPE_CHECKING:
    from ropepatch.dialects.hf_section import Section

#: rope types that work from a trained context
WITH_ORIGINAL = ("llama3", "yarn", "longrope")
#: what classes of line 5 that keep one dict per layer type do with a flat one (tried on 5.23.0):
#: ``refused``; ``stray`` rope_scaling is taken in, a flat rope_parameters stays beside the dicts and is never read;
#: ``both`` rope_scaling reaches every layer type, a flat rope_parameters is refused; ``all`` either reaches every one
_FLAT5 = {
    **dict.fromkeys(
        ("beam", "diffusion_gemma_text", "embedding_gemma2_text", "gemma4_text", "gemma4_unified_text", "laguna",
         "lfm3", "mellum", "mimo_v2_flash", "neomme", "ultrabert", "zaya"),
        "refused",
    ),
    **dict.fromkeys(
        ("gemma3_text", "gemma3n_text", "t5gemma2_text", "t5gemma2_decoder", "olmo3", "step3p5"), "stray"
    ),
    "modernbert": "both",
    "modernbert-decoder": "both",
    "dots3_note_text": "all",
}  # fmt: skip
#: of these, the classes that fill in ``rope_type: default`` for each layer type before they merge rope_scaling in
_PREFILLED5 = frozenset(
    {"gemma3_text", "gemma3n_text", "t5gemma2_text", "t5gemma2_decoder", "olmo3", "modernbert", "modernbert-decoder"}
)
#: classes of line 5 that take no notice of rope_scaling
_NO_LEGACY5 = frozenset({"cohere2_moe"})
#: composite models that still take the text model's keys from the top of the file; the others then use their defaults
_FLAT_TEXT5 = frozenset(
    {"fuyu", "hunyuan_vl", "mimi", "paddleocr_vl", "pocket_tts_audio_tokenizer", "qwen2_5_vl", "qwen2_vl"}
)
#: classes that look for the base at the top of the file and no longer in attn_config
_NO_INNER5 = frozenset({"dbrx"})


def line5(source: Source, engine: Engine) -> dict[str, View]:
    """The dicts by group name, standardised and checked.

    Raises:
        RuntimeRejects: the class fails on the layout, or a key is missing that its rope type requires.
    """
    from ropepatch.dialects import hf_defaults

    section = section_of(source, "5")
    top = source.config.get("model_type")
    if section.model_type in _NO_INNER5 and "attn_config" in section.given:
        section = without(section, "attn_config")
    if not section.path and top not in _FLAT_TEXT5 and "text" in hf_defaults.lookup(str(top), "5").values:
        section = dataclasses.replace(section, given={})
    ignored = _shadowed(section)
    if section.model_type in _NO_LEGACY5 and section.given.get("rope_scaling"):
        ignored = (path_of(section, "rope_scaling"),)
        section = without(section, "rope_scaling")
    key, flat = _flat(section)
    policy = _FLAT5.get(section.model_type) if flat else None
    if policy == "refused" or (policy == "both" and key == "rope_parameters"):
        raise engine.rejects(
            f"keeps one dict per layer type for {section.model_type} and fails on a flat one",
            f"{section.where}: {path_of(section, key)}",
            "write rope_parameters with one dict for each layer type",
        )
    if section.model_type in _PREFILLED5 and key == "rope_scaling" and flat:
        section = _prefilled(section, flat, engine)
        flat = section.given["rope_scaling"]
    if policy == "stray" and key == "rope_parameters":
        ignored = (*ignored, *(path_of(section, key, name) for name in flat))
        section = without(section, key)
    views = views_of(section, ignored)
    if policy in ("both", "all"):
        views = {name: _spread(view, flat, own_theta=policy == "both") for name, view in views.items()}
    return {name: _checked(_standardised(view), engine) for name, view in views.items()}


def _prefilled(section: Section, flat: Mapping[str, Any], engine: Engine) -> Section:
    """``rope_scaling`` is merged into dicts that say ``rope_type: default`` already: a lone ``type`` does not count.

    Raises:
        RuntimeRejects: a flat ``rope_parameters`` stands beside it, where the dicts by layer type are looked for.
    """
    beside = section.given.get("rope_parameters")
    if isinstance(beside, Mapping) and not isinstance(beside.get("full_attention"), Mapping):
        where = f"{section.where}: {path_of(section, 'rope_parameters')}"
        raise engine.rejects(
            "stops with a KeyError: there is no 'full_attention' in it", where, "remove one of the two"
        )
    return dataclasses.replace(section, given={**section.given, "rope_scaling": {"rope_type": "default", **flat}})


def _flat(section: Section) -> tuple[str, Mapping[str, Any]]:
    """The flat rope dict in force and its key; empty when there is none or it is kept by layer type."""
    for key in ("rope_scaling", "rope_parameters"):
        found = section.given.get(key)
        if isinstance(found, Mapping) and found:
            return key, {} if any(isinstance(value, Mapping) for value in found.values()) else found
    return "rope_scaling", {}


def _spread(view: View, flat: Mapping[str, Any], *, own_theta: bool) -> View:
    """A flat dict on a layer type that transformers copies it to, which keeps its base where it has its own."""
    section = view.section
    theta = flat.get("rope_theta")
    if theta is None and not own_theta:
        theta = section.given.get("rope_theta") or section.defaults.values.get("(default_theta)")
    checked = section.check("rope_theta", theta if isinstance(theta, (int, float)) else view.theta)
    return dataclasses.replace(view, rope=flat, theta=float(checked or view.theta), copied=True)


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
    return tuple(path_of(section, name) for name in dropped)


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
    if kind == "mrope" and view.model_type.startswith(("qwen2_vl", "qwen2_5_vl")):
        kind = "default"
    return dataclasses.replace(view, rope=rope, kind=kind)


def _checked(view: View, engine: Engine) -> View:
    missing = [key for key in REQUIRED.get(view.kind or "", ()) if key not in view.rope]
    if missing:
        raise engine.rejects(
            f"stops with a KeyError: rope type {view.kind!r} lacks {', '.join(missing)}",
            view.where,
            f"write {ORIGINAL} inside the dict" if view.rope.get("type") == "su" else None,
        )
    width = view.section.get("head_dim")  # checked only where the class has the attribute
    if isinstance(width, int) and width > 4 and width % 2 and view.partial == 1:
        raise engine.rejects(f"refuses a head of {view.head_dim} dimensions: RoPE needs pairs", view.where)
    return view
