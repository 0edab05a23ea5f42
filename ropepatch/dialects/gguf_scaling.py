"""The method that a GGUF's scaling keys and factor tensors come to, as llama.cpp reads them."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ropepatch.dialects import factors as factor_lists
from ropepatch.dialects import gguf_magnitude as magnitude
from ropepatch.errors import InputError
from ropepatch.methods.base import Method
from ropepatch.methods.factors import Factors
from ropepatch.methods.linear import Linear
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.none import NoScaling
from ropepatch.methods.stack import Stack
from ropepatch.methods.yarn import Yarn
from ropepatch.profile import RopeGroup
from ropepatch.runtimes.llama_cpp_table import FREQS, LONG, SHORT, Row

if TYPE_CHECKING:
    from ropepatch.dialects.gguf import GgufDialect

SCALING_TYPES = ("none", "linear", "yarn", "longrope")


def read(
    dialect: GgufDialect, row: Row, group: RopeGroup, declared: int | None, notes: list[str]
) -> tuple[Method, tuple[float, ...] | None]:
    """The method in force on full-attention layers, and the divisors when a tensor carries it."""
    kind = dialect.header.get(dialect.key("rope.scaling.type"))
    if kind is not None and kind not in SCALING_TYPES:
        raise InputError(
            f"is {kind!r}; llama.cpp aborts on it",
            where=f"{dialect.path}: {dialect.key('rope.scaling.type')}",
            hint=f"it knows {', '.join(SCALING_TYPES)}",
        )
    factor = float(dialect.number("rope.scaling.factor") or 1.0)
    if kind == "none" and factor != 1:
        notes.append(f"rope.scaling.factor {factor:g} has no effect: rope.scaling.type is none")
        factor = 1.0
    attention, _ = magnitudes(dialect, row, kind == "yarn", factor)
    original = int(dialect.number("rope.scaling.original_context_length") or declared or 0)
    stages: list[Method] = []
    tensor = _tensor_stage(dialect, row, group, original, kind, notes)
    if tensor is not None:
        stages.append(tensor)
    if kind == "yarn":
        stages.append(_yarn(dialect, row, factor, original, attention))
    else:
        if factor != 1:
            stages.append(Linear(factor))
        if attention != 1:
            stages = _with_attention(stages, attention, group, (declared or 0) / original if original else 0.0)
    scaling = stages[0] if len(stages) == 1 else Stack(tuple(stages)) if stages else NoScaling()
    kept = dialect.factors(FREQS) if isinstance(tensor, Llama3) else None
    return scaling, kept


def _yarn(dialect: GgufDialect, row: Row, factor: float, original: int, attention: float) -> Yarn:
    betas: dict[str, Any] = {}
    if row.betas:
        for name in ("beta_fast", "beta_slow"):
            value = dialect.number(f"rope.scaling.yarn_{name}")
            if value is not None:
                betas[name] = float(value)
    held, (_, softmax) = dialect.log_multiplier(row), magnitudes(dialect, row, True, factor)
    if held:
        betas |= magnitude.mscales(row, factor, attention, softmax, held)
    usual = Yarn(factor, original, **betas)
    if math.isclose(usual.attention, attention, rel_tol=1e-6):
        return usual
    return dataclasses.replace(usual, attention_factor=attention)


def magnitudes(dialect: GgufDialect, row: Row, yarn: bool, factor: float) -> tuple[float, float]:
    """The factor on cos and sin, and the one on the softmax scale."""
    attn_factor = float(dialect.number("rope.scaling.attn_factor") or 1.0)
    return magnitude.read(row, yarn, factor, attn_factor, dialect.log_multiplier(row))


def _tensor_stage(
    dialect: GgufDialect, row: Row, group: RopeGroup, original: int, kind: str | None, notes: list[str]
) -> Method | None:
    present = [name for name in (FREQS, LONG, SHORT) if dialect.holder(name)]
    if not present:
        return None
    wanted = row.factor_tensors(kind)
    for name in present:
        if name not in wanted and row.factors != "x":
            notes.append(f"llama.cpp does not look for {name} here and will refuse the file")
    for name in present:
        if (count := len(dialect.factors(name))) != group.rotary_dim // 2:
            raise InputError(
                f"has {count} values for {group.rotary_dim // 2} rotated pairs", where=f"{dialect.path}: {name}"
            )
    if row.factors == "x":  # accepted and ignored
        notes.append(f"llama.cpp loads {', '.join(present)} for {dialect.architecture} and does not use it")
        return None
    if FREQS in wanted and FREQS in present:
        values = dialect.factors(FREQS)
        if all(value == 1 for value in values):
            return None
        return factor_lists.recognise(group.spectrum(), np.asarray(values)) or Factors(values)
    if LONG in wanted and LONG in present:
        long = dialect.factors(LONG)
        short = dialect.factors(SHORT) if SHORT in present else (1.0,) * len(long)
        return LongRope(short, long, original, attention_factor=1.0)
    return None


def _with_attention(stages: list[Method], attention: float, group: RopeGroup, stretch: float) -> list[Method]:
    """``attn_factor`` without YaRN, put on the stage that can carry it; LongRoPE's own one is named by its factor."""
    if stages and isinstance(stages[0], LongRope):
        usual = dataclasses.replace(stages[0], factor=stretch or None, attention_factor=None)
        own = math.isclose(usual.attention, attention, rel_tol=1e-6)
        return [usual if own else dataclasses.replace(stages[0], attention_factor=attention), *stages[1:]]
    if stages and isinstance(stages[0], Factors):
        return [dataclasses.replace(stages[0], attention_factor=attention), *stages[1:]]
    return [*stages, Factors((1.0,) * (group.rotary_dim // 2), attention_factor=attention)]
