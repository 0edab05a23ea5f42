"""Searched factors as files: the record in patch and manifest, and the engines that read them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import schemas
from ropepatch.dialects import factor_files
from ropepatch.errors import InputError
from ropepatch.manifest import Manifest
from tests.support.command import ROOT
from tests.support.command import ropepatch as command

FIXTURE = ROOT / "fixtures" / "tiny-retriever"
LONG = [1.0, 1.02, 1.1, 1.3, 1.5, 2.0, 2.2, 2.6, 3.7, 4.0, 4.2, 4.2, 4.3, 4.4, 4.4, 4.6]
SHORT = [1.0] * 12 + [1.05, 1.06, 1.07, 1.08]


def record(**changes: Any) -> dict[str, Any]:
    """What a search writes, in small."""
    return {
        "schema": "ropepatch.search/1", "long_factor": LONG, "short_factor": SHORT, "factor": 4.0,
        "attention_factor": math.sqrt(1 + math.log(4) / math.log(256)), "original_max_position_embeddings": 256,
        "ref": "models/tiny", "group": "default", "length": 1024, "space": "longrope", "objective": "needle",
        "short": "search", "seed": 1, "samples": 8, "settings": [], "stages": [], "held_out": None,
        "environment": {"engine": "torch 2", "device": "cpu", "dtype": "float32"}, "interrupted": False, "caveat": "",
        **changes,
    }  # fmt: skip


@pytest.fixture
def factors(tmp_path: Path) -> Path:
    """A search's file."""
    path = tmp_path / "factors.json"
    path.write_text(json.dumps(record()), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["tiny-retriever", "tiny-retriever.gguf"])
def test_the_record_goes_with_the_output(name: str, factors: Path, tmp_path: Path) -> None:
    """The factor comes from the file, the lists arrive, and the manifest says how they were found, without folders."""
    output = tmp_path / ("out.gguf" if name.endswith("gguf") else "out")
    done = command(
        "apply", "--method", "longrope", "--factors", factors, ROOT / "fixtures" / name, "-o", output, "--json"
    )
    assert done.code == 0, done.err
    path = output / "ropepatch.json" if output.is_dir() else output.with_suffix(".ropepatch.json")
    manifest = json.loads(path.read_text("utf-8"))
    schemas.validator("manifest").validate(manifest)
    kept = manifest["predicate"]["buildDefinition"]["internalParameters"]["ropepatch_search"]
    assert kept["ref"] == "tiny"
    assert kept["seed"] == 1
    written = ropepatch.open(output).frequencies
    plain = ropepatch.open(FIXTURE).frequencies()["default"].inv_freq
    for length, wanted in ((256, SHORT), (1024, LONG)):
        found = written(length)["default"]
        np.testing.assert_allclose(plain / found.inv_freq, wanted, rtol=1e-6)
        assert found.attention_scale == pytest.approx(1.118034, rel=1e-6)
    sibling = ropepatch.replay(Manifest(manifest), str(ROOT / "fixtures" / name))
    assert sibling.search == kept


def test_another_extension_is_told(factors: Path) -> None:
    """Factors that are used for another extension than they were searched for get a note."""
    arguments = ("apply", "--method", "longrope", "--factors", factors, FIXTURE, "--dry-run", "--json")
    assert command(*arguments, "--factor", 4).document["notes"] == command(*arguments).document["notes"]
    assert "searched for 4 times 256" in " ".join(command(*arguments, "--factor", 8).document["notes"])


def test_an_unusual_attention_factor_is_written(tmp_path: Path) -> None:
    """One that engines would not compute themselves is written, and --set wins over it."""
    path = tmp_path / "factors.json"
    path.write_text(json.dumps(record(attention_factor=1.25)), encoding="utf-8")
    for extra, wanted in (((), 1.25), (("--set", "attention_factor=1.5"), 1.5)):
        done = command("apply", "--method", "longrope", "--factors", path, FIXTURE, *extra, "--dry-run", "--json")
        assert done.document["parameters"]["default"]["attention_factor"] == wanted


@pytest.mark.parametrize("change", [{"seed": "x"}, {"stages": [{}]}, {"extra": 1}, {"held_out": {"cells": 3}}])
def test_a_broken_record_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """A file that calls itself a search's and is not whole is refused, with the place."""
    path = tmp_path / "factors.json"
    path.write_text(json.dumps(record(**change)), encoding="utf-8")
    with pytest.raises(InputError, match="no whole record"):
        factor_files.search_record(path)


def test_transformers_and_llama_cpp_say_the_same(factors: Path, tmp_path: Path) -> None:
    """The same factors as directory and as GGUF: far log-probabilities agree, and are others than unpatched."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("xllamacpp")
    from ropepatch.verify import engines

    lists = factor_files.read(factors)
    rows = {}
    tokens = np.random.default_rng(3).integers(1, 137, 1000).tolist()
    for name, engine in (("tiny-retriever", "transformers"), ("tiny-retriever.gguf", "llama.cpp")):
        output = tmp_path / f"out-{name}"
        ropepatch.open(ROOT / "fixtures" / name).patch("longrope", 4, **lists).write(output)
        rows[engine] = _far(engines, engine, ropepatch.open(output), tokens)
    plain = _far(engines, "transformers", ropepatch.open(FIXTURE), tokens)
    np.testing.assert_allclose(rows["transformers"], rows["llama.cpp"], atol=1e-3)
    assert np.abs(rows["transformers"] - plain).max() > 0.1


def _far(engines: Any, engine: str, model: ropepatch.Checkpoint, tokens: list[int]) -> Any:
    """Log-probabilities behind the last tokens."""
    at = [300, 700, 998, 999]
    if engine == "transformers":
        loaded = engines.TransformersEngine(model, None, "cpu", "float32")
    else:
        from ropepatch.verify.llama_engine import LlamaCppEngine

        loaded = LlamaCppEngine(Path(model.ref), 1024)
    return loaded.log_probabilities(tokens, list(range(len(tokens))), at)
