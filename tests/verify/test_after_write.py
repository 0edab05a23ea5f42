"""``apply --verify=forward``: the pass runs on what was written, its result is kept, a failed one leaves nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

import ropepatch
from ropepatch import schemas
from ropepatch.cli import main
from ropepatch.errors import CheckFailed
from tests.support.command import ROOT
from tests.support.command import ropepatch as command

YARN = ("apply", "--method", "yarn", "--factor", 4)


def statement(path: Path) -> dict:
    """The statement at ``path``, which keeps its schema."""
    document = json.loads(path.read_text())
    schemas.validator("verify").validate(document)
    return document


def poison(folder: Path) -> None:
    """Make one weight of the folder NaN."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def test_forward_check_is_recorded(base_gguf: Path) -> None:
    """The manifest names the pass among its checks, and the statement beside it is about the same bytes."""
    ended = command(*YARN, "--verify=forward", base_gguf, "--json")

    assert ended.code == 0, ended.err
    schemas.validator("apply").validate(ended.document)
    manifest = json.loads(base_gguf.with_name("base-yarn-4x.ropepatch.json").read_text())
    report = manifest["predicate"]["runDetails"]["byproducts"][0]["ropepatch_report"]
    assert [check["result"] for check in report["checks"] if check["name"] == "forward"] == ["PASSED"]
    found = statement(base_gguf.with_name("base-yarn-4x.ropepatch-verify.json"))
    assert found["subject"] == manifest["subject"]
    assert found["predicate"]["ropepatch_ref"] == "base-yarn-4x.gguf"
    assert {"finite", "frequencies", "changed", "drift"} <= set(found["predicate"]["passedTests"])


@pytest.mark.parametrize("method", ["linear", "dynamic"])
def test_methods_whose_config_keeps_the_context(base: Path, method: str) -> None:
    """A context that engines multiply is not taken for one that was forgotten, nor the growing base for two factors."""
    ropepatch.open(base).patch(method, 4).write(base.with_name("out"), verify="forward")
    found = statement(base.with_name("out") / "ropepatch-verify.json")["predicate"]

    assert found["failedTests"] == []
    assert found["ropepatch_environment"]["context"] == 1024
    (base.with_name("out") / "ropepatch.json").unlink()
    assert ropepatch.verify(base.with_name("out"), base).ok


def test_overlay_and_in_place(base: Path, base_gguf: Path) -> None:
    """An overlay is run over its two files, and a change in place where it stands."""
    ropepatch.open(base_gguf).patch("yarn", 4).write(base_gguf.with_name("o.gguf"), overlay=True, verify="forward")
    ropepatch.open(base).patch("yarn", 4).write(in_place=True, verify="forward")

    assert len(statement(base_gguf.with_name("o.ropepatch-verify.json"))["subject"]) == 2
    assert statement(base / "ropepatch-verify.json")["predicate"]["failedTests"] == []


def test_undone_in_place(base_gguf: Path) -> None:
    """Undoing a change in place takes its statement with it: nothing in it is true of the restored file."""
    original = base_gguf.read_bytes()
    ropepatch.open(base_gguf).patch("yarn", 4).write(in_place=True, verify="forward")
    assert base_gguf.with_name("base.ropepatch-verify.json").exists()

    ropepatch.revert(base_gguf, in_place=True)

    assert base_gguf.read_bytes() == original
    assert [path.name for path in base_gguf.parent.glob("base*.json")] == []


def test_failed_pass_leaves_nothing(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that does not compute is not kept: exit code 1, and the folder is as before."""
    poison(base)
    with pytest.raises(SystemExit) as ended:
        main([*map(str, YARN), "--verify=forward", str(base)])
    told = capsys.readouterr().err

    assert ended.value.code == 1
    assert "forward pass: finite" in told
    assert told.count("\n") == 1
    assert [path.name for path in base.parent.iterdir()] == ["base"]


def test_failed_pass_in_place_is_undone(base: Path) -> None:
    """In place the files are as they were, without manifest and statement."""
    poison(base)
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    with pytest.raises(CheckFailed, match="forward pass: finite"):
        ropepatch.open(base).patch("yarn", 4).write(in_place=True, verify="forward")

    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_missing_extra_is_told_before_anything_is_written(base_gguf: Path, tmp_path: Path) -> None:
    """Without torch it is one line and exit code 2, and there is no output."""
    stub = tmp_path / "stub" / "torch"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    paths = os.pathsep.join((str(stub.parent), str(ROOT)))
    ended = command(*YARN, "--verify=forward", base_gguf, env={"PYTHONPATH": paths})

    assert ended.code == 2
    assert ended.err == "ropepatch: this needs torch; pip install 'ropepatch[torch]'\n"
    assert not base_gguf.with_name("base-yarn-4x.gguf").exists()


def test_weights_are_needed(base: Path) -> None:
    """An output without weights cannot be run, which is said before it is written."""
    ended = command(*YARN, "--verify=forward", "--weights", "none", base)

    assert ended.code == 2
    assert "--weights none" in ended.err
    assert not base.with_name("base-yarn-4x").exists()


@pytest.mark.parametrize(("options", "verified"), [(["--verify"], True), (["--no-verify"], False), ([], True)])
def test_spellings(base_gguf: Path, options: list[str], verified: bool) -> None:
    """``--verify`` stands without a value before the file's name, and ``--no-verify`` still switches it off."""
    target = base_gguf.with_name("out.gguf")
    with pytest.raises(SystemExit) as ended:
        main([*map(str, YARN), *options, str(base_gguf), "-o", str(target), "-q"])
    assert ended.value.code == 0
    document = json.loads(target.with_suffix(".ropepatch.json").read_text())
    assert bool(document["predicate"]["runDetails"]["byproducts"]) is verified
