"""What llama.cpp multiplies attention by, and the two keys that set it.

The magnitude falls on cos and sin. DeepSeek's latent-attention graphs (src/models/deepseek2.cpp, deepseek32.cpp,
glm-dsa.cpp) multiply the softmax scale by a second one, whatever the scaling type is. Both follow from the factor s,
``rope.scaling.attn_factor`` a and the log multiplier l, with M(k) = 0.1 k ln s + 1 (`llama_context` in
src/llama-context.cpp, since December 2025)::

    cos and sin    yarn: a M(1) / M(l), or a for deepseek2 with l; other types: a
    softmax scale  the square of: cos and sin's times M(l), and for types other than yarn times M(1) as well
"""

from __future__ import annotations

import math

from ropepatch.methods.base import Method, yarn_attention
from ropepatch.methods.yarn import Yarn
from ropepatch.runtimes.llama_cpp_table import Row

#: magnitudes nearer than this are the same number, once through float32
_ALIKE = 1e-6


def read(row: Row, yarn: bool, factor: float, attn_factor: float, log_multiplier: float | None) -> tuple[float, float]:
    """The factor on cos and sin, and the one on the softmax scale (1 where the graph has none)."""
    usual, held = yarn_attention(factor), yarn_attention(factor, log_multiplier or 0.0)
    attention = attn_factor
    if yarn and not (log_multiplier and row.arch == "deepseek2"):
        attention = attn_factor * usual / held
    return attention, (attention * held * (1.0 if yarn else usual)) ** 2 if row.scales_softmax else 1.0


def spell(row: Row, scaling: Method) -> tuple[float, float] | None:
    """``attn_factor`` and log multiplier (0: none) for linear or YaRN scaling; None where no pair of them does it."""
    factor: float = getattr(scaling, "factor")  # noqa: B009
    usual, yarn = yarn_attention(factor), isinstance(scaling, Yarn)
    attention, everywhere = (scaling.attention, scaling.mscale_all_dim) if isinstance(scaling, Yarn) else (1.0, None)
    if not row.scales_softmax:
        multiplier = (everywhere or 0.0) if yarn and row.log_mul != "-" else 0.0
        return (attention * yarn_attention(factor, multiplier) / usual if yarn else attention), multiplier
    held = yarn_attention(factor, everywhere or 0.0) / attention / (1.0 if yarn else usual)
    if abs(held - 1) < _ALIKE:
        return (attention / usual if yarn else attention), 0.0
    if row.log_mul == "zero" or factor <= 1:
        return None
    multiplier = (held - 1) / (0.1 * math.log(factor))
    own = not yarn or row.arch == "deepseek2"
    return (attention if own else attention * held / usual), multiplier


def mscales(row: Row, factor: float, attention: float, softmax: float, log_multiplier: float) -> dict[str, float]:
    """``mscale`` and ``mscale_all_dim`` of a YaRN file with a log multiplier, as configs have them; empty if none."""
    if not row.scales_softmax:
        return {"mscale": 1.0, "mscale_all_dim": log_multiplier}
    root = math.sqrt(softmax)
    if factor <= 1 or root <= 1 + _ALIKE:
        return {}
    unit = 0.1 * math.log(factor)
    return {"mscale": round((attention * root - 1) / unit, 6), "mscale_all_dim": round((root - 1) / unit, 6)}
