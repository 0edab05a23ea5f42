"""A base that is set by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import Array, Frequencies, Method, ParameterError, Spectrum


def rebased(rope: Spectrum, rope_theta: float) -> Array:
    """``inv_freq`` as it would be under another base, keeping what earlier stages did to each pair."""
    exponent = 2.0 * np.arange(rope.inv_freq.size, dtype=np.float64) / rope.rotary_dim
    scaled: Array = rope.inv_freq * (rope_theta / rope.rope_theta) ** -exponent
    return scaled


@dataclass(frozen=True)
class Theta(Method):
    """Adjusted base frequency: θ set by hand."""

    rope_theta: float

    name = "theta"
    rank = 130
    written = ("base", "base")
    title = "set the base (ABF)"
    formula = "inv_freq[i] = θ'^(-2i/d)"
    paper = "Effective Long-Context Scaling (ABF), arXiv 2309.16039; base bounds: arXiv 2405.14591"
    reach = "as far as a fine-tune at the new base takes it"
    fine_tuning = "yes: published uses raise θ and then train on"
    about = (
        "Replaces the base and nothing else. This is what long-context releases do before they continue training "
        "(Llama 2 Long 1e4 to 5e5, Qwen2.5-1M 1e6 to 1e7). Without training it is a blunt form of NTK-aware scaling. "
        "Use --set rope_theta=1000000."
    )
    never_faster = False
    identity_at_one = False

    def __post_init__(self) -> None:
        if not self.rope_theta > 1:
            raise ParameterError(f"theta rope_theta must be above 1, not {self.rope_theta:g}")

    def theta(self, rope: Spectrum) -> float:
        """The base that was set."""
        return self.rope_theta

    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """Plain RoPE at the new base."""
        return Frequencies(rebased(rope, self.rope_theta), rope.attention_scale)
