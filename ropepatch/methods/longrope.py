"""LongRoPE: two lists of per-pair factors that a search found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, Target
from ropepatch.methods.factors import check_list, divide


@dataclass(frozen=True)
class LongRope(Method):
    """LongRoPE: one list of divisors up to the original context, another beyond it."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None

    name = "longrope"
    rank = 90
    trained_with = True
    needs = "needs lists of factors that a search found: apply --method longrope --factors FILE"
    title = "LongRoPE (searched factors)"
    formula = "inv_freq'[i] = inv_freq[i] / f[i], f = long_factor beyond T, else short_factor; m = √(1 + ln s / ln T)"
    paper = "LongRoPE, arXiv 2402.13753; LongRoPE2, arXiv 2502.20082"
    reach = "8x without training; 2M tokens with it"
    fine_tuning = "400 to 1000 steps in the paper"
    about = (
        "Two lists of per-pair divisors found by search, given with --factors FILE (JSON with short_factor and "
        "long_factor, CSV with one value a line, or a config.json that has them). Runtimes differ in when they "
        "switch: transformers by the longest position of a forward pass, SGLang by the batch, vLLM, llama.cpp and "
        "exllamav3 once at load, mlx-lm never (always long)."
    )
    identity_at_one = False
    never_faster = False

    def __post_init__(self) -> None:
        check_list("longrope short", self.short_factor)
        check_list("longrope long", self.long_factor)
        if self.original_max_position_embeddings < 2:
            raise ParameterError("longrope original_max_position_embeddings must be at least 2")
        if self.factor is not None and self.factor <= 0:
            raise ParameterError(f"longrope factor must be above 0, not {self.factor:g}")

    @classmethod
    def extend(cls, target: Target, settings: Mapping[str, Any]) -> LongRope:
        """Needs ``long_factor`` among the settings; without ``short_factor`` short inputs are left as they are."""
        if "long_factor" not in settings:
            raise ParameterError("longrope needs its factors; pass --factors FILE")
        ones = [1.0] * target.spectrum.inv_freq.size
        values = {"short_factor": ones, **settings}
        values.setdefault("original_max_position_embeddings", target.original)
        values.setdefault("factor", target.factor)
        if values["original_max_position_embeddings"] is None:
            raise ParameterError("longrope needs the original context; pass --original-length")
        method = cls.from_parameters(values)
        divide(target.spectrum, method.short_factor)
        divide(target.spectrum, method.long_factor)
        return method

    @property
    def attention(self) -> float:
        """The factor on cos and sin (the same for both lists)."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor is None or self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Divided by the short list up to the original context, by the long list beyond it."""
        long = length is not None and length > self.original_max_position_embeddings
        factors = self.long_factor if long else self.short_factor
        return Frequencies(divide(rope, factors), rope.attention_scale * self.attention)

    @property
    def static(self) -> bool:
        """Whether both lists are the same."""
        return self.short_factor == self.long_factor
