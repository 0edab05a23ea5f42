"""mlx-lm (``mlx_lm/models/rope_utils.py`` and each model's ``ModelArgs``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ropepatch.methods.base import Frequencies
from ropepatch.runtimes import config_view, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

BEHAVIOURS = (Behaviour((0, 32), "0.32", (0, 32, 2)),)
#: model files of 0.32.2 that look at ``rope_parameters``; all others read the old layout only
READS_V5 = frozenset(
    {
        "exaone_moe", "gemma4_text", "glm_moe_dsa", "granitemoehybrid", "laguna", "lfm2", "lfm2_moe", "mellum",
        "minimax_m3_vl", "ministral3", "mistral4", "muse_glimmer", "muse_glimmer_text", "muse_spark", "olmo_hybrid",
        "qwen3", "qwen3_5", "spark2_5",
    }
)  # fmt: skip
#: model files that have no default base: the model does not load without a top-level rope_theta
_NEEDS_THETA = frozenset(
    {
        "Klear", "apertus", "baichuan_m1", "bailing_hybrid", "bailing_moe", "bailing_moe_linear", "dots1", "ernie4_5",
        "ernie4_5_moe", "exaone", "exaone4", "gemma3n", "glm4", "glm4_moe", "granite", "granitemoe", "helium",
        "hunyuan", "kimi_linear", "lille-130m", "llama4_text", "longcat_flash", "longcat_flash_ngram",
        "mimo_v2_flash", "minimax", "olmo3", "qwen3", "qwen3_moe", "qwen3_next", "recurrent_gemma", "solar_open",
        "stablelm", "telechat3",
    }
)  # fmt: skip
#: default bases other than 10000
_THETA = {
    "afm7": 5e4, "bailing_moe_v3": 6e6, "cohere": 8e6, "cohere2": 5e4, "exaone_moe": 1e6, "falcon_h1": 1e11,
    "gear": 1e6, "gemma3_text": 1e6, "glm4_moe_lite": 1e6, "gpt_oss": 1.5e5, "iquestloopcoder": 5e5, "lfm2": 1e6,
    "lfm2_moe": 1e6, "minicpm": 1e6, "minicpm3": 1e6, "minimax_m3_vl": 5e6, "mixtral": 1e6, "muse_glimmer": 5e5,
    "muse_glimmer_text": 5e5, "nemotron-nas": 5e5, "plamo3": 1e6, "qwen2": 1e6, "qwen2_moe": 1e6, "qwen3_5": 1e5,
    "starcoder2": 1e5, "talkie": 1e6, "youtu_llm": 1.6e6,
}  # fmt: skip
#: model files that rotate only a share of the head
_PARTIAL = frozenset(
    {
        "bailing_hybrid", "bailing_moe", "bailing_moe_linear", "glm", "glm4", "glm4_moe", "gpt_neox", "gptj",
        "mimo_v2_flash", "minimax", "minimax_m3_vl", "nemotron", "phi", "phi3", "qwen3_5", "qwen3_next", "stablelm",
    }
)  # fmt: skip
_YARN_KEYS = ("factor", ORIGINAL, "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
_READS = {
    "default": (),
    "mrope": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": _YARN_KEYS,
    "longrope": (ORIGINAL, "long_factor", "short_factor"),
    "proportional": ("factor",),
}
_ALIASES = {"deepseek_yarn": "yarn", "telechat3-yarn": "yarn"}
Result = tuple[Frequencies, tuple[str, ...], str]


class MlxLm(Runtime):
    """mlx-lm at a version."""

    name = "mlx-lm"
    behaviours = BEHAVIOURS
    rank = 70
    abbreviation = "mlx"

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What a call at offset ``length`` computes."""
        given = config_view.section_of(source, "4").given
        views = config_view.line4(source)
        return {name: self._group(self._layout(view, given), length) for name, view in views.items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The command that serves it."""
        avoid = (f"--max-kv-size below {order.length}: the cache would drop what came first",)
        return f"mlx_lm.server --model {order.quoted}", avoid

    def _layout(self, view: View, given: Mapping[str, Any]) -> View:
        """The base and dict that this model's ``ModelArgs`` end up with."""
        written = given.get("rope_theta") is not None
        parameters = given.get("rope_parameters")
        if view.model_type in READS_V5 and isinstance(parameters, Mapping) and parameters:
            inner = parameters.get(view.group, parameters)
            rope = view.rope or (inner if isinstance(inner, Mapping) else {})
            theta = view.theta if written else Reader(replace(view, rope=rope), self.engine).get("rope_theta", 1e4)
            ignored = tuple(key for key in view.ignored if not key.endswith("rope_parameters"))
            return replace(view, rope=rope, theta=theta, ignored=ignored).with_partial(
                rope.get("partial_rotary_factor")
            )
        if not written and view.group in ("default", "full_attention"):
            if view.model_type in _NEEDS_THETA:
                raise self.engine.rejects("needs a top-level rope_theta for this architecture", view.where)
            return replace(view, theta=_THETA.get(view.model_type, 1e4))
        return view

    def _group(self, view: View, length: int | None) -> Prediction:
        read = Reader(view, self.engine)
        if view.model_type in ("phi3", "phimoe", "minicpm3"):
            return self._phi3(view, read)
        named = view.rope.get("type") or view.rope.get("rope_type", "default")
        kind = _ALIASES.get(named, named)
        compute = _TYPES.get(kind)
        if compute is None:
            raise self.engine.rejects(f"stops with a ValueError: unsupported RoPE type {named!r}", view.where)
        result, notes, switches = compute(self.engine, view, read, length)
        return self._prediction(view, result, view.unread(*_READS[kind]), notes, switches)

    def _prediction(
        self, view: View, result: Frequencies, ignored: tuple[str, ...], notes: tuple[str, ...], switches: str
    ) -> Prediction:
        return Prediction(result.inv_freq, result.attention_scale, view.max_position, ignored, notes, switches)

    def _phi3(self, view: View, read: Reader) -> Prediction:
        """``phi3.py``, ``phimoe.py`` and ``minicpm3.py`` call the long-factor class themselves."""
        dim = _width(view)
        if not view.rope:
            return self._prediction(view, recipes.plain(view.spectrum(dim)), view.unread(), (), "never")
        if view.model_type == "phi3":
            missing = [key for key in ("type", "long_factor") if key not in view.rope]
            if missing:
                raise self.engine.rejects(
                    f"stops with a ValueError: rope_scaling lacks {', '.join(missing)}",
                    view.where,
                    "its Phi-3 wants 'type', not 'rope_type'",
                )
            if view.rope["type"] == "linear":
                result = recipes.linear(view.spectrum(dim), read.need("factor"), view.where)
                return self._prediction(view, result, view.unread("factor"), (), "never")
            if view.rope["type"] not in ("longrope", "su"):
                note = f"type {view.rope['type']!r} is turned off with a warning"
                return self._prediction(view, recipes.plain(view.spectrum(dim)), view.unread(), (note,), "never")
        own = read.need("long_mscale") if view.model_type == "phimoe" else None
        result = _always_long(view, read, float(view.original or 4096), own)
        return self._prediction(view, result, view.unread("short_factor", "long_factor"), (_ALWAYS_LONG,), "never")


_ALWAYS_LONG = "long_factor is in force at every length, short ones too"


def _width(view: View) -> int:
    return view.share() if view.model_type in _PARTIAL else view.head_dim


def _always_long(view: View, read: Reader, original: float, own: float | None = None) -> Frequencies:
    rope = view.spectrum(_width(view))
    longest = view.max_position or 131072
    attention = recipes.longrope_magnitude(longest / original, original) if own is None else own
    return recipes.factors(rope, read.factors("long_factor", rope.inv_freq.size), attention, view.where)


def _plain(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    return recipes.plain(view.spectrum(_width(view))), (), "never"


def _linear(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    return recipes.linear(view.spectrum(_width(view)), read.need("factor"), view.where), (), "never"


def _dynamic(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    rope = view.spectrum(_width(view))
    note = "keys that are cached already keep the angles of the length at which they were written"
    result = recipes.dynamic(rope, read.need("factor"), view.max_position, length, view.where)
    return result, (note,), "per forward pass"


def _llama3(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    result = recipes.llama3(
        view.spectrum(_width(view)),
        read.need("factor"),
        read.get(ORIGINAL, 8192),
        read.get("low_freq_factor", 1.0),
        read.get("high_freq_factor", 4.0),
        view.where,
    )
    return result, (), "never"


def _yarn(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    """An original context that is not written is 4096; mscale defaults to 1, mscale_all_dim to 0."""
    factor = read.need("factor")
    result = recipes.yarn(
        view.spectrum(_width(view)),
        factor,
        read.get(ORIGINAL, 4096),
        recipes.magnitude_ratio(factor, read.get("mscale", 1.0), read.get("mscale_all_dim", 0.0)),
        view.where,
        beta_fast=read.get("beta_fast", 32.0),
        beta_slow=read.get("beta_slow", 1.0),
    )
    return result, (), "never"


def _longrope(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    if "short_factor" not in view.rope:
        raise engine.rejects("stops with a KeyError: there is no 'short_factor'", view.where)
    return _always_long(view, read, read.need(ORIGINAL)), (_ALWAYS_LONG,), "never"


def _proportional(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    partial = read.get("partial_rotary_factor", 1.0)
    return recipes.proportional(view.spectrum(), partial, read.get("factor", 1.0), view.where), (), "never"


_TYPES: dict[str, Callable[[Engine, View, Reader, int | None], Result]] = {
    "default": _plain,
    "mrope": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}
