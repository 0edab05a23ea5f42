"""Dynamic NTK: a base that follows the length."""

from __future__ import annotations

from dataclasses import dataclass

from ropepatch.methods.base import Frequencies, Method, Spectrum, check_factor, check_original
from ropepatch.methods.ntk import ntk_theta
from ropepatch.methods.theta import rebased


@dataclass(frozen=True)
class Dynamic(Method):
    """NTK-aware scaling whose base follows the length at run time."""

    factor: float
    original_max_position_embeddings: int

    name = "dynamic"
    rank = 50
    written = ("key", None)
    title = "dynamic NTK"
    formula = "θ'(L) = θ · (s·L/T - (s-1))^(d/(d-2)) for L > T"
    paper = "Dynamically scaled RoPE (emozilla, 2023); transformers modeling_rope_utils.py"
    reach = "about 2x to 4x without training"
    fine_tuning = "no"
    about = (
        "The base grows with the sequence: nothing changes up to the trained length. Keys that are cached already "
        "keep the older angles. Only runtimes that recompute the table can do it: transformers and mlx-lm do, "
        "llama.cpp has no such thing, vLLM 0.22 and later compute plain RoPE from the same config."
    )
    # Beyond the trained length the base grows with L/T whatever the factor is.
    identity_at_one = False

    def __post_init__(self) -> None:
        check_factor(self.name, self.factor)
        check_original(self.name, self.original_max_position_embeddings)

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Plain RoPE up to the original context, the raised base beyond it."""
        original = self.original_max_position_embeddings
        if length is None or length <= original:
            return Frequencies(rope.inv_freq, rope.attention_scale)
        stretch = self.factor * length / original - (self.factor - 1)
        return Frequencies(rebased(rope, ntk_theta(rope.rope_theta, rope.rotary_dim, stretch)), rope.attention_scale)

    @property
    def static(self) -> bool:
        """False: the base follows the length."""
        return False
