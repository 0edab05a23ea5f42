"""Published models' own config texts: read like transformers, or refused for the right reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError

from ropepatch import checkpoint, errors
from ropepatch.frequencies import profile_frequencies

FOLDER = Path(os.environ.get("ROPEPATCH_CORPUS", "")) / "configs"
if "ROPEPATCH_CORPUS" not in os.environ:
    pytest.skip("ROPEPATCH_CORPUS is not set: no published config text is here", allow_module_level=True)
transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing to compare with")
from tests.support import hf_walk  # noqa: E402

TEXTS = sorted(FOLDER.glob("*.json"))


@pytest.fixture(autouse=True)
def quiet() -> None:
    """transformers warns about many of these texts."""
    transformers.logging.set_verbosity_error()


def folder_with(text: Path, tmp_path: Path) -> Path:
    """A checkpoint folder that holds the text under the name that its format has."""
    name = "params.json" if text.name.endswith(".params.json") else "config.json"
    (tmp_path / name).write_bytes(text.read_bytes())
    return tmp_path / name


#: texts of a model type that transformers knows and refuses all the same: what it says
REFUSED = {
    "SpecForge__qwen2.5-vl-7b-eagle3": "KeyError: 'mrope'",
    "microsoft__Phi-3-medium-128k-instruct": "Missing required keys in `rope_parameters`",
    "microsoft__Phi-3-mini-128k-instruct-su": "Missing required keys in `rope_parameters`",
    "mllm__Qwen3-30B-A3B": "Field 'rope_parameters' with value 1.0",
}


def built(path: Path, name: str) -> dict[str, Any] | None:
    """What transformers' rotary module computes from the text; None where it has none, or is known to refuse it."""
    model_type = json.loads(path.read_text()).get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        return None
    try:
        return hf_walk.rotary(transformers.CONFIG_MAPPING[model_type].from_pretrained(path.parent))
    except (hf_walk.Unbuildable, KeyError, StrictDataclassError) as error:
        if REFUSED.get(name, "no rotary class of one axis") not in str(error):
            raise
        return None


def opened(path: Path) -> checkpoint.Checkpoint | str:
    """The checkpoint with its profile lifted, or why it is refused."""
    try:
        model = checkpoint.open(path)
        _ = model.profile
    except errors.InputError as error:
        return str(error)
    return model


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_read_or_refused(text: Path, tmp_path: Path) -> None:
    """Every text gives a profile or one clear line; where transformers builds the module, both agree."""
    path = folder_with(text, tmp_path)
    module = built(path, text.stem) if path.name == "config.json" else None
    model = opened(path)
    if isinstance(model, str):
        assert "\n" not in model
        assert len(model) < 500
        assert module is None, f"transformers reads it: {model}"
        return
    if module is None:
        assert profile_frequencies(model.profile)
        return
    found = model.frequencies(runtime="transformers")
    for group, (inv_freq, attention) in module.items():
        have = found.get(group) or (next(iter(found.values())) if len(found) == 1 else None)
        have = have or found.get("default")
        assert have is not None, f"no group {group} in {list(found)}"
        np.testing.assert_allclose(have.inv_freq, inv_freq, rtol=1e-6, atol=0)
        assert have.attention_scale == pytest.approx(attention, rel=1e-6)
