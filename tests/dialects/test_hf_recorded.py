"""Every RoPE model type of two lines of transformers, from recorded vectors of their own rotary modules."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropepatch.checkpoint import Checkpoint
from ropepatch.dialects.hf_config import HfDialect
from ropepatch.errors import NoRope

DATA = Path(__file__).parent.parent / "data"
LINES = ("4.57.6", "5.23.0")
#: a config as the class writes it out, and as save_pretrained writes it: without what equals the default
TEXTS = ("full", "sparse")
#: the module exists and the default config leaves it out of the model
UNUSED = {"esm", "granitemoehybrid", "seamless_m4t", "wav2vec2-bert", "wav2vec2-conformer", "zamba2"}
#: what nobody has: save_pretrained of this class ends with an AttributeError in 4.57.6
UNWRITTEN = {("4.57.6", "phi4_multimodal", "sparse")}
#: the module permutes the frequencies by M-RoPE section, which is the runtime's doing and no setting
PERMUTED = {"ernie4_5_vl_moe", "ernie4_5_vl_moe_text"}


@lru_cache(maxsize=2)
def recorded(line: str) -> dict[str, Any]:
    """The vectors of one line."""
    return json.loads(gzip.decompress((DATA / f"hf_rotary_{line}.json.gz").read_bytes()))


def cases() -> list[Any]:
    """One case a text, line and model type."""
    names = [(line, name, text) for text in TEXTS for line in LINES for name in sorted(recorded(line)["models"])]
    return [pytest.param(*case, id="-".join((case[2], *case[:2]))) for case in names if case not in UNWRITTEN]


@pytest.mark.parametrize(("line", "name", "text"), cases())
def test_frequencies_equal_the_module(line: str, name: str, text: str) -> None:
    """inv_freq and attention scale equal the rotary module's, from the full and from the sparse config."""
    record = recorded(line)["models"][name]
    config = {"model_type": name, **record[text], "transformers_version": line}
    model = Checkpoint("config.json", HfDialect(Path("."), Path("config.json"), config))
    if name in UNUSED:
        with pytest.raises(NoRope):
            _ = model.profile
        return
    by_runtime = model.frequencies(runtime=f"transformers@{line}")
    by_profile = by_runtime if name in PERMUTED else model.frequencies()
    for group, values in record["groups"].items():
        want = np.asarray(recorded(line)["inv_freq"][values["inv_freq"]], dtype=np.float64)
        for found in (by_profile, by_runtime):
            have = found.get(group) or found.get("default") or next(iter(found.values()))
            np.testing.assert_allclose(have.inv_freq, want, rtol=1e-6, atol=0)
            assert have.attention_scale == pytest.approx(values["attention_scaling"], rel=1e-6)


def test_the_walk_is_whole() -> None:
    """The recordings hold at least the model types that build a rotary module with default arguments."""
    assert len(recorded("5.23.0")["models"]) >= 295
    assert len(recorded("4.57.6")["models"]) >= 122


def test_only_what_cannot_be_written_is_missing() -> None:
    """Every other model type has both texts in its recording."""
    missing = {
        (line, name, text)
        for line in LINES
        for name, record in recorded(line)["models"].items()
        for text in TEXTS
        if record.get(text) is None
    }
    assert missing == UNWRITTEN
