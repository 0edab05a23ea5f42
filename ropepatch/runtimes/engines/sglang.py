"""SGLang (``srt/layers/rotary_embedding/factory.py``, ``srt/utils/hf_transformers/common.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ropepatch.methods.base import Frequencies, yarn_attention
from ropepatch.runtimes import line5, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View
from ropepatch.runtimes.engines.vllm import DEEPSEEK, fixed_dynamic, phi3_longrope, reject_whole_factor

BEHAVIOURS = (Behaviour((0, 5), "0.5", (0, 5, 23)),)
_LENGTH_KEYS = ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length", "max_position_embeddings")
#: served by ``models/llama.py``, which looks for partial_rotary_factor where transformers 5 no longer has it
_LLAMA_CLASS = frozenset({"llama", "mistral", "ministral3", "internlm3", "iquestcoder", "mixtral"})
_YARN = ("factor", ORIGINAL, "beta_fast", "beta_slow", "attn_factor", "extrapolation_factor")
_READS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "alpha"),
    "yarn": (*_YARN, "truncate", "mscale", "mscale_all_dim"),
    "deepseek_yarn": (*_YARN, "mscale", "mscale_all_dim"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor", ORIGINAL, "short_mscale", "long_mscale"),
    "proportional": (),
}

Result = tuple[Frequencies, tuple[str, ...], str]


class Sglang(Runtime):
    """SGLang at a version."""

    name = "sglang"
    behaviours = BEHAVIOURS
    rank = 30
    caps_context = True

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What a batch whose longest position is ``length`` is rotated by."""
        views = line5.line5(source, self.engine)
        return {name: self._group(view, length) for name, view in views.items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The command that serves it."""
        command = f"python -m sglang.launch_server --model-path {order.quoted} --context-length {order.length}"
        if order.rope is not None:
            command += f" --json-model-override-args {order.quoted_override}"
        elif order.beyond:
            command = f"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 {command}"
        return command, ()

    def _group(self, view: View, length: int | None) -> Prediction:
        kind = view.kind or "default"
        if view.model_type in DEEPSEEK and kind != "default":
            kind = "deepseek_yarn"
        compute = _TYPES.get(kind)
        if compute is None:
            raise self.engine.rejects(f"stops with a ValueError: unknown RoPE scaling type {kind!r}", view.where)
        result, notes, switches = compute(self.engine, view, Reader(view, self.engine), length)
        context = derived_context(view, kind)
        if length is not None and context is not None and length > context:
            notes = (*notes, f"needs --context-length {length} and SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1")
        ignored = view.unread(*_READS[kind])
        if _loses_partial(view):
            ignored = (*ignored, "partial_rotary_factor")
        return Prediction(result.inv_freq, result.attention_scale, context, ignored, notes, switches)


def derived_context(view: View, kind: str) -> int | None:
    """``get_context_length``: times the factor, unless an original context stands in the dict or the type is llama3."""
    factor = view.rope.get("factor", 1)
    if ORIGINAL in view.rope or kind == "llama3" or isinstance(factor, bool) or not isinstance(factor, (int, float)):
        factor = 1
    for key in _LENGTH_KEYS:
        value = view.section.get(key)
        if isinstance(value, int):
            return int(factor * value)
    return 2048


def _loses_partial(view: View) -> bool:
    return view.partial < 1 and view.model_type in _LLAMA_CLASS


def _width(view: View) -> int:
    return view.head_dim if _loses_partial(view) else view.share()


def _default(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    return recipes.plain(view.spectrum(_width(view))), (), "never"


def _linear(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    reject_whole_factor(engine, view)
    notes = ("positions beyond the table are appended with the unscaled frequencies",)
    return recipes.linear(view.spectrum(_width(view)), read.get("factor", 1.0), view.where), notes, "never"


def _dynamic(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    if "alpha" in view.rope:
        result = recipes.ntk(view.spectrum(_width(view)), read.need("alpha"), view.where)
        return result, ("alpha raises the base at every length",), "never"
    note = "the base of the full extension is in force at every length, short ones too"
    return fixed_dynamic(view, read.get("factor", 1.0)), (note,), "never"


def _yarn(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    """``yarn.py``: ``attn_factor`` multiplies, ``attention_factor`` is not read; the mscale pair counts even with 0."""
    factor, rope = read.get("factor", 1.0), view.rope
    pair = rope.get("mscale") is not None and rope.get("mscale_all_dim") is not None
    if "mrope_section" in rope and not rope.get("video_rope") and ("mscale" in rope or "mscale_all_dim" in rope):
        raise engine.rejects(
            "stops with a TypeError: YaRNScalingMRotaryEmbedding takes no mscale", view.where, "remove the mscale keys"
        )
    attention = (
        recipes.magnitude_ratio(factor, read.need("mscale"), read.need("mscale_all_dim"))
        if pair
        else yarn_attention(factor)
    )
    result = recipes.yarn(
        view.spectrum(_width(view)),
        factor,
        read.get(ORIGINAL, float(view.max_position or 0)),
        attention * read.get("attn_factor", 1.0),
        view.where,
        beta_fast=read.get("beta_fast", 32.0),
        beta_slow=read.get("beta_slow", 1.0),
        truncate=read.flag("truncate", True),
    )
    return result, (), "never"


def _deepseek(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    factor = read.get("factor", 1.0)
    attention = recipes.magnitude_ratio(factor, read.get("mscale", 1.0), read.get("mscale_all_dim", 0.0))
    result = recipes.yarn(
        view.spectrum(view.share()),
        factor,
        read.get(ORIGINAL, float(view.max_position or 0)),
        attention * read.get("attn_factor", 1.0),
        view.where,
        beta_fast=read.get("beta_fast", 32.0),
        beta_slow=read.get("beta_slow", 1.0),
    )
    return result, (), "never"


def _longrope(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    original = read.need(ORIGINAL)
    note = "one position beyond the original context turns the whole batch to long_factor; cached keys stay as they are"
    return phi3_longrope(view, read, length is not None and length > original), (note,), "per batch"


def _llama3(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    result = recipes.llama3(
        view.spectrum(_width(view)),
        read.get("factor", 1.0),
        read.get(ORIGINAL, float(view.max_position or 0)),
        read.get("low_freq_factor", 1.0),
        read.get("high_freq_factor", 4.0),
        view.where,
    )
    return result, (), "never"


def _proportional(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    partial = 1.0 if _loses_partial(view) else view.partial
    return recipes.proportional(view.spectrum(), partial, 1.0, view.where), (), "never"


_TYPES: dict[str, Callable[[Engine, View, Reader, int | None], Result]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "deepseek_yarn": _deepseek,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
