"""Published models' own config texts: read like transformers, or refused for the right reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def built(path: Path) -> dict[str, Any] | None:
    """What transformers' rotary module computes from the text; None where it builds none."""
    try:
        raw = json.loads(path.read_text())
        config_class = transformers.CONFIG_MAPPING[raw["model_type"]]
        if raw.get("auto_map") and raw["model_type"] not in transformers.CONFIG_MAPPING:
            return None
        return hf_walk.rotary(config_class.from_pretrained(path.parent))
    except Exception:
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
    module = built(path) if path.name == "config.json" else None
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
