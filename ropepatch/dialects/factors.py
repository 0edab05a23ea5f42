"""Per-pair factors as files hold them: which known method made them, and the lists for a method."""

from __future__ import annotations

import numpy as np

from ropepatch.frequencies import group_frequencies
from ropepatch.methods.base import Array, Spectrum
from ropepatch.methods.llama3 import Llama3
from ropepatch.profile import RopeGroup

#: float32 factors computed in float32 by a converter
_CLOSE = 1e-4
_LLAMA3_ORIGINALS = (8192, 4096, 2048, 16384, 32768, 65536, 131072)
_LLAMA3_BANDS = ((1.0, 4.0), (4.0, 4.0), (1.0, 2.0), (1.0, 8.0))


def recognise(spectrum: Spectrum, factors: Array) -> Llama3 | None:
    """The Llama 3 scaling that makes exactly these factors, or None.

    A GGUF carries Llama 3's scaling as a bare tensor; the published parameter sets are tried.
    """
    factor = float(np.max(factors, initial=1.0))
    if not np.isfinite(factor) or factor <= 1 or factors.shape != spectrum.inv_freq.shape:
        return None
    for original in _LLAMA3_ORIGINALS:
        for low, high in _LLAMA3_BANDS:
            method = Llama3(round(factor, 4), original, low, high)
            made = spectrum.inv_freq / method.apply(spectrum, None).inv_freq
            if np.allclose(made, factors, rtol=_CLOSE, atol=0):
                return method
    return None


def baked(group: RopeGroup, length: int | None = None) -> tuple[Array, float]:
    """The divisors of each plain pair, shape ``(pairs,)``, and the attention scale that ``group`` comes to.

    A pair that stands still is given a divisor so large (1e30) that it does not turn, as llama.cpp's converter does.
    """
    plain = group.spectrum().inv_freq
    target = group_frequencies(group, length)
    still = target.inv_freq == 0
    divisors = np.where(still, 1e30, plain / np.where(still, 1.0, target.inv_freq))
    return divisors, target.attention_scale
