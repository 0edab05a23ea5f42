"""Hints are commands to paste: each one runs as it stands, whatever the files are called."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.support.command import inside, ropepatch

APPLY = ("apply", "--method", "yarn", "--factor", "4x")


def hinted(text: str) -> list[list[str]]:
    """The commands in the hints of a run, taken apart as a shell does."""
    lines = [line.partition("ropepatch ")[2] for line in text.splitlines() if line.startswith("hint: ")]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.parametrize("in_place", [False, True], ids=["a copy", "in place"])
def test_hints_after_apply(in_place: bool, model: Path) -> None:
    """What apply says to do next can be done, also with blanks and quotes in a name; in place it is undone in place."""
    odd = model.rename(model.with_name("it's my model.gguf"))
    before = odd.read_bytes()
    commands = hinted(ropepatch(*APPLY, odd.name, *(["--in-place"] if in_place else []), cwd=odd.parent).err)

    assert [words[0] for words in commands] == [*([] if in_place else ["diff"]), "revert", "doctor"]
    for words in reversed(commands):
        ended = inside(*words, cwd=odd.parent)
        assert ended.code == (1 if words[0] == "diff" else 0), ended.err
    assert odd.read_bytes() == before


def test_a_folder_takes_a_file_as_with_cp(model: Path) -> None:
    """-o names a file, or a folder that is there, in which the output has its usual name; a missing one is refused."""
    (folder := model.with_name("out")).mkdir()

    assert inside(*APPLY, model, "-o", folder, "-q").out.strip() == str(folder / "model-yarn-4x.gguf")
    ended = inside(*APPLY, model, "-o", f"{folder}/deeper/")
    assert (ended.code, "no such directory" in ended.err) == (3, True)
    assert len(list(folder.iterdir())) == 2


def test_a_manifest_stands_for_its_output(model: Path) -> None:
    """revert takes the manifest beside the output, too."""
    before = model.read_bytes()
    inside(*APPLY, model, "-q")

    assert inside("revert", model.with_name("model-yarn-4x.ropepatch.json")).code == 0
    assert model.with_name("model-yarn-4x-reverted.gguf").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*APPLY, "--hf-layout", "v5"), "--hf-layout"),
        ((*APPLY, "other.gguf"), "--from and --all patch several"),
        (("apply", "--method", "yarn", "--factor", "four"), "is no number"),
        (("apply", "--method", "yarn", "--length", "8x"), "4k is 4096"),
    ],
)
def test_what_apply_does_not_take(arguments: tuple[str, ...], said: str, model: Path) -> None:
    """An option that would change nothing, and a second model, are refused in one line."""
    ended = inside(*arguments, model)

    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert said in ended.err


def test_a_gguf_without_a_suffix(model: Path) -> None:
    """The output of a GGUF without a suffix is named as other programs expect one."""
    blob = model.rename(model.with_name("sha256-0123abcd"))

    assert inside(*APPLY, blob, "-q").out.strip() == str(blob.with_name("sha256-0123abcd-yarn-4x.gguf"))
    checks = inside("manifest", "verify", blob.with_name("sha256-0123abcd-yarn-4x.gguf"), "--json").document["checks"]
    assert {check["name"]: check["result"] for check in checks}["tensor data"] == "PASSED"
