"""What the functions of transformers' ``modeling_rope_utils.py`` make of a rope dict, on line 4 and on line 5."""

from __future__ import annotations

from collections.abc import Callable

from ropepatch.methods.base import Frequencies, yarn_attention
from ropepatch.runtimes import recipes
from ropepatch.runtimes.base import Engine, Prediction
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

#: what each type reads beside its factor; ``attn_factor`` is nobody's key here
_READS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim"),
    "longrope": ("factor", ORIGINAL, "attention_factor", "short_factor", "long_factor"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "proportional": ("factor",),
}


class Line5:
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


class Line4(Line5):
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


def _done(line: Line5, result: Frequencies, switches: str = "never", notes: tuple[str, ...] = ()) -> Prediction:
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


def _linear(line: Line5, length: int | None) -> Prediction:
    rope = line.view.spectrum(line.view.share())
    return _done(line, recipes.linear(rope, line.read.need("factor"), line.view.where))


def _dynamic(line: Line5, length: int | None) -> Prediction:
    view = line.view
    rope = view.spectrum(view.entry.rotary_dim(view.kind or ""))
    result = recipes.dynamic(rope, line.read.need("factor"), view.max_position, length, view.where)
    note = "keys that are cached already keep the angles of the length at which they were written"
    return _done(line, result, "per forward pass", (note,))


def _yarn(line: Line5, length: int | None) -> Prediction:
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


def _llama3(line: Line5, length: int | None) -> Prediction:
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


def _longrope(line: Line5, length: int | None) -> Prediction:
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


def _phimoe5(line: Line5, beyond: bool) -> tuple[bool, tuple[str, ...]]:
    """PhiMoE's forward recomputes without a length: short list always, with the long magnitude beyond (5.23)."""
    if beyond and line.engine.version < (5, 1):
        raise line.engine.rejects("crashes on PhiMoE beyond the original context: no long_mscale", line.view.where)
    note = "PhiMoE keeps short_factor beyond the original context, with long_mscale"
    return False, (note,) if beyond else ()


SCALED: dict[str, Callable[[Line5, int | None], Prediction]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
