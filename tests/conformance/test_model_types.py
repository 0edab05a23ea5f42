"""Every model type of the installed transformers, patched with YaRN and loaded again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError

from ropepatch import checkpoint, errors
from ropepatch.dialects.hf_section import CONTEXT_KEYS
from ropepatch.frequencies import profile_frequencies
from ropepatch.patch import Patch

transformers = pytest.importorskip("transformers", reason="transformers is not installed: no live walk of model types")
from tests.support import hf_walk  # noqa: E402

#: what a refusal may rest on: the reason has to be one of these, and the test checks what can be checked of it
ROPE_KEYS = {
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    *CONTEXT_KEYS,
    "original_max_position_embeddings",
    "head_dim",  # written where transformers fails on the rope type without it
}
REASONS = {
    "proportional": "proportional RoPE",
    "window": "sliding window",
    "unread": "does not take rope_type",
    "constants": "computes it from constants",
    "no rotation": "has no rotary position embedding",
    "scaled already": "is scaled already",
    "v4": "the v4 layout cannot hold",
}
#: where YaRN is refused for a class: the reason that is given, and what transformers says when it is written anyway
FAILURES = (
    (r"error for validator 'validate_arch",         r"requires `rope_type='default'`, got 'yarn'"),
    (r"error for validator 'validate_rope'",        r"short_mscale field must be a number, got None"),
    (r"ValueError: .* requires the `default` rope", r"requires the `default` rope type, but found yarn"),
    (r"it rotates 21 dimensions, an odd number",    r"tensor a \(11\) must match the size of tensor b \(10\)"),
    (r"it rotates 73 dimensions, an odd number",    r"tensor a \(37\) must match the size of tensor b \(36\)"),
    (r"no attribute 'max_position_embeddings'",     r"AttributeError: .* no attribute 'max_position_embeddings'"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> None:
    """transformers warns about half of its own defaults."""
    transformers.logging.set_verbosity_error()


def agree(found: dict, want: dict) -> None:
    """Every group that the module has carries the frequencies that ropepatch promised."""
    for group, (inv_freq, attention) in found.items():
        promised = want.get(group) or (next(iter(want.values())) if len(want) == 1 else None)
        assert promised is not None, f"no group {group} in {list(want)}"
        np.testing.assert_allclose(promised.inv_freq, inv_freq, rtol=1e-6, atol=0)
        assert promised.attention_scale == pytest.approx(attention, rel=1e-6)


@pytest.mark.parametrize("name", hf_walk.model_types())
def test_yarn_is_read_as_promised_or_refused(name: str, tmp_path: Path) -> None:
    """The patched config of every model type loads with the promised frequencies, or the refusal is right."""
    config = hf_walk.default_config(name)
    config.save_pretrained(tmp_path / "in")
    patch = patched(tmp_path)
    if isinstance(patch, str):
        assert any(text in patch for text in REASONS.values()), patch
        if "does not take rope_type" in patch:
            refused, said = why(patch), by_hand(config, tmp_path)
            assert any(re.search(ours, refused) and re.search(theirs, said) for ours, theirs in FAILURES), (
                refused,
                said,
            )
            assert "it takes" not in patch or "yarn" not in patch.split("it takes")[1]
        return
    assert rest(tmp_path / "out") == rest(tmp_path / "in"), "something beside the rope keys changed"
    loaded = type(config).from_pretrained(tmp_path / "out")
    after = hf_walk.rotary(loaded)
    agree(after, profile_frequencies(patch.after))
    before = hf_walk.rotary(config)
    assert any(
        values[0].shape != before[group][0].shape or not np.allclose(values[0], before[group][0], rtol=1e-9)
        for group, values in after.items()
        if group in before
    ), "nothing changed"


def rest(folder: Path) -> Any:
    """A config without the keys that belong to RoPE and its contexts, in their order."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return [(key, without(item)) for key, item in value.items() if key not in ROPE_KEYS]
        return value

    return without(json.loads((folder / "config.json").read_text()))


def patched(folder: Path) -> Patch | str:
    """The patch that was written from ``in`` to ``out``, or why there is none."""
    try:
        model = checkpoint.open(folder / "in")
        existing = "replace" if model.profile.scaled else "error"
        original = None if model.profile.trained_context else 4096
        patch = model.patch("yarn", 4.0, existing=existing, original=original)
        patch.write(folder / "out")
    except errors.InputError as error:
        return str(error)
    return patch


def why(refusal: str) -> str:
    """The reason in a refusal, without the hint."""
    return refusal.split("does not take rope_type yarn: ")[1].split("; ntk and theta")[0]


def by_hand(config: Any, folder: Path) -> str:
    """What transformers makes of YaRN that is written by hand: what it raises, or whether it changes anything."""
    text = json.loads((folder / "in" / "config.json").read_text())
    section = text
    for key in filter(None, hf_walk.text_path(config)):
        section = section.setdefault(key, {})
    section.pop("rope_parameters", None)
    section["rope_scaling"] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    (folder / "hand").mkdir()
    (folder / "hand" / "config.json").write_text(json.dumps(text))
    try:
        after = hf_walk.rotary(type(config).from_pretrained(folder / "hand"))
    except (hf_walk.Unbuildable, StrictDataclassError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    before = hf_walk.rotary(config)
    same = all(np.array_equal(values[0], before[group][0]) for group, values in after.items() if group in before)
    return "ignored" if same else "taken"
