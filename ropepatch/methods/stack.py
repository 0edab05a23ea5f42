"""Several methods, one on top of the other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum


@dataclass(frozen=True)
class Stack(Method):
    """Each stage starts from the frequencies that the one before left."""

    stages: tuple[Method, ...]

    name = "stack"
    title = "methods on top of each other"
    formula = "stage by stage"
    paper = "llama.cpp applies rope_freqs.weight first and YaRN on top"
    reach = "that of its stages"
    fine_tuning = "as its stages"
    about = "What NAME+NAME and --existing compose come to."
    identity_at_one = False
    never_faster = False
    applicable = False

    def __post_init__(self) -> None:
        if len(self.stages) < 2:
            raise ParameterError("a stack needs at least two stages")

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """All stages, in order."""
        for stage in self.stages:
            result = stage.apply(rope, length)
            rope = dataclasses.replace(rope, inv_freq=result.inv_freq, attention_scale=result.attention_scale)
        return Frequencies(rope.inv_freq, rope.attention_scale)

    def to_json(self) -> dict[str, Any]:
        """``{"method": "yarn+resonance", "stages": […]}``."""
        return {
            "method": "+".join(stage.name for stage in self.stages),
            "stages": [stage.to_json() for stage in self.stages],
        }

    @property
    def static(self) -> bool:
        """Whether every stage is."""
        return all(stage.static for stage in self.stages)


def stages(scaling: Method) -> tuple[Method, ...]:
    """The methods on top of each other; a single one where it is no stack."""
    return scaling.stages if isinstance(scaling, Stack) else (scaling,)
