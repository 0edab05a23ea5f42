"""Every runtime's prediction against what that runtime computed (48 configs, eleven releases)."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropepatch import runtimes
from ropepatch.errors import RuntimeRejects
from tests.support.rotation import check

DATA = Path(__file__).parent.parent / "data" / "runtimes"
RELEASES = {
    "transformers@4.48.3": "transformers_4.48.3",
    "transformers@4.53.3": "transformers_4.53.3",
    "transformers@4.57.6": "transformers_4.57.6",
    "transformers@5.0.0": "transformers_5.0.0",
    "transformers@5.23.0": "transformers_5.23.0",
    "vllm@0.33.0": "vllm_0.33.0",
    "sglang@0.5.23": "sglang_0.5.23",
    "tgi@3.3.7": "tgi_3.3.7",
    "mlx-lm@0.32.2": "mlx-lm_0.32.2",
    "exllamav3@1.4.1": "exllamav3_1.4.1",
    "exllamav2@0.3.2": "exllamav2_0.3.2",
}


@cache
def load(name: str) -> Any:
    """One file of recordings."""
    with gzip.open(DATA / f"{name}.json.gz", "rt", encoding="utf-8") as stream:
        return json.load(stream)


CASES: dict[str, dict[str, Any]] = dict(load("cases"))
CELLS = [(spec, case) for spec in RELEASES for case in CASES]


def long_length(config: dict[str, Any], cell: dict[str, Any]) -> int:
    """The length at which a cell's long values were taken: the declared context, four times it for ``dynamic``."""
    if "L" in cell:
        return int(cell["L"])
    rope = config.get("rope_scaling") or {}
    declared = int(config["max_position_embeddings"])
    return declared * 4 if "dynamic" in (rope.get("rope_type"), rope.get("type")) else declared


def as_recorded(spec: str, cell: dict[str, Any], config: dict[str, Any], *, beyond: bool) -> float:
    """What the recorded buffer has to be multiplied by to be what the engine turns by.

    TGI's Phi3LongRoPEScaledRotaryEmbedding multiplies the angles by the mscales when it fills its table; the recording
    took the buffer from before that.
    """
    if spec.startswith("tgi@") and cell.get("type") == "Phi3LongRoPEScaledRotaryEmbedding":
        return float(config["rope_scaling"]["long_mscale" if beyond else "short_mscale"])
    return 1.0


def named(refusal: str) -> str | None:
    """The class of the exception that a refusal speaks of; None where it says what is wrong in other words."""
    if "fails an assertion" in refusal:
        return "AssertionError"
    found = re.search(r"stops with an? (\w+)", refusal)
    return found[1] if found else None


def test_every_release_computed_every_case() -> None:
    """No cell is left out, and each holds an error, or frequencies with a magnitude."""
    assert (len(RELEASES), len(CASES), len(CELLS)) == (11, 48, 528)
    for name in RELEASES.values():
        assert set(load(name)) == set(CASES)
        assert all("err" in cell or {"inv", "att"} <= cell.keys() for cell in load(name).values())


@pytest.mark.parametrize(("spec", "case"), CELLS, ids=[f"{spec}-{case}" for spec, case in CELLS])
def test_prediction_is_what_the_runtime_computed(spec: str, case: str) -> None:
    """A release refuses what it refused, and turns by the recorded frequencies and magnitude, short and long."""
    config, cell = CASES[case], load(RELEASES[spec])[case]
    if "err" in cell:
        with pytest.raises(RuntimeRejects) as caught:
            runtimes.predict(spec, None, config)
        assert named(str(caught.value)) in (None, cell["err"].partition(":")[0])
        return
    short = runtimes.predict(spec, None, config)["default"]
    factor = as_recorded(spec, cell, config, beyond=False)
    check(short, np.asarray(cell["inv"]) * factor, cell["att"])
    for key in ("max_model_len", "ctx"):
        if key in cell:
            assert short.context == cell[key]
    long = runtimes.predict(spec, None, config, long_length(config, cell))["default"]
    if "inv_long" not in cell:  # one table for every length
        np.testing.assert_array_equal(long.inv_freq, short.inv_freq)
        assert long.attention_scale == short.attention_scale
    else:
        factor = as_recorded(spec, cell, config, beyond=True)
        check(long, np.asarray(cell["inv_long"]) * factor, cell.get("att_long", cell["att"]))
