"""Meta's ``params.json``, and ExecuTorch's and tt-metal's dialects of it.

llama-models (``models/llama3/model.py``) has no numbers in the file: ``use_scaled_rope`` switches on a scaling that
stands in the code. Llama 4's code and the descendants read the factor from the file, each under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ropepatch.containers import json_text
from ropepatch.dialects import inv_freq_tensors
from ropepatch.dialects.base import Lowering
from ropepatch.dialects.params_json import MAX_CONTEXT, MAX_LAYERS, Params, changed_base, refuse
from ropepatch.errors import InputError, MethodUnsupported
from ropepatch.methods.base import Method, ParameterError
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.none import NoScaling
from ropepatch.patch import Edit
from ropepatch.profile import RopeGroup, RopeProfile, Source

THETA_KEYS = ("rope_theta", "rope_freq_base")
FACTOR_KEYS = ("rope_scaling_factor", "rope_scale_factor")
HIGH_KEYS = ("rope_high_freq_factor", "high_freq_factor")
INTERVAL_KEYS = ("nope_layer_interval", "no_rope_layer_interval")
_LIST_KEYS = ("rope_scaling_short_factor", "rope_scaling_long_factor")
#: the numbers in llama3/model.py and llama4/args.py
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192
_FACTOR, _FACTOR_32, _FACTOR_4 = 8.0, 32.0, 16.0
#: widths of Llama 3.2 1B and 3B, whose factor is 32 (llama-models 166 and 241, executorch 7265)
_SMALL = {(2048, 16), (3072, 28)}
_FITS = "ntk, ntk-critical, theta, none and llama3"


class MetaDialect(Params):
    """An opened folder with Meta's ``params.json``."""

    kind: ClassVar[str] = "meta"

    @classmethod
    def open(cls, root: Path, path: Path) -> MetaDialect:
        """Read ``path``, which describes the checkpoint in ``root``."""
        return cls(root, path, json_text.read(path)[1])

    @property
    def fourth(self) -> bool:
        """Whether the file is read by Llama 4's code."""
        return any(self.given.get(key) is not None for key in ("moe_args", "nope_layer_interval", "vision_args"))

    def lift(self, ref: str) -> RopeProfile:
        """The profile that the file describes."""
        notes: list[str] = []
        scaling = self._scaling(notes)
        groups = self._groups(self._theta(notes), scaling)
        for group in groups.values():
            self._check(group)
        declared = self.context()
        if declared is None:
            notes.append("the context is not written; pass --original-length to extend it")
        if self.given.get("attn_temperature_tuning"):
            notes.append("attn_temperature_tuning scales the queries of the layers without RoPE")
        original = getattr(scaling, "original_max_position_embeddings", None)
        profile = RopeProfile(
            source=Source(ref, "meta", str(self.given.get("model_type") or ("llama4" if self.fourth else "llama"))),
            groups=groups,
            trained_context=declared if original is None else original,
            declared_context=declared,
            nope_layers=self._nope_layers(),
        )
        notes += inv_freq_tensors.attach(self, profile)
        return RopeProfile(**{**vars(profile), "notes": tuple(notes)})

    def _theta(self, notes: list[str]) -> float:
        theta = self.number(*THETA_KEYS)
        if theta is None:
            theta = 10000.0
            notes.append("rope_theta is not written; 10000 is taken, as the code of Llama 2 does")
        return float(theta)

    def _scaling(self, notes: list[str]) -> Method:
        if any(self.given.get(key) is not None for key in _LIST_KEYS):
            return self._longrope()
        scaled = self.given.get("use_scaled_rope")
        if scaled is not None and not isinstance(scaled, bool):
            raise InputError(f"is {scaled!r:.60}, not true or false", where=f"{self.path}: use_scaled_rope")
        if not scaled:
            if self.number(*FACTOR_KEYS):
                notes.append("the factor has no effect: use_scaled_rope is not true")
            return NoScaling()
        factor = self.number(*FACTOR_KEYS)
        high = self.number(*HIGH_KEYS) or (_LOW if self.fourth else _HIGH)
        try:
            return Llama3(float(factor or self._implied(notes)), _ORIGINAL, _LOW, float(high))
        except ParameterError as error:
            raise InputError(str(error), where=f"{self.path}: use_scaled_rope") from None

    def _implied(self, notes: list[str] | None = None) -> float:
        """The factor of a file that has none."""
        if self.fourth:
            return _FACTOR_4
        shape = (self.given.get("dim"), self.given.get("n_layers"))
        if all(isinstance(number, int) for number in shape) and shape in _SMALL:
            if notes is not None:
                notes.append(
                    "the factor is not written; 32 is taken for the shape of Llama 3.2 1B and 3B, as transformers, "
                    "llama.cpp and ExecuTorch do; Meta's reference code computes 8 for it"
                )
            return _FACTOR_32
        return _FACTOR

    def _longrope(self) -> Method:
        """ExecuTorch's spelling of Phi's factors."""
        where = f"{self.path}: {_LIST_KEYS[0]}"
        original = self.whole("original_max_position_embeddings", limit=MAX_CONTEXT)
        if original is None:
            raise InputError("needs original_max_position_embeddings", where=where)
        values: dict[str, Any] = {"original_max_position_embeddings": original}
        for key, name in zip(_LIST_KEYS, ("short_factor", "long_factor"), strict=True):
            if not isinstance(self.given.get(key), list):
                raise InputError("must be a list of numbers", where=f"{self.path}: {key}")
            values[name] = self.given[key]
        declared, attention = self.context(), self.number("rope_scaling_attention_factor")
        if declared is not None:
            values["factor"] = declared / original
        if attention is not None:
            values["attention_factor"] = attention
        try:
            return LongRope.from_parameters(values)
        except ParameterError as error:
            raise InputError(str(error), where=where) from None

    def _groups(self, theta: float, scaling: Method) -> dict[str, RopeGroup]:
        head = self.head_dim()
        partial = self.number("partial_rotary_factor", limit=1.0) or 1.0
        layout = "half" if self.given.get("use_hf_rope") else "interleaved"
        main = RopeGroup(theta, max(2, int(head * partial) // 2 * 2), head, layout, scaling=scaling)
        full, sliding = self._layers_of("full_attention"), self._layers_of("sliding_attention")
        local = self.number("local_rope_theta")
        if local is None or not sliding:
            both = None if full is None else tuple(sorted({*full, *(sliding or ())}))
            whole = both is None or len(both) == self.layers()
            return {"default": main if whole else _on(main, both, None)}
        window = self.whole("sliding_window", limit=MAX_CONTEXT)
        return {
            "full_attention": _on(main, full, None),
            "sliding_attention": _on(RopeGroup(float(local), main.rotary_dim, head, layout), sliding, window),
        }

    def _layers_of(self, kind: str) -> tuple[int, ...] | None:
        types = self.given.get("layer_types")
        if not isinstance(types, list) or len(types) > MAX_LAYERS:
            return None
        return tuple(index for index, name in enumerate(types[: self.layers() or None]) if name == kind)

    def _nope_layers(self) -> tuple[int, ...] | None:
        interval = self.whole(*INTERVAL_KEYS, limit=MAX_LAYERS)
        if interval is None:
            return None
        return tuple(index for index in range(self.layers()) if (index + 1) % interval == 0) or None

    def _check(self, group: RopeGroup) -> None:
        try:
            group.scaling.apply(group.spectrum(), None)
            group.scaling.apply(group.spectrum(), 1 << 30)
        except ParameterError as error:
            raise InputError(str(error), where=str(self.path)) from None

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The edits of ``params.json`` that make its readers compute ``after``."""
        if options.bake:
            raise MethodUnsupported("params.json has no per-pair factors to bake into", where=str(self.path))
        wanted: dict[str, Any] = {}
        for name, group in after.groups.items():
            if group != before.groups[name]:
                wanted |= self._spell(name, group, before.groups[name])
        wanted |= self.context_values(after.declared_context, add=False)
        notes = []
        if after.declared_context and self.context() is None:
            notes.append(
                f"params.json does not say the context: give the engine {after.declared_context} itself (max_seq_len)"
            )
        tensors, more = inv_freq_tensors.edits(self, before, after)
        return [*self.edits(wanted), *tensors], [*notes, *more]

    def _spell(self, name: str, group: RopeGroup, old: RopeGroup) -> dict[str, Any]:
        theta = changed_base(group)
        if theta is not None:
            key = next((key for key in THETA_KEYS if self.given.get(key) is not None), THETA_KEYS[0])
            key = "local_rope_theta" if name == "sliding_attention" else key
            wanted: dict[str, Any] = {} if theta == old.rope_theta else {key: theta}
            if name != "sliding_attention":
                wanted |= {"use_scaled_rope": False} if self.given.get("use_scaled_rope") else {}
                wanted |= dict.fromkeys((*_LIST_KEYS, "rope_scaling_attention_factor"))
            return wanted
        if isinstance(group.scaling, Llama3) and name != "sliding_attention":
            return self._spell_llama3(group.scaling, group)
        raise refuse(self.path, group, _FITS)

    def _spell_llama3(self, scaling: Llama3, group: RopeGroup) -> dict[str, Any]:
        factor_key = next((key for key in FACTOR_KEYS if key in self.given), None)
        high_key = next((key for key in HIGH_KEYS if key in self.given), None)
        if factor_key is None and self.fourth:
            factor_key, high_key = FACTOR_KEYS[0], HIGH_KEYS[0]
        fixed = {
            "original_max_position_embeddings": (scaling.original_max_position_embeddings, _ORIGINAL),
            "low_freq_factor": (scaling.low_freq_factor, _LOW),
        }
        if factor_key is None:
            fixed["factor"] = (scaling.factor, self._implied())
        if high_key is None:
            fixed["high_freq_factor"] = (scaling.high_freq_factor, _LOW if self.fourth else _HIGH)
        self._refuse_other(fixed)
        wanted: Mapping[str, Any] = {
            "use_scaled_rope": True,
            **dict.fromkeys((*_LIST_KEYS, "rope_scaling_attention_factor")),
            **({factor_key: float(scaling.factor)} if factor_key else {}),
            **({high_key: float(scaling.high_freq_factor)} if high_key else {}),
        }
        return dict(wanted)

    def _refuse_other(self, fixed: Mapping[str, tuple[float, float]]) -> None:
        wrong = {name: have for name, have in fixed.items() if have[0] != have[1]}
        if wrong:
            needs = ", ".join(f"{name} {value[1]:g}" for name, value in wrong.items())
            raise MethodUnsupported(
                f"use_scaled_rope stands for {needs} and nothing else, which is fixed in Meta's code",
                where=str(self.path),
                hint="ntk and theta can be held by rope_theta",
            )


def _on(group: RopeGroup, layers: tuple[int, ...] | None, window: int | None) -> RopeGroup:
    return RopeGroup(**{**vars(group), "layers": layers, "window": window})
