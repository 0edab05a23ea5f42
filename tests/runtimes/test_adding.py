"""Adding a runtime is adding a file: one that lies in the folder of engines is everywhere where runtimes are."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ropepatch
from ropepatch import runtimes, schemas
from ropepatch.errors import UsageError
from ropepatch.runtimes import engines, launch, readings
from tests.support.command import ROOT, inside

NAME = "left-turn"
SOURCE = '''"""left-turn, which turns twice as slowly as anyone else (``nowhere/left.py``)."""

from ropepatch.runtimes import config_view
from ropepatch.runtimes.base import Behaviour, Prediction, Runtime


class LeftTurn(Runtime):
    """left-turn at a version."""

    name = "left-turn"
    behaviours = (Behaviour((1,), "1.x", (1, 2)), Behaviour((2,), "2.x", (2, 5)))
    rank = 15
    abbreviation = "left"
    caps_context = True

    def predict(self, source, length):
        """Half of every frequency."""
        return {
            name: Prediction(view.spectrum().inv_freq / 2, context=view.max_position, notes=("turns left",))
            for name, view in config_view.line4(source).items()
        }

    def launch(self, order, predicted):
        """The command that serves it."""
        return f"left {order.quoted} --tokens {order.length}", ("--right: it turns the other way",)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A further file among the engines."""
    folder = tmp_path / "further"
    folder.mkdir()
    (folder / "left_turn.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop(f"{engines.__name__}.left_turn", None)
    vars(engines).pop("left_turn", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain llama."""
    config = {
        "model_type": "llama", "hidden_size": 512, "num_attention_heads": 4, "rope_theta": 10000.0,
        "num_hidden_layers": 2, "max_position_embeddings": 4096, "vocab_size": 100,
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path / "model"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the page of runtimes."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("runtimes_page")


@pytest.mark.usefixtures("added")
def test_it_is_read_with_all_others(folder: Path) -> None:
    """It has its place in the list, its releases can be named, and its readings stand beside the others'."""
    assert runtimes.names()[:3] == ("transformers", NAME, "vllm")
    assert runtimes.get(f"{NAME}@1.1").version == (1, 1)
    found = readings.all_runtimes(str(folder)).to_json()
    schemas.validator("runtimes").validate(found)
    mine = [item for item in found["runtimes"] if item["runtime"] == NAME]
    assert [item["releases"] for item in mine] == ["1.x", "2.x"]
    assert [(item["same"], item["at"][0]["groups"]["default"]["ratio"]) for item in mine] == [(False, 2.0)] * 2
    half = ropepatch.open(folder).frequencies(runtime=NAME)["default"].inv_freq
    assert (half * 2 == ropepatch.open(folder).frequencies()["default"].inv_freq).all()


@pytest.mark.usefixtures("added")
def test_it_has_a_launch_line(folder: Path) -> None:
    """What its class says is what the launch lines show, and what ``inspect --launch`` prints."""
    mine = next(line for line in launch.of_checkpoint(ropepatch.open(folder), 2048) if line.runtime == NAME)
    assert mine.text == f"left {folder} --tokens 2048"
    assert mine.avoid == ("--right: it turns the other way",)
    assert mine.notes[-1] == "turns left"
    shown = inside("inspect", folder, "--launch", "--json")
    assert shown.code == 0
    assert NAME in json.dumps(shown.document)


@pytest.mark.usefixtures("added")
def test_it_has_a_section_and_a_column_on_the_page(page: ModuleType) -> None:
    """The page of runtimes shows it without a change of the script."""
    assert (NAME, "1.x") in [(name, span.label) for name, span in page.spans("hf")]
    found = page.Readings(dict(list(page.load().items())[:2]))
    assert "left 2.x" in page.table(found)[0]
    text = "\n".join(page.section(NAME, found))
    assert "which turns twice as slowly" in text
    assert "turns left" in text


@pytest.mark.usefixtures("added")
def test_the_doctor_asks_it(folder: Path) -> None:
    """It is held against a scaling that reaches farther than the context that it caps at."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["rope_scaling"] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = inside("doctor", folder, "--runtime", NAME, "--json").document
    rule = next(item for item in found["findings"] if item["rule"] == "RP201")
    assert rule["runtimes"] == [NAME]
    assert "serves 4,096 tokens" in rule["message"]


def test_without_its_file_nobody_knows_it(folder: Path) -> None:
    """An unknown name is a usage error that lists the known ones, and so is a file that holds no runtime."""
    for name in (NAME, "llama-cpp", "", "__init__", "..", "engines", "vllm.x"):
        with pytest.raises(UsageError, match=r"unknown runtime|names no release"):
            runtimes.get(name)
    ended = inside("freqs", folder, "--runtime", NAME)
    assert ended.code == 2
    assert all(name in ended.err.replace("\n", " ") for name in runtimes.names())


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_is_one_that_the_schema_takes(name: str) -> None:
    """Names are of the form that documents allow, and each has the file that is called so."""
    assert re.search(schemas.load("runtimes")["$defs"]["name"]["pattern"], name)
    assert engines.named(name) is engines.every()[name]
