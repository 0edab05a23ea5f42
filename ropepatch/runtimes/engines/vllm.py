"""vLLM (``model_executor/layers/rotary_embedding/__init__.py:get_rope``, ``transformers_utils/config.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ropepatch.errors import InputError
from ropepatch.methods.base import Frequencies, yarn_attention
from ropepatch.runtimes import config_view, line5, recipes
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source, Version
from ropepatch.runtimes.config_view import ORIGINAL, Reader, View

BEHAVIOURS = (
    Behaviour((0, 8), "<=0.11", (0, 11)),
    Behaviour((0, 12), "0.12-0.21", (0, 21)),
    Behaviour((0, 22), "0.22-0.29", (0, 29)),
    Behaviour((0, 30), ">=0.30", (0, 33)),
)
#: models whose attention is DeepSeek's: any scaling type becomes deepseek_yarn
DEEPSEEK = frozenset(
    {"deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite", "glm_moe_dsa", "axk1", "longcat_flash"}
)
#: types whose factor does not multiply the length that the engine derives
_UNMULTIPLIED = ("su", "longrope", "llama3")
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")
_READS = {
    "default": (),
    "linear": ("factor",),
    "ntk": ("factor", "mixed_b"),
    "dynamic": ("factor", "alpha"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor", ORIGINAL, "short_mscale", "long_mscale"),
    "proportional": (),
    "deepseek_yarn": ("factor", ORIGINAL, "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attn_factor"),
}


class Vllm(Runtime):
    """vLLM at a version."""

    name = "vllm"
    behaviours = BEHAVIOURS
    rank = 20
    caps_context = True

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What the cos/sin table holds of a server that was started for ``length`` tokens."""
        if self.version < (0, 12):  # reads rope_scaling; PR #28542 brought rope_parameters
            views = {name: _old(view) for name, view in config_view.line4(source).items()}
        else:
            views = line5.line5(source, self.engine)
        return {name: self._group(self._typed(view), length) for name, view in views.items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The command that serves it."""
        command = f"vllm serve {order.quoted} --max-model-len {order.length}"
        if order.rope is not None:
            command += f" --hf-overrides {order.quoted_override}"
        elif order.beyond:
            command = f"VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 {command}"
        avoid = [
            "--rope-scaling and --rope-theta: gone since 0.11.1",
            "an override of rope_parameters without rope_theta",
        ]
        if order.path:
            avoid.append(f"an override beside {'.'.join(order.path)}: it never reaches the text model")
        return command, tuple(avoid)

    def _typed(self, view: View) -> View:
        """``patch_legacy_rope_type``: two names that disagree are an error, old names are replaced."""
        new, old = view.rope.get("rope_type"), view.rope.get("type")
        if new and old and new != old and (old, new) not in (("su", "longrope"), ("mrope", "default")):
            raise self.engine.rejects(f"refuses two types, rope_type {new!r} and type {old!r}", view.where)
        kind = {"su": "longrope", "mrope": "default"}.get(view.kind or "", view.kind)
        rope = dict(view.rope)
        if kind == "telechat3-yarn":
            kind = "yarn"
            rope["attention_factor"] = (yarn_attention(Reader(view, self.engine).need("factor")) - 1) * 0.7 + 1
        if view.model_type in DEEPSEEK and kind not in ("default", None):
            kind = "deepseek_yarn"
        if kind in line5.WITH_ORIGINAL and view.max_position:
            rope.setdefault(ORIGINAL, view.original or view.max_position)
        return replace(view, kind=kind, rope=rope)

    def _group(self, view: View, length: int | None) -> Prediction:
        compute = _TYPES.get(view.kind or "")
        if compute is None:
            raise self.engine.rejects(f"stops with a ValueError: unknown RoPE scaling type {view.kind!r}", view.where)
        read = Reader(view, self.engine)
        result, notes, switches = compute(self, view, read, length)
        reads = _yarn_reads(self.version) if view.kind == "yarn" else _READS[view.kind or ""]
        context = self._context(view, read)
        if length is not None and context is not None and length > context:
            notes = (*notes, f"needs --max-model-len {length}: {context} is derived")
        return Prediction(result.inv_freq, result.attention_scale, context, view.unread(*reads), notes, switches)

    def _context(self, view: View, read: Reader) -> int | None:
        """``max_model_len`` as ``_get_and_verify_max_len`` derives it, without the tokenizer's model_max_length."""
        lengths = [view.section.given.get(key) for key in _LENGTH_KEYS]
        known = [value for value in lengths if isinstance(value, int)] or (
            [view.max_position] if view.max_position else []
        )
        if not known:
            return None
        base = float(min(known))
        if view.kind == "longrope":
            return int(min(base, read.need(ORIGINAL)))
        factor = view.rope.get("factor")
        if factor is None or view.kind in (*_UNMULTIPLIED, "default") or "gemma3" in view.model_type:
            return int(base)
        if view.kind in ("yarn", "deepseek_yarn"):
            return int(base) if self.version >= (0, 30) else int(read.need(ORIGINAL) * read.need("factor"))
        return int(base * read.need("factor"))


Result = tuple[Frequencies, tuple[str, ...], str]


def _default(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    return recipes.plain(view.spectrum(view.share())), (), "never"


def _linear(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    reject_whole_factor(engine.engine, view)
    return recipes.linear(view.spectrum(view.share()), read.need("factor"), view.where), (), "never"


def reject_whole_factor(engine: Engine, view: View) -> None:
    """``LinearScalingRotaryEmbedding`` takes a factor that is not a float for a list of factors."""
    if isinstance(view.rope.get("factor"), int):
        raise engine.rejects(
            f"stops with a TypeError: factor {view.rope['factor']} is a whole number in the file",
            view.where,
            f"write {float(view.rope['factor'])}",
        )


def _ntk(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    """``ntk_scaling_rope.py``: pair i is slowed by ``s^(2 (i+1) / d)``, so that the first one is slowed as well."""
    from ropepatch.methods.theta import rebased

    dim = view.share()
    rope, factor = view.spectrum(dim), read.need("factor")
    if "mixed_b" in view.rope:
        raise InputError("ropepatch does not predict the mixed form of NTK", where=f"{view.where}.mixed_b")
    inv_freq = rebased(rope, rope.rope_theta * factor) / factor ** (2 / dim)
    return Frequencies(inv_freq), (_short_table(view),), "never"


def _dynamic(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    """From 0.22 on (PR #41277) the formula starts from a trained length that defaults to the declared one: plain RoPE.

    Before, the base of the full extension was in force at every length.
    """
    rope = view.spectrum(view.share())
    if "alpha" in view.rope:
        return recipes.ntk(rope, read.need("alpha"), view.where), ("alpha raises the base at every length",), "never"
    factor = read.need("factor")
    if engine.version >= (0, 22):
        note = "dynamic NTK comes to plain RoPE here"
        return recipes.plain(rope), (note, _short_table(view)), "never"
    return fixed_dynamic(view, factor), ("the base of the full extension is in force at every length",), "never"


def fixed_dynamic(view: View, factor: float) -> Frequencies:
    """Dynamic NTK as one table for ``factor`` times the declared context: α = s² − s + 1 at every length."""
    longest = int((view.max_position or 0) * factor)
    return recipes.dynamic(view.spectrum(view.share()), factor, view.max_position, longest, view.where)


def _short_table(view: View) -> str:
    return (
        f"the table has {view.max_position} rows while max_model_len is multiplied by the factor: positions beyond "
        "read outside it"
    )


def _yarn_reads(version: Version) -> tuple[str, ...]:
    common = ("factor", ORIGINAL, "beta_fast", "beta_slow")
    if version >= (0, 30):
        return (*common, "truncate", "attention_factor", "mscale", "mscale_all_dim")
    return (*common, "attn_factor", "apply_yarn_scaling", *(("truncate",) if version >= (0, 12) else ()))


def _yarn(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    factor, original = read.need("factor"), read.need(ORIGINAL)
    widening, notes = _mrope_widening(engine.version, view)
    result = recipes.yarn(
        view.spectrum(view.share()),
        factor,
        original * widening,
        _yarn_magnitude(engine.version, read, factor),
        view.where,
        beta_fast=read.get("beta_fast", 32.0),
        beta_slow=read.get("beta_slow", 1.0),
        truncate=engine.version < (0, 12) or read.flag("truncate", True),
    )
    return result, notes, "never"


def _yarn_magnitude(version: Version, read: Reader, factor: float) -> float:
    """From 0.30 on as transformers (PR #56446); before, ``attn_factor`` times the default, and nothing else."""
    rope = read.view.rope
    if version < (0, 30):
        scaled = yarn_attention(factor) if read.flag("apply_yarn_scaling", True) or "mrope_section" in rope else 1.0
        return scaled * read.get("attn_factor", 1.0)
    given = read.optional("attention_factor")
    if given is not None:
        return given
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return recipes.magnitude_ratio(factor, read.need("mscale"), read.need("mscale_all_dim"))
    return yarn_attention(factor)


def _mrope_widening(version: Version, view: View) -> tuple[int, tuple[str, ...]]:
    """``MRotaryEmbedding`` makes its table 4 times as long before the ramp is computed from that length.

    0.33's Qwen3-VL and Qwen3.5 classes ask for a factor of 1; every other M-RoPE model keeps 4.
    """
    if "mrope_section" not in view.rope:
        return 1, ()
    if version >= (0, 33) and view.model_type.startswith(("qwen3_vl", "qwen3_5")):
        return 1, ()
    return 4, (f"with M-RoPE the YaRN ramp is computed from 4 times {ORIGINAL}",)


def _deepseek(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    """``deepseek_scaling_rope.py``: ``g(mscale, default 1) / g(mscale_all_dim, default 0)``."""
    factor = read.need("factor")
    attention = recipes.magnitude_ratio(factor, read.get("mscale", 1.0), read.get("mscale_all_dim", 0.0))
    result = recipes.yarn(
        view.spectrum(view.share()),
        factor,
        read.need(ORIGINAL),
        attention * read.get("attn_factor", 1.0),
        view.where,
        beta_fast=read.get("beta_fast", 32.0),
        beta_slow=read.get("beta_slow", 1.0),
    )
    return result, (), "never"


def _longrope(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    """The long list when max_model_len exceeds the original context, which nobody gets without asking (PR #27431)."""
    original = read.need(ORIGINAL)
    result = phi3_longrope(view, read, length is not None and length > original)
    old = engine.version < (0, 11)
    note = "" if old else f"one list for every sequence: long_factor once --max-model-len exceeds {original:g}"
    return result, (note,) if note else (), "per batch" if old else "at load"


def phi3_longrope(view: View, read: Reader, beyond: bool) -> Frequencies:
    """``Phi3LongRoPEScaledRotaryEmbedding``: magnitudes of their own, else from the ratio of the contexts."""
    rope = view.spectrum(view.share())
    pairs = rope.inv_freq.size
    lists = {False: read.factors("short_factor", pairs), True: read.factors("long_factor", pairs)}
    original = read.need(ORIGINAL)
    usual = recipes.longrope_magnitude((view.max_position or original) / original, original)
    own = read.optional("long_mscale" if beyond else "short_mscale")
    return recipes.factors(rope, lists[beyond], usual if own is None else own, view.where)


def _llama3(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    result = recipes.llama3(
        view.spectrum(view.share()),
        read.need("factor"),
        read.need(ORIGINAL),
        read.need("low_freq_factor"),
        read.need("high_freq_factor"),
        view.where,
    )
    return result, (), "never"


def _proportional(engine: Vllm, view: View, read: Reader, length: int | None) -> Result:
    return recipes.proportional(view.spectrum(), view.partial, 1.0, view.where), (), "never"


_TYPES: dict[str, Callable[[Vllm, View, Reader, int | None], Result]] = {
    "default": _default,
    "linear": _linear,
    "ntk": _ntk,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "deepseek_yarn": _deepseek,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}


def _old(view: View) -> View:
    """Before 0.12: the dict of line 4, with the trained context from beside it."""
    rope = dict(view.rope)
    if view.original and ORIGINAL not in rope:
        rope[ORIGINAL] = view.original
    return replace(view, rope=rope, kind=rope.get("rope_type", rope.get("type")) if rope else "default")
