"""The catalogue says what the dialects do."""

from __future__ import annotations

from pathlib import Path

import pytest

import ropepatch
from ropepatch.errors import MethodUnsupported, UsageError
from ropepatch.methods import REGISTRY
from ropepatch.patch import Patch
from ropepatch.report import catalogue

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SETTINGS = {"theta": {"rope_theta": 5e5}, "longrope": {"long_factor": [1.0 + i / 8 for i in range(32)]}}


def spelled(patch: Patch) -> str:
    """How a patch writes its method, judged by its edits alone."""
    names = {edit.name: edit.after for edit in patch.edits}
    kinds = [value.data for name, value in names.items() if value and name.endswith(("rope_type", ".type"))]
    blocks = [value.data for name, value in names.items() if value and isinstance(value.data, dict)]
    kinds += [block.get("rope_type", block.get("type")) for block in blocks]
    if any(edit.target == "tensor" for edit in patch.edits) or "longrope" in kinds:
        return "factors"
    if any(name.endswith(("rope_theta", "freq_base")) for name in names):
        return "base"
    return "key"


def patched(method: str, path: Path) -> Patch:
    model = ropepatch.open(path)
    return model.patch(method, 4.0 if REGISTRY[method].takes_factor() else None, **SETTINGS.get(method, {}))


@pytest.mark.parametrize(("kind", "name"), [("gguf", "tiny-llama.gguf"), ("hf", "tiny-llama")])
@pytest.mark.parametrize("method", [name for name, method in REGISTRY.items() if method.applicable])
def test_written_is_what_a_patch_writes(method: str, kind: str, name: str) -> None:
    """Key, base or factors: the table says of each method what its patch of a llama comes to."""
    expected = catalogue.written(REGISTRY[method])[kind]
    if expected is None:
        with pytest.raises(MethodUnsupported):
            patched(method, FIXTURES / name)
    else:
        assert spelled(patched(method, FIXTURES / name)) == expected


@pytest.mark.parametrize("method", [name for name, method in REGISTRY.items() if not method.applicable])
def test_what_cannot_be_applied_has_no_spelling(method: str) -> None:
    """A method that is only read is written nowhere, and nothing sets its parameters."""
    assert catalogue.written(REGISTRY[method]) == {"hf": None, "gguf": None}
    assert {item["option"] for item in catalogue.explain(method)["parameters"]} <= {None}


def test_unknown_method() -> None:
    """A mistyped name gets the nearest one suggested, any other name only the list."""
    with pytest.raises(UsageError, match=r"did you mean 'llama3'\?.*linear, ntk"):
        catalogue.find("lama3")
    with pytest.raises(UsageError) as caught:
        catalogue.find("xxxxxxxx")
    assert "did you mean" not in str(caught.value)
