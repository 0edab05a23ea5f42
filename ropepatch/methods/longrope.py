"""Per-pair factors: LongRoPE's two lists, and lists that were found in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropepatch.methods.base import Array, Frequencies, Method, ParameterError, Spectrum, Target


def divide(rope: Spectrum, factors: tuple[float, ...] | None) -> Array:
    """``inv_freq / factors``; None leaves the frequencies alone.

    Raises:
        ParameterError: there are more or fewer factors than rotated pairs.
    """
    if factors is None:
        return rope.inv_freq
    if len(factors) != rope.inv_freq.size:
        raise ParameterError(f"{len(factors)} factors for {rope.inv_freq.size} rotated pairs")
    divided: Array = rope.inv_freq / np.asarray(factors, dtype=np.float64)
    return divided


def check_list(name: str, factors: tuple[float, ...] | None) -> None:
    """Refuse factors that are not positive and finite."""
    for index, value in enumerate(factors or ()):
        if not math.isfinite(value) or value <= 0:
            raise ParameterError(f"{name} factor {index} must be a positive number, not {value:g}")


@dataclass(frozen=True)
class LongRope(Method):
    """LongRoPE: one list of divisors up to the original context, another beyond it."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None

    name = "longrope"
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


@dataclass(frozen=True)
class Factors(Method):
    """Divisors that a file carries without saying which method made them."""

    long: tuple[float, ...]
    short: tuple[float, ...] | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0

    name = "factors"
    title = "per-pair factors found in a file"
    formula = "inv_freq'[i] = inv_freq[i] / f[i]"
    paper = "llama.cpp ggml_rope_ext freq_factors; transformers longrope"
    reach = "whatever their maker searched or computed them for"
    fine_tuning = "unknown"
    about = (
        "How a list of divisors is shown that no known method explains: rope_freqs.weight or rope_factors_long and "
        "_short in a GGUF. To write factors of your own, use --method longrope --factors FILE."
    )
    identity_at_one = False
    never_faster = False
    applicable = False

    def __post_init__(self) -> None:
        check_list("long", self.long)
        check_list("short", self.short)

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Divided by the list that the length calls for."""
        short = self.short is not None and (
            length is None
            or self.original_max_position_embeddings is None
            or length <= self.original_max_position_embeddings
        )
        inv_freq = divide(rope, self.short if short else self.long)
        return Frequencies(inv_freq, rope.attention_scale * self.attention_factor)

    @property
    def static(self) -> bool:
        """Whether there is only one list."""
        return self.short is None or self.short == self.long
