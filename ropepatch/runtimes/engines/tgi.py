"""Text Generation Inference (``server/text_generation_server/layers/rotary.py``), in maintenance mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ropepatch.methods.base import Frequencies
from ropepatch.runtimes import config_view, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

BEHAVIOURS = (Behaviour((3, 0), "3.x", (3, 3, 7)),)
#: architectures whose TGI model rotates only a share of the head
_PARTIAL = frozenset({"gpt_neox", "phi", "stablelm"})
_READS = {
    "linear": (),
    "default": (),
    "mrope": (),
    "dynamic": ("factor",),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", ORIGINAL, "mscale", "mscale_all_dim"),
    "su": ("short_factor", "long_factor", "short_mscale", "long_mscale"),
    "longrope": ("short_factor", "long_factor", "short_mscale", "long_mscale"),
}
Result = tuple[Frequencies, tuple[str, ...], str]


class Tgi(Runtime):
    """TGI at a version."""

    name = "tgi"
    behaviours = BEHAVIOURS
    rank = 40
    caps_context = True

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What position ``length - 1`` is rotated by; ROPE_SCALING and ROPE_FACTOR in the environment replace all."""
        return {name: self._group(view, length) for name, view in config_view.line4(source).items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The command that serves it."""
        prompt = max(1, order.length - 1024) if order.length > 2048 else order.length - 1
        limits = f"--max-input-tokens {prompt} --max-total-tokens {order.length}"
        avoid = ("ROPE_SCALING and ROPE_FACTOR: they replace what the config says",)
        return f"text-generation-launcher --model-id {order.quoted} {limits}", avoid

    def _group(self, view: View, length: int | None) -> Prediction:
        kind = self._kind(view)
        compute = _TYPES.get(kind)
        if compute is None:
            raise self.engine.rejects(f"does not implement rope type {kind!r}", view.where)
        result, notes, switches = compute(self.engine, view, Reader(view, self.engine), length)
        return Prediction(
            result.inv_freq, result.attention_scale, view.max_position, view.unread(*_READS[kind]), notes, switches
        )

    def _kind(self, view: View) -> str:
        """The type as transformers 4's config class leaves it: ``type`` has been copied over ``rope_type``."""
        if not view.rope:
            return "default"
        kind = view.rope.get("type", view.rope.get("rope_type"))
        missing = [key for key in config_view.REQUIRED["llama3"] if key not in view.rope] if kind == "llama3" else []
        if missing:
            raise self.engine.rejects(f"stops with a KeyError: rope_scaling lacks {', '.join(missing)}", view.where)
        return str(kind)


def _width(view: View) -> int:
    return view.share() if view.model_type in _PARTIAL else view.head_dim


def _plain(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    return recipes.plain(view.spectrum(_width(view))), (), "never"


def _linear(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    """``static`` lets linear pass without setting a factor."""
    return recipes.plain(view.spectrum(_width(view))), ("linear scaling is accepted and does nothing",), "never"


def _dynamic(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    rope = view.spectrum(_width(view))
    result = recipes.dynamic(rope, read.need("factor"), view.max_position, length, view.where)
    return result, (), "per forward pass"


def _llama3(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    result = recipes.llama3(
        view.spectrum(_width(view)),
        read.need("factor"),
        read.need(ORIGINAL),
        read.need("low_freq_factor"),
        read.need("high_freq_factor"),
        view.where,
    )
    return result, (), "never"


def _yarn(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    """Betas are fixed at 32 and 1, bounds always rounded; mscale defaults to 1 and mscale_all_dim to 0."""
    factor = read.need("factor")
    attention = recipes.magnitude_ratio(factor, read.get("mscale", 1.0), read.get("mscale_all_dim", 0.0))
    return recipes.yarn(view.spectrum(_width(view)), factor, read.need(ORIGINAL), attention, view.where), (), "never"


def _longrope(engine: Engine, view: View, read: Reader, length: int | None) -> Result:
    """Positions up to the original context turn by the short list, later ones by the long list, in one sequence."""
    original = view.original
    if original is None:
        raise engine.rejects(f"stops with an AttributeError: the config has no top-level {ORIGINAL}", view.where)
    rope = view.spectrum(_width(view))
    pairs = rope.inv_freq.size
    short, long = read.factors("short_factor", pairs), read.factors("long_factor", pairs)
    beyond = length is not None and length > original
    notes: tuple[str, ...] = ("positions up to the original context keep the short list within a long sequence",)
    attention = recipes.longrope_magnitude((view.max_position or original) / original, original)
    result = recipes.factors(rope, long if beyond else short, attention, view.where)
    if "short_mscale" in view.rope and "long_mscale" in view.rope:
        # Phi3LongRoPEScaledRotaryEmbedding multiplies the angles, where others multiply cos and sin.
        stretch = read.need("long_mscale" if beyond else "short_mscale")
        result = Frequencies(result.inv_freq * stretch, 1.0)
        notes = (*notes, "short_mscale and long_mscale multiply the angles instead of cos and sin")
    return result, notes, "per position"


_TYPES: dict[str, Callable[[Engine, View, Reader, int | None], Result]] = {
    "default": _plain,
    "mrope": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "su": _longrope,
    "longrope": _longrope,
}
