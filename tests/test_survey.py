"""Many checkpoints as rows of one table: each says what it says alone, and one that cannot be read says why."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

import ropepatch
from ropepatch import schemas, survey
from tests.support import tiny
from tests.support.command import ROOT
from tests.support.command import ropepatch as run

SPEC = tiny.ModelSpec(layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GGUF model and a broken one."""
    models = tmp_path / "models"
    models.mkdir()
    tiny.write_gguf(models / "a.gguf", SPEC)
    (models / "broken.gguf").write_bytes(b"GGUF\x03")
    return models


def test_inspect_rows(folder: Path) -> None:
    """Each ref is one row, readable or not, and a row says what inspect of that ref says."""
    refs = [str(folder / "a.gguf"), str(folder / "broken.gguf"), str(ROOT / "fixtures" / "tiny-llama")]

    rows = list(survey.inspect_many(refs, jobs=2))

    assert [row["ref"] for row in rows] == refs
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    profile = ropepatch.open(refs[2]).profile
    assert rows[2]["rope_theta"] == profile.groups["default"].rope_theta
    assert (rows[0]["architecture"], rows[0]["declared_context"], rows[0]["method"]) == ("llama", 256, "none")
    assert all(tuple(row) == survey.COLUMNS for row in rows)


def test_inspect_command(folder: Path, tmp_path: Path) -> None:
    """--csv prints a line a ref with the errors among the columns, and marks what a spreadsheet would compute."""
    listed = tmp_path / "list.txt"
    listed.write_text(f"=1+1\n{folder / 'a.gguf'}\n")

    ended = run("inspect", "--csv", "--from", listed)
    document = run("inspect", folder / "a.gguf", folder / "broken.gguf", "--json")
    shown = run("inspect", folder / "a.gguf", folder / "broken.gguf")

    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert ended.code == 1
    assert tuple(rows[0]) == survey.COLUMNS
    assert rows[0]["ref"] == "'=1+1"
    assert rows[0]["error"].startswith("'=1+1: no such file")
    assert (rows[1]["declared_context"], rows[1]["error"]) == ("256", "")
    assert list(schemas.validator("inspections").iter_errors(document.document)) == []
    assert "not read: " in shown.err
    assert run("inspect").code == 2
    assert run("inspect", folder / "a.gguf", folder / "a.gguf", "--launch").code == 2
