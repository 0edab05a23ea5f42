"""Hugging Face transformers, line 4 and line 5 (``modeling_rope_utils.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ropepatch.methods.base import Frequencies, yarn_attention
from ropepatch.runtimes import config_view, line5, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

BEHAVIOURS = (
    Behaviour((4, 43), "4.43-4.49", (4, 49)),
    Behaviour((4, 50), "4.50-4.55", (4, 55)),
    Behaviour((4, 56), "4.56-4.57", (4, 57)),
    Behaviour((5, 0), "5.x", (5, 23)),
)
#: what each type reads beside its factor; ``attn_factor`` is nobody's key here
_READS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim"),
    "longrope": ("factor", ORIGINAL, "attention_factor", "short_factor", "long_factor"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "proportional": ("factor",),
}


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
        return self._scaled(_Line5(view, self.engine), length)

    def _line4(self, view: View, length: int | None) -> Prediction:
        view = _typed4(view, self.engine)
        if view.kind == "default" or not self._reaches(view):
            return _unscaled(view)
        optional = () if view.kind == "llama3" else (ORIGINAL,)
        required = config_view.REQUIRED.get(view.kind or "", ())
        missing = [key for key in required if key not in view.rope and key not in optional]
        if missing:
            raise self.engine.rejects(f"stops with a KeyError: rope_scaling lacks {', '.join(missing)}", view.where)
        return self._scaled(_Line4(view, self.engine), length)

    def _scaled(self, line: _Line5, length: int | None) -> Prediction:
        compute = _SCALED.get(line.view.kind or "")
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
        if scaling is None or view.nested or view.copied or view.kind not in _SCALED:
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


class _Line5:
    """How line 5 fills in what a scaling type needs."""

    def __init__(self, view: View, engine: Engine) -> None:
        self.view = view
        self.engine = engine
        self.read = Reader(view, engine)
        self.notes: tuple[str, ...] = ()
        self.overruled: tuple[str, ...] = ()
        self.truncate = self._truncate()

    def _truncate(self) -> bool:
        """Line 5 looks for ``truncate`` beside the dicts of the layer types, never in them (seen in 5.23)."""
        return True if self.view.nested else self.read.flag("truncate", True)

    def original(self) -> float:
        """The trained context."""
        return self.read.need(ORIGINAL)

    def yarn_factor(self) -> float:
        """``factor``; null means max_position_embeddings / original_max_position_embeddings."""
        if self.view.rope.get("factor", 0) is None and self.view.max_position:
            return self.view.max_position / self.original()
        return self.read.need("factor")

    def mscale_counts(self) -> bool:
        """Whether the pair mscale, mscale_all_dim counts: both must be there and not 0."""
        return bool(self.view.rope.get("mscale")) and bool(self.view.rope.get("mscale_all_dim"))

    def longrope(self) -> tuple[float, float]:
        """Factor and trained context; without a factor it is the ratio of the two contexts."""
        original = self.original()
        factor = self.read.optional("factor")
        return factor if factor is not None else (self.view.max_position or original) / original, original


class _Line4(_Line5):
    """How line 4 does, in its three ways."""

    def _truncate(self) -> bool:
        return self.engine.version < (4, 54) or self.read.flag("truncate", True)

    def original(self) -> float:
        """4.43 to 4.49 do not know ``original_max_position_embeddings``: the ramp starts from the declared context.

        Later ones take the inner key where it is written (PR #36877 made them accept it).
        """
        if self.view.kind == "llama3":
            return self.read.need(ORIGINAL)
        known = self.engine.version >= (4, 50) and self.view.rope.get(ORIGINAL) is not None
        if not known and ORIGINAL in self.view.rope:
            self.overruled = (*self.overruled, ORIGINAL)
        return self.read.need(ORIGINAL) if known else float(self.view.max_position or 0)

    def yarn_factor(self) -> float:
        """4.50 to 4.55 put max_position_embeddings / original in place of ``factor`` (PR #40320 ended it)."""
        overridden = (4, 50) <= self.engine.version < (4, 56) and self.view.rope.get(ORIGINAL) is not None
        if not overridden or not self.view.max_position:
            return self.read.need("factor")
        factor = self.view.max_position / self.original()
        if factor != self.view.rope.get("factor"):
            self.overruled = (*self.overruled, "factor")
            self.notes = (f"the factor is replaced by max_position_embeddings / {ORIGINAL} = {factor:g}",)
        return factor

    def mscale_counts(self) -> bool:
        """4.43 to 4.49 do not know the pair."""
        return self.engine.version >= (4, 50) and super().mscale_counts()

    def longrope(self) -> tuple[float, float]:
        """Only a top-level original context counts, and with it the ratio of contexts beats an explicit factor."""
        if self.view.original:
            if "factor" in self.view.rope:
                self.overruled = (*self.overruled, "factor")
            return (self.view.max_position or self.view.original) / self.view.original, float(self.view.original)
        if ORIGINAL in self.view.rope:
            self.overruled = (*self.overruled, ORIGINAL)
        return self.read.need("factor"), float(self.view.max_position or 0)


def _done(line: _Line5, result: Frequencies, switches: str = "never", notes: tuple[str, ...] = ()) -> Prediction:
    view = line.view
    reads = tuple(key for key in _READS[view.kind or ""] if key not in line.overruled)
    if "truncate" in view.rope and line.truncate and view.rope["truncate"] is False:
        reads = tuple(key for key in reads if key != "truncate")
    if "mscale" in reads and not line.mscale_counts():
        reads = tuple(key for key in reads if key not in ("mscale", "mscale_all_dim"))
    return Prediction(
        result.inv_freq,
        result.attention_scale,
        view.max_position,
        view.unread(*reads),
        (*line.notes, *notes),
        switches,
    )


def _linear(line: _Line5, length: int | None) -> Prediction:
    rope = line.view.spectrum(line.view.share())
    return _done(line, recipes.linear(rope, line.read.need("factor"), line.view.where))


def _dynamic(line: _Line5, length: int | None) -> Prediction:
    view = line.view
    rope = view.spectrum(view.entry.rotary_dim(view.kind or ""))
    result = recipes.dynamic(rope, line.read.need("factor"), view.max_position, length, view.where)
    note = "keys that are cached already keep the angles of the length at which they were written"
    return _done(line, result, "per forward pass", (note,))


def _yarn(line: _Line5, length: int | None) -> Prediction:
    view, read = line.view, line.read
    factor, original = line.yarn_factor(), line.original()
    width = view.entry.rotary_dim("yarn")
    if width % 2:
        raise line.engine.rejects(f"cannot ramp over an odd number of rotated dimensions ({width})", view.where)
    attention = read.optional("attention_factor")
    if attention is None:
        if line.mscale_counts():
            attention = recipes.magnitude_ratio(factor, read.need("mscale"), read.need("mscale_all_dim"))
        else:
            attention = yarn_attention(factor)
    result = recipes.yarn(
        view.spectrum(view.entry.rotary_dim(view.kind or "")),
        factor,
        original,
        attention,
        view.where,
        beta_fast=read.either("beta_fast", 32.0),
        beta_slow=read.either("beta_slow", 1.0),
        truncate=line.truncate,
    )
    return _done(line, result)


def _llama3(line: _Line5, length: int | None) -> Prediction:
    view, read = line.view, line.read
    result = recipes.llama3(
        view.spectrum(view.entry.rotary_dim(view.kind or "")),
        read.need("factor"),
        line.original(),
        read.need("low_freq_factor"),
        read.need("high_freq_factor"),
        view.where,
    )
    return _done(line, result)


def _longrope(line: _Line5, length: int | None) -> Prediction:
    view, read = line.view, line.read
    rope = view.spectrum(view.entry.rotary_dim(view.kind or ""))
    pairs = rope.inv_freq.size
    short, long = read.factors("short_factor", pairs), read.factors("long_factor", pairs)
    factor, original = line.longrope()
    beyond = length is not None and length > original
    attention = read.optional("attention_factor")
    if attention is None:
        attention = recipes.longrope_magnitude(factor, original)
    notes: tuple[str, ...] = ()
    if view.model_type == "phimoe":
        attention = read.need("long_mscale" if beyond else "short_mscale")
        if line.engine.version >= (5,):
            beyond, notes = _phimoe5(line, beyond)
    result = recipes.factors(rope, long if beyond else short, attention, view.where)
    if short != long and view.model_type not in ("phi3", "phi4_multimodal", "phimoe"):
        notes = (*notes, "a generation that crosses the original context keeps the keys of the other list")
    return _done(line, result, "per forward pass", notes)


def _phimoe5(line: _Line5, beyond: bool) -> tuple[bool, tuple[str, ...]]:
    """PhiMoE's forward recomputes without a length: short list always, with the long magnitude beyond (5.23)."""
    if beyond and line.engine.version < (5, 1):
        raise line.engine.rejects("crashes on PhiMoE beyond the original context: no long_mscale", line.view.where)
    note = "PhiMoE keeps short_factor beyond the original context, with long_mscale"
    return False, (note,) if beyond else ()


_SCALED: dict[str, Callable[[_Line5, int | None], Prediction]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


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
