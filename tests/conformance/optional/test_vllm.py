"""vLLM's own config loading and rotary classes, run on a CPU; `make conformance` installs what they need."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ropepatch import runtimes
from ropepatch.errors import RuntimeRejects
from tests.runtimes.test_recorded import CASES

vllm = pytest.importorskip("vllm", reason="vllm is not installed; make conformance installs its Python files")

import torch  # noqa: E402
from vllm.config import VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.model_executor.layers import rotary_embedding  # noqa: E402
from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope  # noqa: E402
from vllm.transformers_utils.config import get_config  # noqa: E402

RELEASE = f"vllm@{vllm.__version__.split('+')[0]}"
#: spellings beside the recorded ones; on Llama's sizes
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
MORE: dict[str, dict[str, Any]] = {
    "dynamic-alpha": {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "yarn-attention-factor": {"rope_scaling": {**YARN, "attention_factor": 0.5}},
    "yarn-both-mscales": {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.9}},
    "yarn-no-factor": {"rope_scaling": {k: v for k, v in YARN.items() if k != "factor"}},
    "llama3-no-type": {"rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    "unknown": {"rope_scaling": {"rope_type": "strange", "factor": 4.0}},
    "v5-linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 12345.0}},
}
CONFIGS: dict[str, dict[str, Any]] = {**CASES, **{name: {**CASES["default_theta1e4"], **x} for name, x in MORE.items()}}


def live(config: dict[str, Any], folder: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rotary module that vLLM builds for a server of ``length`` tokens."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    # LongRoPE asks the running server for its length; there is none here
    server = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))
    monkeypatch.setattr(phi3_long_rope_scaled_rope, "get_current_vllm_config", lambda: server)
    # its cache takes 4 and 4.0 for the same key
    rotary_embedding._ROPE_DICT.clear()
    loaded = get_config(str(folder), trust_remote_code=False)
    head = getattr(loaded, "head_dim", None) or loaded.hidden_size // loaded.num_attention_heads
    with set_current_vllm_config(VllmConfig()):
        return rotary_embedding.get_rope(
            head, max_position=loaded.max_position_embeddings, rope_parameters=copy.deepcopy(loaded.rope_parameters)
        )


def rows(rope: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The table of cos and sin that the kernel reads, one row a position, shape ``(positions, rotary_dim)``."""
    if not hasattr(rope, "long_short_cos_sin_cache"):
        return np.asarray(rope.cos_sin_cache.to(torch.float64))
    table = np.asarray(rope.long_short_cos_sin_cache.to(torch.float64))
    start = rope.original_max_position_embeddings
    return table[start:] if rope.use_long_rope else table[:start]


def refuses(config: dict[str, Any]) -> bool:
    """Whether a refusal is predicted."""
    try:
        runtimes.predict(RELEASE, None, config)
    except RuntimeRejects:
        return True
    return False


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("case", CONFIGS)
def test_table_of_the_kernel(case: str, long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's table of cos and sin holds the predicted angles and magnitude up to its last row, or it refuses."""
    config = CONFIGS[case]
    length = int(config["max_position_embeddings"]) if long else 64
    refusal = ""
    try:
        table = rows(live(config, tmp_path, length, monkeypatch))
    except Exception as error:
        refusal = repr(error)
    assert refuses(config) == bool(refusal), refusal or "vLLM loads it"
    if refusal:
        return
    predicted = runtimes.predict(RELEASE, None, config, length)["default"]
    assert table.shape[1] == 2 * predicted.inv_freq.size
    for position in (1, 37, 3000, len(table) - 1):
        angle = position * predicted.inv_freq
        found = table[position, : angle.size] + 1j * table[position, angle.size :]
        error = np.abs(found / predicted.attention_scale - np.exp(1j * angle))
        # float32 positions times float32 frequencies: an angle is known to 3e-7 of its size
        np.testing.assert_array_less(error, 1e-5 + 3e-7 * angle, err_msg=f"position {position}")
