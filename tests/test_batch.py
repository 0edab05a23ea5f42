"""Many checkpoints at once: what is done stays, what fails is told and does not end the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import ropepatch
from ropepatch import batch, schemas
from ropepatch.errors import InputError
from tests.support import gguf_split, tiny
from tests.support.command import ropepatch as run

SPEC = tiny.ModelSpec(layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two GGUF models, one in shards, and a broken one."""
    models = tmp_path / "models"
    models.mkdir()
    tiny.write_gguf(models / "a.gguf", SPEC)
    shards = tiny.write_gguf(models / "b.gguf", SPEC.with_(seed=1))
    gguf_split.split(shards, 2)
    shards.unlink()
    (models / "broken.gguf").write_bytes(b"GGUF\x03")
    return models


def yarn(ref: str) -> ropepatch.Patch:
    return ropepatch.open(ref).patch("yarn", 4.0)


def statuses(outcomes: list[batch.Outcome]) -> list[str]:
    return [one.status for one in outcomes]


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failure_does_not_end_the_rest(folder: Path, jobs: int) -> None:
    """Every model that can be patched is, in the order of the list, and the broken one says why not."""
    refs = [str(folder / "broken.gguf"), *batch.models_in(folder)[:2], str(folder / "absent.gguf")]

    outcomes = batch.apply_many(refs, yarn, jobs=jobs)

    assert [one.ref for one in outcomes] == refs
    assert statuses(outcomes) == ["failed", "written", "written", "failed"]
    assert "shorter than" in str(outcomes[0].error)
    assert "no such file" in str(outcomes[3].error)
    for one in outcomes[1:3]:
        assert one.output is not None
        assert ropepatch.open(one.output).profile.declared_context == 1024


def test_a_second_run_leaves_what_is_done(folder: Path) -> None:
    """Outputs whose manifest says this patch are skipped untouched; one that is missing is written again."""
    refs = batch.models_in(folder)[:2]
    first = batch.apply_many(refs, yarn)
    times = [os.stat(one.output).st_mtime_ns for one in first if one.output]
    assert first[1].output is not None
    removed = first[1].output.with_name("b-yarn-4x-00002-of-00002.gguf")

    second = batch.apply_many(refs, yarn)
    removed.unlink()
    third = batch.apply_many(refs, yarn)

    assert statuses(second) == ["skipped", "skipped"]
    assert [os.stat(one.output).st_mtime_ns for one in second if one.output] == times
    assert statuses(third) == ["skipped", "failed"]
    assert "is no output of this patch" in str(third[1].error)


def test_a_second_run_leaves_overlays(folder: Path) -> None:
    """An overlay and its body are skipped as well, and the body is not written again."""
    (first,) = batch.apply_many([str(folder / "a.gguf")], yarn, overlay=True)
    (second,) = batch.apply_many([str(folder / "a.gguf")], yarn, overlay=True)

    assert (first.status, second.status) == ("written", "skipped"), second.error
    assert first.output == second.output


@pytest.mark.parametrize("change", ["method", "setting", "input", "manifest", "stranger"])
def test_other_outputs_are_not_taken_for_done(change: str, folder: Path) -> None:
    """An output of another patch, of another input, without or with a foreign manifest is refused, not overwritten."""
    model, output = folder / "a.gguf", folder / "a-yarn-4x.gguf"
    batch.apply_many([str(model)], yarn)
    if change == "method":
        ropepatch.open(model).patch("linear", 4.0).write(folder / "other.gguf")
        shutil.move(folder / "other.gguf", output)
        shutil.move(folder / "other.ropepatch.json", folder / "a-yarn-4x.ropepatch.json")
    elif change == "setting":  # an output of the same name and length, by another value
        output.unlink()
        (folder / "a-yarn-4x.ropepatch.json").unlink()
        ropepatch.open(model).patch("yarn", 4.0, original=250).write(output)
    elif change == "input":
        model.unlink()
        tiny.write_gguf(model, SPEC.with_(seed=9))
    elif change == "manifest":
        (folder / "a-yarn-4x.ropepatch.json").unlink()
    else:
        (folder / "a-yarn-4x.ropepatch.json").write_text("{}")
    before = output.read_bytes()

    (outcome,) = batch.apply_many([str(model)], yarn)

    assert outcome.status == "failed"
    assert output.read_bytes() == before


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    """Planned patches are counted and neither outputs nor their folder appear."""
    outcomes = batch.apply_many(batch.models_in(folder)[:2], yarn, folder=tmp_path / "out", dry_run=True)

    assert statuses(outcomes) == ["planned", "planned"]
    assert [one.edits for one in outcomes] == [4, 4]
    assert not (tmp_path / "out").exists()


def test_what_engines_refuse_is_not_written(tmp_path: Path) -> None:
    """The doctor looks at each patch of a batch, for the engines named, as it does at a single one."""
    model = tiny.write_hf(tmp_path / "model", SPEC)

    def linear(ref: str) -> ropepatch.Patch:
        return ropepatch.open(ref).patch("linear", 4.0)

    found = {
        (engine, force): batch.apply_many([str(model)], linear, force=force, dry_run=True, runtimes=[engine])[0]
        for engine, force in (("tgi", False), ("tgi", True), ("vllm", False))
    }

    assert [one.status for one in found.values()] == ["failed", "planned", "planned"]
    assert str(found["tgi", False].error).startswith(f"{model}: RP502 ")


def test_lists(tmp_path: Path) -> None:
    """Blank lines and comments go, each ref counts once, and a list without a ref is refused."""
    path = tmp_path / "list.txt"
    path.write_text("# models\n\n a.gguf \nb.gguf\na.gguf\n#c.gguf\n")
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")

    assert batch.read_list(str(path)) == ["a.gguf", "b.gguf"]
    with pytest.raises(InputError, match="names no ref"):
        batch.read_list(str(empty))


def test_apply_command(folder: Path, tmp_path: Path) -> None:
    """--from and --all patch into a folder, exit with 1 or 3, skip on a second run, and take no REF or --in-place."""
    arguments = ("apply", "--method", "yarn", "--factor", "4")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{folder / name}\n" for name in ("a.gguf", "broken.gguf")))

    some = run(*arguments, "--from", listed, "-o", tmp_path / "out", "--json")
    again = run(*arguments, "--from", listed, "-o", tmp_path / "out")
    every = run(*arguments, "--all", folder, "--jobs", "2", "--quiet")
    listed.write_text(f"{folder / 'broken.gguf'}\n")
    none = run(*arguments, "--from", listed)

    assert some.code == 1
    assert list(schemas.validator("batch").iter_errors(some.document)) == []
    assert [one["status"] for one in some.document["results"]] == ["written", "failed"]
    assert (tmp_path / "out" / "a-yarn-4x.gguf").is_file()
    assert "1 skipped, 1 failed" in again.out
    assert every.code == 1
    assert sorted(every.out.split()) == [f"{folder}/a-yarn-4x.gguf", f"{folder}/b-yarn-4x-00001-of-00002.gguf"]
    assert none.code == 3
    assert run(*arguments, "--from", listed, "--in-place").code == 2
    assert run(*arguments, "--from", listed, folder / "a.gguf").code == 2
