"""exllamav2 (``exllamav2/rope.py``, ``exllamav2/config.py``)."""

from __future__ import annotations

from collections.abc import Mapping

from ropepatch.methods.base import Frequencies, Spectrum, yarn_attention
from ropepatch.runtimes import config_view, recipes
from ropepatch.runtimes.base import Behaviour, Order, Prediction, Runtime, Source
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

BEHAVIOURS = (Behaviour((0, 3), "0.3", (0, 3, 2)),)
_READS = {
    "linear": ("factor",),
    "yarn": ("factor", ORIGINAL),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
    "su": ("short_factor", "long_factor"),
}
Result = tuple[Frequencies, tuple[str, ...], str]


class Exllamav2(Runtime):
    """exllamav2 at a version."""

    name = "exllamav2"
    behaviours = BEHAVIOURS
    rank = 90
    abbreviation = "exl2"
    caps_context = True
    from_folder = True

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What a model holds that was loaded for ``length`` tokens, or for its declared context."""
        return {name: self._group(view, length) for name, view in config_view.line4(source).items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The program that loads it."""
        text = [
            "from exllamav2 import ExLlamaV2, ExLlamaV2Config",
            f"config = ExLlamaV2Config({order.ref!r})",
            f"config.max_seq_len = {order.length}",
            "model = ExLlamaV2(config)",
        ]
        alpha = "an alpha value (scale_alpha_value, --rope_alpha): it changes the base on top of what the config says"
        return "\n".join(text), (alpha,)

    def _group(self, view: View, length: int | None) -> Prediction:
        if "type" in view.rope and "rope_type" in view.rope:
            raise self.engine.rejects("fails an assertion: type and rope_type both stand there", view.where, "keep one")
        kind = view.rope.get("rope_type", view.rope.get("type"))
        loaded = length or view.max_position or 0
        rope = view.spectrum(view.share())
        result, notes, switches = self._compute(kind, view, rope, loaded)
        reads = _READS.get(kind or "", ())
        return Prediction(
            result.inv_freq, result.attention_scale, view.max_position, view.unread(*reads), notes, switches
        )

    def _compute(self, kind: str | None, view: View, rope: Spectrum, loaded: int) -> Result:
        read = Reader(view, self.engine)
        if kind == "linear":
            return recipes.linear(rope, read.need("factor"), view.where), (), "never"
        if kind in ("su", "longrope"):
            return self._longrope(view, read, rope, loaded)
        if kind == "yarn":
            return self._yarn(view, read, rope, loaded)
        if kind == "llama3":
            low, high = read.need("low_freq_factor"), read.need("high_freq_factor")
            result = recipes.llama3(rope, read.need("factor"), read.need(ORIGINAL), low, high, view.where)
            return result, (), "never"
        notes = () if kind in (None, "default", "mrope") else (f"rope type {kind!r} is ignored without a word",)
        return recipes.plain(rope), notes, "never"

    def _yarn(self, view: View, read: Reader, rope: Spectrum, loaded: int) -> Result:
        """Only beyond the original context, and the ramp starts from the loaded length instead of it."""
        factor, original = read.need("factor"), read.need(ORIGINAL)
        if loaded <= original:
            note = f"YaRN is off: the loaded length {loaded} does not exceed {ORIGINAL}"
            return recipes.plain(rope), (note,), "at load"
        note = "the YaRN ramp is computed from the loaded length instead of the original context"
        return recipes.yarn(rope, factor, loaded, yarn_attention(factor), view.where), (note,), "at load"

    def _longrope(self, view: View, read: Reader, rope: Spectrum, loaded: int) -> Result:
        original = view.original
        if original is None:
            raise self.engine.rejects(f"fails an assertion: the config has no top-level {ORIGINAL}", view.where)
        pairs = rope.inv_freq.size
        short, long = read.factors("short_factor", pairs), read.factors("long_factor", pairs)
        beyond = loaded > original
        attention = recipes.longrope_magnitude(loaded / original, original)
        notes = ("long_factor is in force for short inputs as well",) if beyond else ()
        return recipes.factors(rope, long if beyond else short, attention, view.where), notes, "at load"
