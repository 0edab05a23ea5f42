"""Sliding layers in a GGUF: what llama.cpp makes of them, and which patches would change them by accident."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

from ropepatch.errors import MethodUnsupported
from ropepatch.frequencies import group_frequencies
from ropepatch.methods.factors import Factors
from ropepatch.methods.none import NoScaling
from ropepatch.profile import RopeGroup, RopeProfile
from ropepatch.runtimes.llama_cpp_table import Row

if TYPE_CHECKING:
    from ropepatch.dialects.gguf import GgufDialect

Keys: TypeAlias = "dict[str, tuple[str, Any] | None]"

#: as many as llama.cpp takes
MAX_LAYERS = 512


def groups(dialect: GgufDialect, row: Row, full: RopeGroup) -> dict[str, RopeGroup]:
    """The rope groups by name, given the full-attention layers; one ``default`` where a patch reaches all alike."""
    window = dialect.number("attention.sliding_window")
    if row.swa == "-" or not window:
        return {"default": dataclasses.replace(full, scalable=False if row.fixed else None)}
    slide, rest = layers(dialect)
    local = dataclasses.replace(_sliding(dialect, row, full), window=int(window), layers=slide)
    if row.nope == "full":
        return {"default": local}
    if row.swa == "same" and dataclasses.replace(local, window=None, layers=None) == full:
        return {"default": full}
    return {"full_attention": dataclasses.replace(full, layers=rest), "sliding_attention": local}


def _sliding(dialect: GgufDialect, row: Row, full: RopeGroup) -> RopeGroup:
    theta = None if row.swa_base == "main" else dialect.number("rope.freq_base_swa")
    rotary = dialect.number("rope.dimension_count_swa") or full.rotary_dim
    local = dataclasses.replace(
        full,
        rope_theta=float(theta) if theta else (10000.0 if row.swa_base == "10000" else full.rope_theta),
        rotary_dim=dialect.rotated("rope.dimension_count_swa", rotary),
    )
    if row.swa == "same":
        return local
    attention = float(dialect.number("rope.scaling.attn_factor") or 1.0) if row.swa == "one" else 1.0
    plain = (1.0,) * (local.rotary_dim // 2)
    return dataclasses.replace(
        local,
        scaling=NoScaling() if attention == 1 else Factors(plain, attention_factor=attention),
        factors=None,
        scalable=False,
    )


def layers(dialect: GgufDialect) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Sliding and full layers where the file says which: flags, or that every n-th is full."""
    key = dialect.key("attention.sliding_window_pattern")
    pattern: list[Any] | None = dialect.header.array(key)
    period, count = dialect.header.get(key), dialect.number("block_count")
    if isinstance(period, int) and 1 < period <= MAX_LAYERS and count and count <= MAX_LAYERS:
        pattern = [index % period < period - 1 for index in range(int(count))]
    if not pattern:
        return None, None
    return (
        tuple(i for i, slides in enumerate(pattern) if slides),
        tuple(i for i, slides in enumerate(pattern) if not slides),
    )


def check(dialect: GgufDialect, row: Row, before: RopeProfile, after: RopeProfile) -> None:
    """Refuse a patch whose keys reach layers that it shall leave alone, or do not reach those that it means.

    Raises:
        MethodUnsupported: with what the engine does instead.
    """
    if "sliding_attention" not in after.groups:
        return
    if after.groups["sliding_attention"] != before.groups["sliding_attention"]:
        raise MethodUnsupported(
            f"the keys of {dialect.architecture} scale its full-attention layers, and none the sliding ones alone",
            where=str(dialect.path),
            hint="leave out --group",
        )
    full = after.groups["full_attention"].scaling
    if row.swa_base == "main" and full.rebases():
        raise MethodUnsupported(
            f"llama.cpp takes rope.freq_base for the sliding layers of {dialect.architecture} too, which would change",
            where=str(dialect.path),
            hint="linear and yarn change the full-attention layers alone",
        )
    same = row.swa == "same" and full != after.groups["sliding_attention"].scaling
    if same and full.name in ("linear", "yarn"):
        raise MethodUnsupported(
            f"llama.cpp applies the factor to the sliding layers of {dialect.architecture} too",
            where=str(dialect.path),
            hint="ntk or theta changes the full-attention layers alone",
        )


def check_magnitude(dialect: GgufDialect, row: Row, after: RopeProfile, keys: Keys) -> None:
    """Refuse an ``attn_factor`` that sliding layers would take as well.

    Raises:
        MethodUnsupported: it would change them.
    """
    sliding = after.groups.get("sliding_attention")
    if row.swa != "one" or sliding is None:
        return
    written = keys.get("rope.scaling.attn_factor")
    if abs((written[1] if written else 1.0) - group_frequencies(sliding).attention_scale) > 1e-6:
        raise MethodUnsupported(
            f"llama.cpp multiplies rope.scaling.attn_factor into the sliding layers of {dialect.architecture} too",
            where=str(dialect.path),
            hint="yarn without attention_factor, linear, ntk and theta need no such key",
        )


def keep_base(dialect: GgufDialect, row: Row, before: RopeProfile, old: RopeGroup, keys: Keys) -> None:
    """Keep a group of sliding layers at its base where llama.cpp would copy a changed one; else let them follow."""
    base = keys.get("rope.freq_base")
    absent = dialect.header.get(dialect.key("rope.freq_base_swa")) is None
    if not base or row.swa_base in ("-", "main"):
        return
    if "sliding_attention" not in before.groups:
        if not absent:
            keys["rope.freq_base_swa"] = base
    elif absent and row.swa_base == "copy":
        keys["rope.freq_base_swa"] = ("FLOAT32", old.rope_theta)
