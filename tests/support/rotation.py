"""When two rotations are the same: each frequency, what it comes to far away, and the magnitude."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ropepatch.runtimes.base import Prediction

#: what float32 leaves over; 2e-5, which one would take for near, is 2 radians of the fastest pair at position FAR
RTOL = 1e-6
FAR, PHASE = 100_000, 0.01


def check(predicted: Prediction, inv_freq: Any, attention_scale: float, name: str = "") -> None:
    """Hold a prediction against what was computed: each frequency, its angle far away, and the magnitude."""
    computed = np.asarray(inv_freq, np.float64)
    np.testing.assert_allclose(predicted.inv_freq, computed, rtol=RTOL, atol=0, err_msg=name)
    np.testing.assert_allclose(FAR * predicted.inv_freq, FAR * computed, rtol=0, atol=PHASE, err_msg=name)
    assert math.isclose(predicted.attention_scale, attention_scale, rel_tol=RTOL)
