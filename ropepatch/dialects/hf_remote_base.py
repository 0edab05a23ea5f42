"""Where the code that comes with a checkpoint wants its base written: the section and the base to values by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ropepatch.dialects.hf_remote_reading import BASE, inner
from ropepatch.errors import MethodUnsupported

if TYPE_CHECKING:
    from ropepatch.dialects.hf_section import Section

Spelling = Callable[["Section", float], dict[tuple[str, ...], Any]]


def ratio(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    times = theta / BASE
    return {("rope_ratio",): int(times) if times == int(times) else times}


def key(name: str) -> Spelling:
    def spell(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
        names = [name, "rope_theta"] if section.given.get("rope_theta") is not None else [name]
        return {(each,): theta for each in names}

    return spell


def in_attention(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    return {("attn_config", "rope_theta"): theta} if inner(section, "attn_config").get("rope_theta") else {}


def stretched(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    """The base is written out: ``alpha``, which stretched it, goes with the old scaling."""
    from ropepatch.dialects.hf_values import rope_dict

    rope, key = rope_dict(section)
    return {("rope_theta",): theta} if rope.get("alpha") and key == ("rope_scaling",) else {}


def in_code(section: Section, theta: float) -> dict[tuple[str, ...], Any]:
    if section.given.get("rope_theta") is not None and section.model_type == "xverse":
        return {("rope_theta",): theta}
    raise MethodUnsupported(
        f"the base {BASE:g} stands in the code of {section.model_type}, which reads none from the config",
        where=section.where,
        hint="convert the model to a GGUF, or to a model type whose config has a base",
    )
