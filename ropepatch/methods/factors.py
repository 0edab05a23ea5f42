"""Per-pair factors that were found in a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import Array, Frequencies, Method, ParameterError, Spectrum


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
class Factors(Method):
    """Divisors that a file carries without saying which method made them."""

    long: tuple[float, ...]
    short: tuple[float, ...] | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0

    name = "factors"
    rank = 150
    written = (None, None)
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
