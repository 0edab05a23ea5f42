"""Undoing a patch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import ropepatch
from ropepatch import output
from ropepatch.bundle import bundle_of
from ropepatch.errors import CheckFailed, InputError, WouldOverwrite
from tests.support.command import inside
from tests.support.outputs import digest, tree

METHODS = ["linear", "ntk", "yarn", "mrrope-pro"]


@pytest.mark.parametrize("method", METHODS)
def test_revert_restores_the_input_from_the_output_and_its_manifest(checkpoint: Path, method: str) -> None:
    """With the input gone, the output and its manifest give it back byte for byte."""
    before = tree(checkpoint)
    ropepatch.open(checkpoint).patch(method, 4.0).write()
    written = output.default_output(ropepatch.open(checkpoint).patch(method, 4.0))
    assert written.exists()
    assert tree(checkpoint) == before
    assert tree(written) != before
    shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    restored = ropepatch.revert(written, output=checkpoint)
    assert restored == checkpoint
    assert tree(checkpoint) == before


@pytest.mark.parametrize("method", METHODS)
def test_revert_in_place(checkpoint: Path, method: str) -> None:
    """A checkpoint patched in place turns back into itself, and its manifest goes."""
    before = tree(checkpoint)
    ropepatch.open(checkpoint).patch(method, 4.0).write(in_place=True)
    assert tree(checkpoint) != before
    assert ropepatch.revert(checkpoint, in_place=True) == checkpoint
    assert tree(checkpoint) == before
    assert not bundle_of(checkpoint).manifest.exists()


def test_two_patches_in_place_revert_one_by_one(checkpoint: Path) -> None:
    """The second patch keeps the first one's manifest, and undoing twice gives every state again."""
    states = [tree(checkpoint)]
    ropepatch.open(checkpoint).patch("yarn", 2.0).write(in_place=True)
    states.append(tree(checkpoint))
    ropepatch.open(checkpoint).patch("mrrope-pro", 4.0, existing="replace").write(in_place=True)
    assert tree(checkpoint) not in states
    ropepatch.revert(checkpoint, in_place=True)
    assert tree(checkpoint) == states[1]
    ropepatch.revert(checkpoint, in_place=True)
    assert tree(checkpoint) == states[0]
    with pytest.raises(InputError, match="there is no manifest"):
        ropepatch.revert(checkpoint, in_place=True)


def test_revert_works_after_the_files_have_moved(gguf_file: Path, tmp_path: Path) -> None:
    """The manifest names no path of the machine: moved together, output and manifest still give the input."""
    before = digest(gguf_file)
    written = tmp_path / "out.gguf"
    document = ropepatch.open(gguf_file).patch("yarn", 4.0).write(written)
    assert str(tmp_path) not in document.to_text()
    away = tmp_path / "elsewhere"
    away.mkdir()
    for name in ("out.gguf", "out.ropepatch.json"):
        (tmp_path / name).rename(away / name)
    assert digest(ropepatch.revert(away / "out.gguf")) == before


def test_a_folder_takes_what_is_restored(checkpoint: Path) -> None:
    """As with cp a folder takes a file, from Python and on the command line; a folder it does not take."""
    written = checkpoint.with_name(f"out{checkpoint.suffix}")
    ropepatch.open(checkpoint).patch("yarn", 4.0).write(written)
    (place := checkpoint.with_name("place")).mkdir()
    if checkpoint.is_dir():
        with pytest.raises(WouldOverwrite):
            ropepatch.revert(written, output=place)
        assert "exists already" in inside("revert", written, "-o", place).err
        assert list(place.iterdir()) == []
        return
    restored = ropepatch.revert(written, output=place)
    assert restored == place / "out-reverted.gguf"
    restored.unlink()
    assert inside("revert", written, "-o", f"{place}/", "-q").out.strip() == str(restored)
    assert digest(restored) == digest(checkpoint)
    assert "no such directory" in inside("revert", written, "-o", f"{place}/deeper/").err
    assert [path.name for path in place.iterdir()] == ["out-reverted.gguf"]


def test_revert_refuses_an_output_that_has_changed(gguf_file: Path) -> None:
    """A patched file that was edited since is not torn apart."""
    written = gguf_file.with_name("out.gguf")
    ropepatch.open(gguf_file).patch("yarn", 4.0).write(written)
    data = bytearray(written.read_bytes())
    data[-1] ^= 1
    written.write_bytes(bytes(data))
    before = tree(written.parent)
    with pytest.raises(InputError, match="has changed since it was patched"):
        ropepatch.revert(written)
    assert tree(written.parent) == before


def test_a_tampered_manifest_is_found_out(gguf_file: Path) -> None:
    """Splices that restore something else than the input that the manifest names fail, and leave nothing."""
    written = gguf_file.with_name("out.gguf")
    ropepatch.open(gguf_file).patch("ntk", 4.0).write(written)
    path = bundle_of(written).manifest
    document = json.loads(path.read_text())
    splice = document["predicate"]["buildDefinition"]["internalParameters"]["ropepatch_splices"]["out.gguf"][0]
    splice["before"] = "00" * (len(splice["before"]) // 2)
    path.write_text(json.dumps(document))
    before = tree(written.parent)
    with pytest.raises(CheckFailed, match="another sha256"):
        ropepatch.revert(written)
    assert tree(written.parent) == before


# Nothing is left behind, nothing is overwritten ----------------------------------------------------------------------
