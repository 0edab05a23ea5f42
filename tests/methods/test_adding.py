"""Adding a method is adding a file: one that lies among the methods is everywhere where methods are."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import methods, schemas
from ropepatch.errors import AlreadyScaled, InputError, UsageError
from ropepatch.methods import REGISTRY
from ropepatch.planner import plan
from ropepatch.report import catalogue
from tests.support.command import ROOT, inside

GGUF = ROOT / "fixtures" / "tiny-llama.gguf"
SOURCE = '''"""Every pair slowed by the factor, but for the first few."""

from dataclasses import dataclass

import numpy as np

from ropepatch.methods.base import Frequencies, Method, check_factor


@dataclass(frozen=True)
class AllButFew(Method):
    """All but the fastest pairs slowed."""

    factor: float
    few: int = 3

    name = "all-but-few"
    rank = 25
    preference = 5
    lasting = ("few",)
    title = "all but the fastest"
    formula = "inv_freq'[i] = inv_freq[i] / s for i >= few"
    paper = "nowhere"
    reach = "unknown"
    fine_tuning = "unknown"
    about = "A method that a test adds."

    def __post_init__(self):
        check_factor(self.name, self.factor)

    def apply(self, rope, length):
        """The first pairs as they are."""
        slowed = np.arange(rope.inv_freq.size) >= self.few
        return Frequencies(np.where(slowed, rope.inv_freq / self.factor, rope.inv_freq), rope.attention_scale)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A further file among the methods."""
    folder = tmp_path / "further"
    folder.mkdir()
    (folder / "all_but_few.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("ropepatch.methods.all_but_few", None)
    vars(methods).pop("all_but_few", None)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the page of methods."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("methods_page")


@pytest.mark.usefixtures("added")
def test_it_is_listed_explained_and_on_the_page(page: ModuleType) -> None:
    """It has its place in the list, ``explain`` and the page say what its class says."""
    assert list(REGISTRY)[:4] == ["none", "linear", "all-but-few", "ntk"]
    found = inside("explain", "all-but-few", "--json").document
    schemas.validator("explain").validate(found)
    assert [(item["name"], item["option"]) for item in found["parameters"]] == [
        ("factor", "--factor or --length"),
        ("few", "--set few=VALUE"),
    ]
    schemas.validator("methods").validate(catalogue.methods())
    assert "**all but the fastest**" in page.section("all-but-few")


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("name", ["tiny-llama.gguf", "tiny-llama"])
def test_it_is_applied(name: str, tmp_path: Path) -> None:
    """Without a key of its own it is written as per-pair factors, and read back as they are."""
    model = ropepatch.open(ROOT / "fixtures" / name)
    before = model.frequencies()["default"].inv_freq
    out = tmp_path / name
    inside("apply", "--method", "all-but-few", "--factor", "4", "--set", "few=2", ROOT / "fixtures" / name, "-o", out)
    after = ropepatch.open(out).frequencies(length=8192)["default"].inv_freq
    np.testing.assert_allclose(before[2:] / after[2:], 4.0, rtol=1e-6)
    np.testing.assert_allclose(before[:2], after[:2], rtol=1e-6)
    again = methods.from_json({"method": "all-but-few", "factor": 4.0, "few": 2})
    assert again.to_json() == {"method": "all-but-few", "factor": 4.0, "few": 2}


def rotating_by(scaling: methods.Method) -> ropepatch.Checkpoint:
    """The fixture as if its file said that it was trained on a quarter of its context, and is scaled by this."""
    model = ropepatch.open(GGUF)
    group = dataclasses.replace(model.profile.groups["default"], scaling=scaling)
    quarter = (model.profile.declared_context or 0) // 4
    vars(model)["profile"] = dataclasses.replace(model.profile, groups={"default": group}, trained_context=quarter)
    return model


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ({"method": "all-but-few", "few": 2}, {"few": 2}),
        (
            {"method": "yarn", "original_max_position_embeddings": 512, "beta_fast": 16, "truncate": False},
            {"beta_fast": 16.0, "beta_slow": 1.0, "truncate": False},
        ),
        ({"method": "llama3", "original_max_position_embeddings": 512, "low_freq_factor": 2}, {"low_freq_factor": 1.0}),
    ],
    ids=lambda value: value.get("method"),
)
def test_what_another_factor_leaves_as_it_was(method: dict[str, Any], kept: dict[str, Any]) -> None:
    """Parameters that the class says outlast its factor stay when it replaces itself; what is asked for goes before."""
    model = rotating_by(methods.from_json({**method, "factor": 4.0}))
    name = method["method"]
    with pytest.raises(AlreadyScaled):
        model.patch(name, 8.0)
    (found,) = model.patch(name, 8.0, existing="replace").parameters.values()
    assert found["factor"] == 8.0
    assert kept.items() <= found.items()
    if name == "all-but-few":
        (asked,) = model.patch(name, 8.0, existing="replace", few=1).parameters.values()
        assert asked["few"] == 1
        (other,) = model.patch("yarn", 8.0, existing="replace").parameters.values()
        assert "few" not in other


@pytest.mark.usefixtures("added")
def test_what_no_method_extends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that says why nothing extends it is left alone by ``apply`` and ``plan``, in those words."""
    scaling = methods.from_json({"method": "all-but-few", "factor": 4.0})
    monkeypatch.setattr(type(scaling), "unextendable", "its pairs are spoken for")
    model = rotating_by(scaling)
    with pytest.raises(InputError, match="its pairs are spoken for; no method here extends it"):
        model.patch("linear", 2.0, existing="compose")
    assert model.patch("none", existing="replace").edits
    skipped: dict[str, str] = {}
    from ropepatch.planner import start

    assert not start.extendable(model, start.Start("default", 512, None, "replace", "trained"), skipped)
    assert skipped["linear"] == "its pairs are spoken for; no method extends it"


@pytest.mark.usefixtures("added")
def test_what_is_a_model_s_own_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that scales nothing is extended without being asked to, and may count over the whole head."""
    scaling = methods.from_json({"method": "all-but-few", "factor": 4.0})
    group = rotating_by(scaling).profile.groups["default"]
    half = dataclasses.replace(group, rotary_dim=group.head_dim // 2)
    assert (group.scaled, half.spectrum().rotary_dim) == (True, group.head_dim // 2)
    monkeypatch.setattr(type(scaling), "scales", False)
    monkeypatch.setattr(type(scaling), "spans_head", True)
    assert (group.scaled, half.spectrum().rotary_dim) == (False, group.head_dim)


@pytest.mark.usefixtures("added")
def test_it_is_planned_and_completed() -> None:
    """``plan`` tries it and proposes it where its preference says so; completion offers it."""
    made = plan.plan(str(GGUF), 8192)
    tried = {item.method: item for item in made.methods}
    assert tried["all-but-few"].written == "factors"
    assert plan.propose([tried["all-but-few"], tried["linear"]]) is tried["all-but-few"]
    from ropepatch.cli import _completion

    assert [item.value for item in _completion.methods("all")] == ["all-but-few"]


def test_without_its_file_nobody_knows_it() -> None:
    """What has no file, or a file that is no method of that name, is unknown."""
    for name in ("all-but-few", "base", "stack", "mrrope", "runtime-only", "ntk_critical", "", "..", "__init__"):
        assert name not in REGISTRY
        with pytest.raises(UsageError, match="unknown method"):
            catalogue.find(name)


def test_a_method_is_called_as_its_file() -> None:
    """Each name leads to its own file, and a rank or preference belongs to one method alone."""
    for name, method in REGISTRY.items():
        assert method.__module__ == f"ropepatch.methods.{name.replace('-', '_')}"
    for attribute in ("rank", "preference"):
        taken = [value for method in REGISTRY.values() if (value := getattr(method, attribute)) is not None]
        assert len(set(taken)) == len(taken)


def test_methods_are_imported_when_asked_for() -> None:
    """A method is had without loading the others."""
    code = (
        "import sys\n"
        "from ropepatch import methods\n"
        "assert methods.get('mrrope-pro').name == 'mrrope-pro'\n"
        "assert 'ropepatch.methods.yarn' not in sys.modules\n"
        "assert 'ropepatch.methods.dynamic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
