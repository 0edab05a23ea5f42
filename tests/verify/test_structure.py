"""The check after a write finds what is wrong in the output: frequencies far out, bytes at either end, values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import CheckFailed
from ropepatch.frequencies import deviation
from ropepatch.methods.base import Frequencies
from ropepatch.patch import Edit, Value
from ropepatch.profile import RopeProfile
from ropepatch.storage.splice import Splice
from ropepatch.verify import structure
from tests.support import tiny

PAIRS = 16
LONGROPE = {"type": "longrope", "short_factor": [1.0] * PAIRS, "long_factor": [2.0] * PAIRS}
PHI = {"model_type": "phi3", "max_position_embeddings": 16384, "original_max_position_embeddings": 4096}


def profile(folder: Path, **given: Any) -> RopeProfile:
    """The profile of a config of a small model."""
    folder.mkdir()
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **given}))
    return ropepatch.open(folder).profile


@pytest.mark.parametrize(
    ("meant", "found"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        (
            {**PHI, "rope_scaling": LONGROPE},
            {**PHI, "rope_scaling": {**LONGROPE, "long_factor": [2.0] * (PAIRS - 1) + [2.1]}},
        ),
    ],
    ids=["dynamic, beyond the declared context", "longrope, beyond the original context"],
)
def test_frequencies_that_differ_in_long_contexts_alone(
    meant: dict[str, Any], found: dict[str, Any], tmp_path: Path
) -> None:
    """Two profiles that rotate short texts alike are not taken for one."""
    one, other = profile(tmp_path / "a", **meant), profile(tmp_path / "b", **found)
    assert "largest relative deviation 0.0e+00" in structure.frequencies(one, one, tmp_path)
    with pytest.raises(CheckFailed, match="frequencies deviate from the method's by"):
        structure.frequencies(one, other, tmp_path)


def test_what_is_no_number_deviates_from_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in a frequency or in the magnitude is an infinite deviation, on either side, and no output passes with it."""
    good = Frequencies(np.array([1.0, 0.1]), 1.0)
    for bad in (Frequencies(np.array([1.0, np.nan]), 1.0), Frequencies(np.array([1.0, 0.1]), float("nan"))):
        assert deviation(bad, good) == deviation(good, bad) == deviation(bad, bad) == float("inf")
    one = profile(tmp_path / "a")
    groups = iter([{"default": good}, {"default": bad}] * 3)
    monkeypatch.setattr(structure, "profile_frequencies", lambda *_: next(groups))
    with pytest.raises(CheckFailed, match="deviate from the method's by inf relative"):
        structure.frequencies(one, one, tmp_path)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("place", ["first", "last", "new bytes", "length", "middle"])
def test_bytes_that_should_have_stayed(place: str, full: bool, tmp_path: Path) -> None:
    """A changed byte at either end of a range, in what was written, or a missing one is found; in between with full."""
    old = bytes(range(256)) * 2048
    change = Splice(1000, old[1000:1004], b"12345678")
    new = bytearray(old[:1000] + b"12345678" + old[1004:])
    at = {"first": 1008, "last": len(new) - 1, "new bytes": 1004, "middle": len(new) // 2}
    source, output = tmp_path / "old", tmp_path / "new"
    source.write_bytes(old)
    output.write_bytes(new)
    assert "none differs" in structure.unchanged_bytes(source, output, [change], full=full)
    if place == "length":
        del new[-1]
    else:
        new[at[place]] ^= 1
    output.write_bytes(new)
    if place == "middle" and not full:
        structure.unchanged_bytes(source, output, [change], full=full)
        return
    with pytest.raises(CheckFailed, match=r"differs from the input|does not hold the new bytes|bytes, not"):
        structure.unchanged_bytes(source, output, [change], full=full)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("llama.rope.freq_base", Value(10000.0, "FLOAT32"), Value(10001.0, "FLOAT32")),
        ("llama.context_length", Value(64, "UINT32"), Value(65, "UINT32")),
        ("general.architecture", Value("llama", "STRING"), Value("qwen2", "STRING")),
        ("llama.rope.scaling.factor", None, Value(4.0, "FLOAT32")),
        ("llama.rope.freq_base", Value(10000.0, "FLOAT32"), None),
    ],
)
def test_the_library_s_reader_sees_another_value(
    name: str, right: Value | None, wrong: Value | None, tmp_path: Path
) -> None:
    """An edit whose value is not what the gguf library reads is found, and so is a key that should be gone."""
    file = tiny.write_gguf(tmp_path / "m.gguf", tiny.ModelSpec())
    assert "1 edits as meant" in structure.gguf_reader(file, [Edit("m.gguf", "key", (name,), None, right)])
    with pytest.raises(CheckFailed, match=f"reads {name} as"):
        structure.gguf_reader(file, [Edit("m.gguf", "key", (name,), None, wrong)])
