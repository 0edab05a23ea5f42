"""What a config leaves out: the defaults of transformers' config classes, by model type and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Defaults:
    """The class defaults of one model type.

    Attributes:
        known: whether transformers has the model type.
        values: rope keys with the class's values.
        rotates: whether the text model has RoPE.
        layout: ``half`` or ``interleaved``.
        dimension: ``head_dim`` or ``qk_rope_head_dim``: what the rotary width starts from.
        fixed_head_dim: whether the class gives ``head_dim`` a number instead of deriving it.
        partial_by_default: whether ``partial_rotary_factor`` counts without scaling.
    """

    known: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)
    rotates: bool = False
    layout: str = "half"
    dimension: str = "head_dim"
    fixed_head_dim: bool = False
    partial_by_default: bool = True


def lookup(model_type: str, version: str | None, notes: list[str]) -> Defaults:
    """The defaults of ``model_type`` as of the transformers ``version`` that wrote the config."""
    return Defaults()
