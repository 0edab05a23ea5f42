"""One checkpoint under every release of every runtime that reads its format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ropepatch import runtimes, schemas
from ropepatch.errors import InputError, NoRope
from ropepatch.runtimes import readings
from ropepatch.runtimes.readings import Readings
from tests.runtimes.test_recorded import CASES
from tests.support import params
from tests.support.command import ROOT


def read(folder: Path, config: dict[str, Any], length: int | None = None) -> Readings:
    """The readings of a config, whose JSON is held against its schema."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = readings.all_runtimes(str(folder), length)
    schemas.validator("runtimes").validate(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_recorded_spelling_has_a_document(case: str, tmp_path: Path) -> None:
    """Each of the recorded configs is read by 13 spans of releases, in a short context and in the declared one."""
    found = read(tmp_path, CASES[case])
    spans = [(name, span.label) for name in runtimes.names() for span in runtimes.behaviours(name)]
    assert [(item.runtime, item.releases) for item in found.readings] == [
        span for span in spans if span[0] not in ("llama.cpp", "ollama")
    ]
    assert all(len(item.rows) == len(found.lengths) for item in found.readings)
    assert ("agree with" in found.sentence()) is not found.same


def test_what_agrees_and_what_does_not(tmp_path: Path) -> None:
    """A plain config is the same everywhere, the Qwen2.5 recipe is not, and the sentence names who differs."""
    assert read(tmp_path, CASES["default_theta1e4"]).same
    found = read(tmp_path, CASES["yarn_qwen25_doc"])
    assert not found.same
    assert found.sentence() == (
        "The runtimes differ: 10 of 13 readings agree with transformers 5.23; other frequencies in "
        "transformers (4.50-4.55), exllamav3 (1.x), exllamav2 (0.3)."
    )


def test_lengths(tmp_path: Path) -> None:
    """A length asked for is the only one; a difference in short contexts alone is not seen beyond them."""
    config = CASES["longrope_top_orig"]
    loaded = {item.runtime: item for item in read(tmp_path, config).readings}["exllamav3"]
    assert {at: row.status for at, row in loaded.rows.items()} == {None: "differs", 131072: "same"}
    asked = {item.runtime: item for item in read(tmp_path, config, 131072).readings}["exllamav3"]
    assert asked.same
    assert list(asked.rows) == [131072]


def test_a_spelling_that_only_engines_know(tmp_path: Path) -> None:
    """Where the dialect does not read the file, engines that do are compared with the first of them."""
    found = read(tmp_path, CASES["ntk_type"])
    assert found.reference.startswith("vllm")
    assert "ntk" in (found.unlifted or "")
    assert {item.runtime for item in found.readings if item.refusal is None} == {"vllm", "exllamav2"}


def test_gguf_is_read_by_two() -> None:
    """A GGUF is compared across llama.cpp and Ollama."""
    found = readings.all_runtimes(str(ROOT / "fixtures" / "tiny-llama.gguf"))
    assert [item.runtime for item in found.readings] == ["llama.cpp", "ollama"]
    assert found.same


def test_formats_that_no_engine_of_the_list_reads(tmp_path: Path) -> None:
    """A params.json is refused by name instead of being predicted from nothing, and so is a model without RoPE."""
    path = tmp_path / "params.json"
    path.write_text(json.dumps(params.MISTRAL), encoding="utf-8")
    with pytest.raises(InputError, match="not for mistral files"):
        readings.all_runtimes(str(path))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 64}))
    with pytest.raises(NoRope):
        readings.all_runtimes(str(tmp_path / "bert"))
