"""Mistral's own ``params.json``, as mistral-inference and vLLM's and SGLang's Mistral format read it.

Keys: ``configs/mistral.py`` of vLLM, ``mistral_utils.py`` of SGLang, llama.cpp's converter (``--mistral-format``) and
transformers' ``convert_ministral3_weights_to_hf.py``. The ``yarn`` object calls beta_fast ``beta`` and beta_slow
``alpha``; ``apply_scale`` says whether YaRN's magnitude is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ropepatch.containers import json_text
from ropepatch.dialects import inv_freq_tensors
from ropepatch.dialects.base import Lowering
from ropepatch.dialects.params_json import MAX_CONTEXT, MAX_WIDTH, Params, changed_base, refuse
from ropepatch.errors import InputError, MethodUnsupported
from ropepatch.methods.base import Method, ParameterError, yarn_attention
from ropepatch.methods.none import NoScaling
from ropepatch.methods.yarn import Yarn
from ropepatch.patch import Edit
from ropepatch.profile import RopeGroup, RopeProfile, Source

#: Mistral's name of each YaRN parameter, in the order that published files have them
_YARN_KEYS = {
    "original_max_position_embeddings": "original_max_position_embeddings",
    "factor": "factor",
    "apply_scale": "",
    "beta": "beta_fast",
    "alpha": "beta_slow",
}
_FITS = "yarn, ntk, ntk-critical, theta and none"
_CLOSE = 1e-9


class MistralDialect(Params):
    """An opened folder with Mistral's ``params.json``."""

    kind: ClassVar[str] = "mistral"

    @classmethod
    def open(cls, root: Path, path: Path) -> MistralDialect:
        """Read ``path``, which describes the checkpoint in ``root``."""
        return cls(root, path, json_text.read(path)[1])

    @property
    def latent(self) -> bool:
        """Whether attention is DeepSeek's latent one (Mistral Large 3), where only a part of each head rotates."""
        return self.given.get("qk_rope_head_dim") is not None

    def lift(self, ref: str) -> RopeProfile:
        """The profile that the file describes."""
        notes: list[str] = []
        scaling = self._scaling(notes)
        width = self.whole("qk_rope_head_dim", limit=MAX_WIDTH) if self.latent else self.head_dim()
        assert width is not None
        group = RopeGroup(
            rope_theta=self._theta(notes),
            rotary_dim=width,
            head_dim=width,
            layout="interleaved",
            window=self._window(notes),
            scaling=scaling,
            softmax_scale=self._softmax_scale(scaling),
            query_temperature=self._temperature(),
        )
        self._check(group)
        declared = self.context()
        if declared is None:
            notes.append("the context is not written; vLLM and SGLang take 128000. Pass --original-length to extend it")
        profile = RopeProfile(
            source=Source(ref, "mistral", str(self.given.get("model_type") or "mistral"), "params"),
            groups={"default": group},
            trained_context=self._trained(scaling, declared),
            declared_context=declared,
            unrecognised=self._unread(),
        )
        notes += inv_freq_tensors.attach(self, profile)
        return RopeProfile(**{**vars(profile), "notes": tuple(notes)})

    def _theta(self, notes: list[str]) -> float:
        theta = self.number("rope_theta")
        if theta is not None:
            return float(theta)
        # mistral-inference decides by the sliding window that only the first Mistral 7B had.
        theta = 10000.0 if self.given.get("sliding_window") else 1000000.0
        notes.append(f"rope_theta is not written; mistral-inference takes {theta:g}, vLLM 10000")
        return theta

    def _window(self, notes: list[str]) -> int | None:
        value = self.given.get("sliding_window")
        if isinstance(value, list):
            sizes = sorted({repr(size)[:20] for size in value[:1024] if size is not None})
            notes.append(f"layers alternate between full attention and windows of {', '.join(sizes[:3])} tokens")
            return None
        if isinstance(value, str) and value.isdecimal() and len(value) < 16:
            return int(value)
        return self.whole("sliding_window", limit=MAX_CONTEXT)

    def _scaling(self, notes: list[str]) -> Method:
        yarn = self.section("yarn")
        if yarn is None:
            return NoScaling()
        where = f"{self.path}: yarn"
        for key in ("factor", "original_max_position_embeddings"):
            if yarn.get(key) is None:
                raise InputError(f"needs {key}", where=where)
        apply_scale = yarn.get("apply_scale", True)
        if not isinstance(apply_scale, bool):
            raise InputError(f"is {apply_scale!r:.60}, not true or false", where=f"{where}.apply_scale")
        if "apply_scale" not in yarn:
            notes.append("yarn.apply_scale is not written; vLLM takes true")
        values = {name: yarn[key] for key, name in _YARN_KEYS.items() if name and yarn.get(key) is not None}
        if self.latent and apply_scale:
            values |= {"mscale": 1.0, "mscale_all_dim": 1.0}
        elif not apply_scale:
            values["attention_factor"] = 1.0
        try:
            return Yarn.from_parameters(values)
        except ParameterError as error:
            raise InputError(str(error), where=where) from None

    def _softmax_scale(self, scaling: Method) -> float | None:
        everywhere = getattr(scaling, "mscale_all_dim", None)
        if not self.latent or not everywhere:
            return None
        return float(yarn_attention(getattr(scaling, "factor", 1.0), everywhere) ** 2)

    def _temperature(self) -> Mapping[str, float] | None:
        section = self.section("llama_4_scaling")
        if section is None:
            return None
        beta = section.get("beta")
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1e6:
            raise InputError(f"is {beta!r:.60}, not a usable number", where=f"{self.path}: llama_4_scaling.beta")
        length = self.whole("original_max_position_embeddings", limit=MAX_CONTEXT, within=section)
        if length is None:
            raise InputError("needs original_max_position_embeddings", where=f"{self.path}: llama_4_scaling")
        return {"scale": float(beta), "length": float(length)} if beta else None

    def _check(self, group: RopeGroup) -> None:
        try:
            group.scaling.apply(group.spectrum(), None)
        except ParameterError as error:
            raise InputError(str(error), where=f"{self.path}: yarn") from None

    def _trained(self, scaling: Method, declared: int | None) -> int | None:
        original: int | None = getattr(scaling, "original_max_position_embeddings", None)
        if original is not None and declared is not None and original > declared:
            raise InputError(
                f"the original context {original} is larger than the declared one {declared}",
                where=f"{self.path}: yarn.original_max_position_embeddings",
            )
        return declared if original is None else original

    def _unread(self) -> dict[str, Any]:
        found = {f"yarn.{key}": value for key, value in (self.section("yarn") or {}).items() if key not in _YARN_KEYS}
        return found | {key: self.given[key] for key in ("rope_scaling", "rope_parameters") if self.given.get(key)}

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The edits of ``params.json`` that make its readers compute ``after``."""
        group, notes = after.groups["default"], list[str]()
        theta = changed_base(group)
        wanted: dict[str, Any] = {}
        if options.bake:
            raise MethodUnsupported("params.json has no per-pair factors to bake into", where=str(self.path))
        if theta is not None:
            if theta != before.groups["default"].rope_theta:
                wanted["rope_theta"] = theta
            wanted["yarn"] = None
        elif isinstance(group.scaling, Yarn):
            wanted["yarn"] = self._spell(group.scaling, group)
        else:
            raise refuse(self.path, group, _FITS)
        wanted |= self.context_values(after.declared_context, add=True)
        if group.query_temperature:
            notes.append("llama_4_scaling stays: it starts from the length that the model was trained with")
        tensors, more = inv_freq_tensors.edits(self, before, after)
        return [*self.edits(wanted), *tensors], [*notes, *more]

    def _spell(self, scaling: Yarn, group: RopeGroup) -> dict[str, Any]:
        if not scaling.truncate:
            raise MethodUnsupported("params.json cannot say truncate=false", where=str(self.path), hint="leave it true")
        magnitude = scaling.attention
        if self.latent:
            self._refuse_magnitude(magnitude, (1.0,))
            apply_scale = bool(scaling.mscale_all_dim)
        else:
            self._refuse_magnitude(magnitude, (1.0, yarn_attention(scaling.factor)))
            apply_scale = abs(magnitude - 1.0) > _CLOSE or scaling.factor == 1
        return {
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
            "factor": _tidy(scaling.factor),
            "apply_scale": apply_scale,
            "beta": _tidy(scaling.beta_fast),
            "alpha": _tidy(scaling.beta_slow),
        }

    def _refuse_magnitude(self, magnitude: float, possible: tuple[float, ...]) -> None:
        if not any(abs(magnitude - value) <= _CLOSE for value in possible):
            values = " or ".join(f"{value:.6g}" for value in possible)
            raise MethodUnsupported(
                f"params.json cannot hold an attention factor of {magnitude:.6g}",
                where=f"{self.path}: yarn.apply_scale",
                hint=f"here it can be {values} (--set attention_factor={possible[0]:.6g})",
            )


def _tidy(value: float) -> float | int:
    """A whole number without its point, as published files have it."""
    return int(value) if value == int(value) else value
