"""Fine-tuning recipes as papers and releases report them; ropepatch has run none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One published run.

    Attributes:
        methods: the methods that it is a run of.
        model: what was trained.
        lengths: from which context to which.
        factor: the extension.
        steps: optimiser steps, as reported.
        rate: learning rate.
        batch: sequences a step.
        sequence: length of the training sequences, or what the data was.
        source: where it is reported.
    """

    methods: tuple[str, ...]
    model: str
    lengths: str
    factor: float
    steps: str
    rate: str
    batch: str
    sequence: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "methods": list(self.methods)}


_R = Recipe
RECIPES = (
    _R(("linear",), "LLaMA 7B to 65B", "2k to 8k-32k", 16, "1000 (passkey at 200)", "2e-5; 33B, 65B: 1e-5", "64-128",
       "target length", "Position Interpolation, arXiv 2306.15595"),
    _R(("yarn",), "Llama 2 7B, 13B", "4k to 64k", 16, "400", "2e-5", "64", "PG19 in chunks of 64k",
       "YaRN, arXiv 2309.00071"),
    _R(("yarn",), "Llama 2 7B, 13B", "4k to 128k", 32, "400 at 16x, then 200 at 32x", "2e-5", "64",
       "PG19 in chunks of 64k", "YaRN, arXiv 2309.00071"),
    _R(("longrope",), "Llama 2 7B", "4k to 256k", 64, "400 with the 128k factors, 600 with the 256k ones", "2e-5", "32",
       "RedPajama in segments of 128k, then 256k", "LongRoPE, arXiv 2402.13753"),
    _R(("longrope",), "Llama 3 8B", "8k to 128k", 16, "10 billion tokens", "not reported here", "not reported here",
       "up to 128k; short documents keep the original RoPE", "LongRoPE2, arXiv 2502.20082"),
    _R(("theta", "ntk", "ntk-critical"), "Llama 2 Long (base 1e4 to 5e5)", "4k to 32k", 8, "400 billion tokens",
       "not reported here", "not reported here", "long texts upsampled",
       "Effective Long-Context Scaling, arXiv 2309.16039"),
)  # fmt: skip


def of(methods: Sequence[str], factor: float) -> list[Recipe]:
    """The runs of any of ``methods``, those that reach ``factor`` first and then the farther one first."""
    fitting = [recipe for recipe in RECIPES if set(recipe.methods) & set(methods)]
    return sorted(fitting, key=lambda recipe: (recipe.factor < factor, abs(recipe.factor - factor)))
