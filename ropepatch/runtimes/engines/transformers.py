"""Hugging Face transformers, line 4 and line 5 (``modeling_rope_utils.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ropepatch.runtimes import config_view, line5, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View
from ropepatch.runtimes.hf_functions import SCALED, Line4, Line5

BEHAVIOURS = (
    Behaviour((4, 43), "4.43-4.49", (4, 49)),
    Behaviour((4, 50), "4.50-4.55", (4, 55)),
    Behaviour((4, 56), "4.56-4.57", (4, 57)),
    Behaviour((5, 0), "5.x", (5, 23)),
)


class Transformers(Runtime):
    """transformers at a version."""

    name = "transformers"
    behaviours = BEHAVIOURS
    rank = 10
    abbreviation = "HF"

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What the rotary modules compute in a forward pass over ``length`` tokens."""
        if self.version < (5,):
            return {name: self._line4(view, length) for name, view in config_view.line4(source).items()}
        views = line5.line5(source, self.engine)
        return {name: _permuted(view, self._line5(view, length)) for name, view in views.items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The program that loads it."""
        text = [
            "from transformers import AutoConfig, AutoModelForCausalLM",
            f"config = AutoConfig.from_pretrained({order.ref!r})",
        ]
        if order.rope is not None:
            target = ".".join(("config", *order.path))
            text += [
                f"{target}.rope_parameters = {dict(order.rope)!r}",
                f"{target}.max_position_embeddings = {order.length}",
            ]
        text.append(f"model = AutoModelForCausalLM.from_pretrained({order.ref!r}, config=config)")
        avoid = ["changing config.rope_parameters after the model is built: the frequencies are computed once"]
        if any(one.switches == "per forward pass" for one in predicted.values()):
            avoid.append("a key-value cache kept across the original context: its keys hold the other frequencies")
        return "\n".join(text), tuple(avoid)

    def _line5(self, view: View, length: int | None) -> Prediction:
        kind = view.kind or "default"
        if kind == "proportional" and self.version >= (5, 1):  # absent in 5.0.0, there in 5.23
            factor = Reader(view, self.engine).get("factor", 1.0)
            result = recipes.proportional(view.spectrum(), view.partial, factor, view.where)
            return Prediction(result.inv_freq, 1.0, view.max_position, view.unread("factor"))
        if kind == "default" or not self._reaches(view):
            return _unscaled(view)
        return self._scaled(Line5(view, self.engine), length)

    def _line4(self, view: View, length: int | None) -> Prediction:
        view = _typed4(view, self.engine)
        if view.kind == "default" or not self._reaches(view):
            return _unscaled(view)
        optional = () if view.kind == "llama3" else (ORIGINAL,)
        required = config_view.REQUIRED.get(view.kind or "", ())
        missing = [key for key in required if key not in view.rope and key not in optional]
        if missing:
            raise self.engine.rejects(f"stops with a KeyError: rope_scaling lacks {', '.join(missing)}", view.where)
        return self._scaled(Line4(view, self.engine), length)

    def _scaled(self, line: Line5, length: int | None) -> Prediction:
        compute = SCALED.get(line.view.kind or "")
        if compute is None:
            what = f"stops with a KeyError: rope type {line.view.kind!r} is unknown"
            raise self.engine.rejects(what, line.view.where)
        return compute(line, length)

    def _reaches(self, view: View) -> bool:
        """Whether this class lets a flat scaling dict reach the group (found by trying, 4.57.6 and 5.23.0).

        Raises:
            RuntimeRejects: the class refuses the rope type.
        """
        scaling = view.section.defaults.facts.get("scaling")
        if scaling is None or view.nested or view.copied or view.kind not in SCALED:
            return True
        found = scaling.get(view.kind, scaling.get("longrope mscale" if view.kind == "longrope" else "all"))
        found = scaling.get("all", ()) if found is None else found
        if isinstance(found, str):
            if view.kind == "longrope" or "size of tensor" in found:
                return True  # the probe's lists had another length; the real ones are checked where they are read
            raise self.engine.rejects(f"refuses {view.kind!r} for {view.model_type}: {found}", view.where)
        return view.group in found or (view.group == "default" and bool(found))


def _permuted(view: View, made: Prediction) -> Prediction:
    """Ernie 4.5 VL deals the pairs of height and width out in turns (modeling_ernie4_5_vl_moe.py)."""
    if view.model_type != "ernie4_5_vl_moe_text":
        return made
    section = view.rope.get("mrope_section") or view.section.defaults.facts["mrope_section"]
    spatial = made.inv_freq.size - int(section[-1])
    parts = (made.inv_freq[:spatial:2], made.inv_freq[1:spatial:2], made.inv_freq[spatial:])
    return replace(made, inv_freq=np.concatenate(parts))


def _unscaled(view: View) -> Prediction:
    """The class's own rotation; a dict that does not reach it is ignored whole."""
    result = recipes.plain(view.spectrum(view.entry.rotary_dim("default")))
    notes: tuple[str, ...] = ()
    if view.partial < 1 and result.inv_freq.size * 2 >= view.head_dim:
        notes = (f"partial_rotary_factor {view.partial:g} has no effect on {view.model_type} without scaling",)
    return Prediction(result.inv_freq, 1.0, view.max_position, view.unread(), notes)


def _typed4(view: View, engine: Engine) -> View:
    """The rope type by line 4's rules: ``type`` beats ``rope_type``, and a dict without either is an error."""
    if not view.rope:
        return replace(view, kind="default")
    if view.model_type in ("phi3", "phi4_multimodal"):
        return _phi3_v4(view, engine)
    kind = view.rope.get("type", view.rope.get("rope_type"))
    if kind is None:
        raise engine.rejects("stops with a KeyError: rope_scaling names no type", view.where)
    if kind == "mrope" and view.model_type.startswith(("qwen2_vl", "qwen2_5_vl")):
        kind = "default"
    return replace(view, kind=kind)


def _phi3_v4(view: View, engine: Engine) -> View:
    """``Phi3Config._rope_scaling_validation``: exactly type, short_factor and long_factor."""
    kind = view.rope.get("type")
    if len(view.rope) != 3:
        raise engine.rejects("wants exactly three keys here: type, short_factor and long_factor", view.where)
    if kind not in ("longrope", "su", "yarn"):
        raise engine.rejects(f"wants 'type': 'longrope' here, not {kind!r}", view.where)
    return replace(view, kind="longrope")
