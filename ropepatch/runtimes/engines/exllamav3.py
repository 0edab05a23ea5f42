"""exllamav3 (``exllamav3/util/rope.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ropepatch.methods.base import Frequencies, yarn_attention
from ropepatch.runtimes import config_view, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

BEHAVIOURS = (Behaviour((1, 0), "1.x", (1, 4, 1)),)
#: classes that take another length at load (architecture/phi3.py); elsewhere ``override_dynamic_seq_len`` is empty
_LENGTH_AT_LOAD = frozenset({"phi3"})
#: architectures whose loader asks for DeepSeek's ratio of magnitudes (exllamav3#259 took it from the others)
_RATIO = frozenset({"deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2"})
_READS = {
    "default": (),
    "mrope": (),
    "linear": ("factor",),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": (ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "truncate", "llama_4_scaling_beta"),
    "longrope": ("short_factor", "long_factor", ORIGINAL),
    "su": ("short_factor", "long_factor", ORIGINAL),
    "proportional": ("factor",),
}
Result = tuple[Frequencies, tuple[str, ...], str]


class Exllamav3(Runtime):
    """exllamav3 at a version."""

    name = "exllamav3"
    behaviours = BEHAVIOURS
    rank = 80
    abbreviation = "exl3"
    caps_context = True
    from_folder = True

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What a model holds that was loaded for ``length`` tokens, or for its declared context."""
        given = config_view.section_of(source, "4").given
        views = config_view.line4(source)
        return {name: self._group(_either_layout(view, given), length) for name, view in views.items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The program that loads it."""
        rows = math.ceil(order.length / 256) * 256
        chosen = any(one.switches == "at load" for one in predicted.values())
        text = [
            "from exllamav3 import Cache, Config, Model",
            f"config = Config.from_directory({order.ref!r})",
            *([f"config.override_dynamic_seq_len({order.length})"] if chosen and order.length != order.context else []),
            "model = Model.from_config(config)",
            f"cache = Cache(model, max_num_tokens={rows})",
            "model.load()",
        ]
        avoid: tuple[str, ...] = ()
        if order.beyond and not chosen:
            key = f"max_position_embeddings {order.context}"
            avoid = (f"a config with {key} for YaRN: its factor follows that key alone",)
        return "\n".join(text), avoid

    def _group(self, view: View, length: int | None) -> Prediction:
        kind = view.rope.get("rope_type", view.rope.get("type")) or "default"
        compute = _TYPES.get(kind)
        if compute is None:
            raise self.engine.rejects(f"stops with a ValueError: unknown rope_type {kind!r}", view.where)
        asked = length if view.model_type in _LENGTH_AT_LOAD else None
        loaded = asked or view.max_position or 0
        result, notes, switches = compute(self.engine, view, Reader(view, self.engine), loaded)
        reads: tuple[str, ...] = _READS[kind]
        if kind == "yarn":
            reads += ("factor",) if view.rope.get(ORIGINAL) is None else ()
            reads += ("mscale", "mscale_all_dim") if view.model_type in _RATIO else ()
        return Prediction(
            result.inv_freq, result.attention_scale, view.max_position, view.unread(*reads), notes, switches
        )


def _either_layout(view: View, given: Mapping[str, Any]) -> View:
    """Base, share and dict are each looked for at the top first and in ``rope_parameters`` second, one by one."""
    parameters = given.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return view
    inner = parameters.get(view.group, parameters)
    inner = inner if isinstance(inner, Mapping) else {}
    theta = view.theta if given.get("rope_theta") is not None else inner.get("rope_theta", view.theta)
    partial = inner.get("partial_rotary_factor") if given.get("partial_rotary_factor") is None else None
    ignored = tuple(key for key in view.ignored if not key.endswith("rope_parameters"))
    if view.rope:
        shadowed = (".".join((*view.section.path, "rope_parameters")),)
        return replace(view, ignored=(*ignored, *(() if dict(inner).items() >= dict(view.rope).items() else shadowed)))
    if inner.get("rope_theta") not in (None, theta):
        ignored = (*ignored, "rope_parameters.rope_theta")
    merged = replace(view, rope=inner, key=(*view.section.path, "rope_parameters"), theta=float(theta), ignored=ignored)
    return merged.with_partial(partial)


def _plain(engine: Engine, view: View, read: Reader, loaded: int) -> Result:
    return recipes.plain(view.spectrum(view.share())), (), "never"


def _linear(engine: Engine, view: View, read: Reader, loaded: int) -> Result:
    return recipes.linear(view.spectrum(view.share()), read.get("factor", 1.0), view.where), (), "never"


def _llama3(engine: Engine, view: View, read: Reader, loaded: int) -> Result:
    result = recipes.llama3(
        view.spectrum(view.share()),
        read.get("factor", 8.0),
        read.get(ORIGINAL, 8192),
        read.get("low_freq_factor", 1.0),
        read.get("high_freq_factor", 4.0),
        view.where,
    )
    return result, (), "never"


def _yarn(engine: Engine, view: View, read: Reader, loaded: int) -> Result:
    """The factor is max_position_embeddings over the original context wherever the latter is written."""
    original = read.optional(ORIGINAL)
    notes: tuple[str, ...] = ()
    if original is None:
        original, factor = float(loaded), read.need("factor")
    else:
        factor = loaded / original
        if factor != view.rope.get("factor"):
            notes = (f"the factor is replaced by max_position_embeddings / {ORIGINAL} = {factor:g}",)
    result = recipes.yarn(
        view.spectrum(view.share()),
        factor,
        original,
        _magnitude(view, read, factor),
        view.where,
        beta_fast=read.get("beta_fast", 32.0),
        beta_slow=read.get("beta_slow", 1.0),
        truncate=read.flag("truncate", True),
    )
    return result, notes, "at load" if view.model_type in _LENGTH_AT_LOAD else "never"


def _magnitude(view: View, read: Reader, factor: float) -> float:
    given = read.optional("attention_factor")
    if given is not None:
        return given
    if view.rope.get("llama_4_scaling_beta"):
        return 1.0
    if view.model_type in _RATIO and view.rope.get("mscale") and view.rope.get("mscale_all_dim"):
        return recipes.magnitude_ratio(factor, read.need("mscale"), read.need("mscale_all_dim"))
    return yarn_attention(factor)


def _longrope(engine: Engine, view: View, read: Reader, loaded: int) -> Result:
    original = read.optional(ORIGINAL) or view.original
    if not original:
        raise engine.rejects(f"stops with a TypeError: there is no {ORIGINAL}", view.where)
    rope = view.spectrum(view.share())
    chosen = read.factors("long_factor" if loaded > original else "short_factor", rope.inv_freq.size)
    attention = recipes.longrope_magnitude((view.max_position or original) / original, original)
    notes = ("long_factor is in force for short inputs as well",) if loaded > original else ()
    switches = "at load" if view.model_type in _LENGTH_AT_LOAD else "never"
    return recipes.factors(rope, chosen, attention, view.where), notes, switches


def _proportional(engine: Engine, view: View, read: Reader, loaded: int) -> Result:
    return recipes.proportional(view.spectrum(), view.partial, read.get("factor", 1.0), view.where), (), "never"


_TYPES: dict[str, Callable[[Engine, View, Reader, int], Result]] = {
    "default": _plain,
    "mrope": _plain,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
    "proportional": _proportional,
}
