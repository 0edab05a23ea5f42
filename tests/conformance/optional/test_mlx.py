"""mlx-lm's own rotary modules, run on a CPU; `make conformance` installs them."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import numpy as np
import pytest

from ropepatch import runtimes
from ropepatch.errors import RuntimeRejects
from tests.runtimes.test_recorded import CASES

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed; make conformance installs it")

import mlx.core as mx  # noqa: E402

RELEASE = f"mlx-lm@{mlx_lm.__version__}"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
#: spellings beside the recorded ones; on Llama's sizes
MORE: dict[str, dict[str, Any]] = {
    "yarn-mscales": {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.9}},
    "yarn-no-factor": {"rope_scaling": {k: v for k, v in YARN.items() if k != "factor"}},
    "linear-no-factor": {"rope_scaling": {"type": "linear"}},
    "llama3-no-type": {"rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    "unknown": {"rope_scaling": {"rope_type": "strange", "factor": 4.0}},
}
CONFIGS: dict[str, dict[str, Any]] = {**CASES, **{name: {**CASES["default_theta1e4"], **x} for name, x in MORE.items()}}


def turned(rope: Any, head: int, position: int) -> np.ndarray[Any, np.dtype[np.complex128]]:
    """What becomes of the unit vector of each pair at ``position``, as complex numbers."""
    ones = np.zeros((1, 1, 1, head), dtype=np.float32)
    ones[..., : head // 2] = 1.0
    made = np.asarray(rope(mx.array(ones), offset=position))[0, 0, 0].astype(np.float64)
    return made[: head // 2] + 1j * made[head // 2 :]


def refuses(config: dict[str, Any]) -> bool:
    """Whether a refusal is predicted."""
    try:
        runtimes.predict(RELEASE, None, config)
    except RuntimeRejects:
        return True
    return False


@pytest.mark.parametrize("case", CONFIGS)
def test_rotation_of_the_module(case: str) -> None:
    """mlx-lm's attention turns every pair by the predicted angle and magnitude, near and far, or it refuses."""
    config = CONFIGS[case]
    models = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    refusal = ""
    try:
        rope = models.Attention(models.ModelArgs.from_dict(copy.deepcopy(config))).rope
    except Exception as error:
        refusal = repr(error)
    assert refuses(config) == bool(refusal), refusal or "mlx-lm loads it"
    if refusal:
        return
    for position in (1, 37, 3000, 130000):
        predicted = runtimes.predict(RELEASE, None, config, position + 1)["default"]
        angle = position * predicted.inv_freq
        found = turned(rope, 2 * angle.size, position) / predicted.attention_scale
        # float32 positions times float32 frequencies, the base of dynamic NTK in float32 as well
        np.testing.assert_array_less(np.abs(found - np.exp(1j * angle)), 1e-5 + 1e-6 * angle, err_msg=f"{position}")
