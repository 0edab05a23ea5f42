"""Writing a patch to whole checkpoints."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import output, schemas
from ropepatch.bundle import bundle_of
from ropepatch.errors import CheckFailed, InputError, UsageError, WouldOverwrite
from ropepatch.storage import files, ranges
from tests.support import llamacpp_formula as engine
from tests.support import tiny
from tests.support.gguf_split import split
from tests.support.outputs import SPEC, digest, tree


def flip_in_copies(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """Let every copy of a long range put one wrong byte at a place counted from the range's end."""
    original = ranges.copy_range

    def broken(source: int, target: int, offset: int, length: int, *rest: Any, **options: Any) -> None:
        original(source, target, offset, length, *rest, **options)
        if length > 20_000:  # weights, no header and no config
            end = os.lseek(target, 0, os.SEEK_CUR)
            there = os.pread(source, 1, offset + length - at)
            os.pwrite(target, bytes([there[0] ^ 0x40]), end - at)

    monkeypatch.setattr(ranges, "copy_range", broken)


@pytest.mark.parametrize("method", ["ntk", "yarn", "mrrope-pro"])
def test_a_wrong_byte_in_tensor_data_is_found_and_the_output_deleted(
    gguf_file: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that flips one bit of a tensor fails the verification; exit code 1, no output, no manifest."""
    flip_in_copies(monkeypatch, at=1000)
    with pytest.raises(CheckFailed, match="differs from the input near offset") as caught:
        ropepatch.open(gguf_file).patch(method, 4.0).write()
    assert caught.value.exit_code == 1
    assert [p.name for p in gguf_file.parent.iterdir()] == ["model.gguf"]


def test_without_verification_the_wrong_byte_goes_through(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sabotage is real: it is the verification that finds it, and the manifest says that there was none."""
    flip_in_copies(monkeypatch, at=1000)
    document = ropepatch.open(gguf_file).patch("ntk", 4.0).write(verify=False)
    assert document.verification is None
    written = output.default_output(ropepatch.open(gguf_file).patch("ntk", 4.0))
    old, new = engine.tensors_of(gguf_file), engine.tensors_of(written)
    assert not all(np.array_equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("weights", ["copy", "link"])
def test_a_wrong_byte_in_copied_weights_is_found(folder: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that had to be copied are compared too."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "no links here")

    monkeypatch.setattr(files.kernel.fcntl, "ioctl", refuse)
    original = os.link
    monkeypatch.setattr(
        os, "link", lambda a, b, **o: refuse() if str(a).endswith(".safetensors") else original(a, b, **o)
    )
    flip_in_copies(monkeypatch, at=100)
    with pytest.raises(CheckFailed):
        ropepatch.open(folder).patch("yarn", 4.0).write(weights=weights, digest="full")
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def wrong_value(edits: Any) -> Callable[..., Any]:
    """Splices for other values than the edits say."""
    from ropepatch import splices

    original = splices.for_file

    def other(path: Path, items: Any, **options: Any) -> Any:
        import dataclasses

        changed = [
            dataclasses.replace(e, after=dataclasses.replace(e.after, data=e.after.data * 1.001))
            if e.after is not None and isinstance(e.after.data, float)
            else e
            for e in items
        ]
        return original(path, changed, **options)

    return other


def test_a_wrong_value_is_found_and_the_output_deleted(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that puts another number into the header fails against the independent reader."""
    monkeypatch.setattr(output.splices, "for_file", wrong_value(None))
    with pytest.raises(CheckFailed, match="the gguf library reads"):
        ropepatch.open(gguf_file).patch("yarn", 4.0).write()
    assert [p.name for p in gguf_file.parent.iterdir()] == ["model.gguf"]


def test_frequencies_that_are_not_the_method_s_are_found(gguf_file: Path) -> None:
    """Edits that say something else than the patch's profile fail, whoever made them."""
    import dataclasses

    model = ropepatch.open(gguf_file)
    patch, other = model.patch("yarn", 4.0), model.patch("yarn", 4.0, attention_factor=1.139)
    with pytest.raises(CheckFailed, match="frequencies deviate from the method's by"):
        dataclasses.replace(patch, edits=other.edits).write()
    assert [p.name for p in gguf_file.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("step", ["check", "build"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug"), CheckFailed("no")])
def test_whatever_fails_late_leaves_the_input_as_it_was(
    checkpoint: Path, step: str, in_place: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt or a failure after the bytes were written leaves no output; in place, the old bytes are back."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    before = tree(checkpoint)
    monkeypatch.setattr(output.structure if step == "check" else output.manifest, step, fail)
    with pytest.raises(type(error)):
        ropepatch.open(checkpoint).patch("mrrope-pro", 4.0).write(in_place=in_place)
    assert tree(checkpoint) == before
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


@pytest.mark.parametrize("taken", ["output", "manifest"])
def test_what_exists_is_not_overwritten(gguf_file: Path, taken: str) -> None:
    """Neither the output's name nor its manifest's may be there; exit code 5, both files as they were."""
    patch = ropepatch.open(gguf_file).patch("yarn", 4.0)
    path = output.default_output(patch)
    blocked = path if taken == "output" else bundle_of(path).manifest
    blocked.write_text("mine")
    with pytest.raises(WouldOverwrite) as caught:
        patch.write()
    assert caught.value.exit_code == 5
    assert blocked.read_text() == "mine"
    assert sorted(p.name for p in gguf_file.parent.iterdir()) == sorted(["model.gguf", blocked.name])


def test_an_existing_folder_is_not_overwritten(folder: Path) -> None:
    """Not even an empty one."""
    patch = ropepatch.open(folder).patch("yarn", 4.0)
    output.default_output(patch).mkdir()
    with pytest.raises(WouldOverwrite):
        patch.write()
    assert list(output.default_output(patch).iterdir()) == []


@pytest.mark.parametrize("form", ["file", "split", "overlay"])
def test_a_folder_takes_a_file_under_its_usual_name(gguf_file: Path, form: str) -> None:
    """As with cp: what is there is a folder to write into, and what comes into it is what would stand beside."""
    if form == "split":
        split(gguf_file, 2)
        gguf_file = gguf_file.with_name("model-00001-of-00002.gguf")
    (place := gguf_file.with_name("place")).mkdir()
    patch = ropepatch.open(gguf_file).patch("yarn", 4.0)
    for name in (None, place):
        patch.write(name, overlay=form == "overlay")
    shards = [""] if form == "file" else ["-00001-of-00002", "-00002-of-00002"]
    names = [f"model-yarn-4x{shard}.gguf" for shard in shards]
    assert {path.name for path in place.iterdir()} == {*names, "model-yarn-4x.ropepatch.json"}
    assert all(digest(place / name) == digest(gguf_file.with_name(name)) for name in names)
    with pytest.raises(WouldOverwrite, match=names[0]):
        patch.write(str(place), overlay=form == "overlay")


def test_a_folder_is_no_place_for_a_folder(folder: Path) -> None:
    """A checkpoint that is a folder itself gets the name that was given: one that is there is not written into."""
    (place := folder.with_name("place")).mkdir()
    patch = ropepatch.open(folder).patch("yarn", 4.0)
    with pytest.raises(WouldOverwrite):
        patch.write(place)
    assert list(place.iterdir()) == []
    patch.write(f"{folder.with_name('new')}{os.sep}")
    assert ropepatch.open(folder.with_name("new")).profile.declared_context == 1024


def test_an_output_in_a_missing_folder_is_refused(checkpoint: Path) -> None:
    """Said in one line, and nothing is made."""
    with pytest.raises(InputError, match="no such directory"):
        ropepatch.open(checkpoint).patch("yarn", 4.0).write(checkpoint.parent / "missing" / "out")
    if checkpoint.is_file():
        with pytest.raises(InputError, match="missing/: no such directory"):
            ropepatch.open(checkpoint).patch("yarn", 4.0).write(f"{checkpoint.parent}/missing/")
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


# Weights, names, digests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["link", "copy", "none"])
def test_the_other_files_of_a_folder(folder: Path, weights: str) -> None:
    """Linked, copied or left out, the weights are as asked; every other file comes along, config.json changes."""
    ropepatch.open(folder).patch("yarn", 4.0).write(folder.with_name("out"), weights=weights)
    out = folder.with_name("out")
    old, new = tree(folder), tree(out)
    present = {"config.json", "tokenizer.json", "extra/notes.txt", "ropepatch.json"}
    if weights != "none":
        present.add("model.safetensors")
    assert set(new) == present
    assert {name for name in present & set(old) if old[name] != new[name]} == {"config.json"}
    if weights == "copy":
        assert not os.path.samefile(folder / "model.safetensors", out / "model.safetensors")


def test_changing_an_output_s_small_file_leaves_the_input_alone(folder: Path) -> None:
    """Only large weights may be hard links: what people edit is a file of its own."""
    ropepatch.open(folder).patch("yarn", 4.0).write(folder.with_name("out"))
    for name in ("tokenizer.json", "config.json", "extra/notes.txt"):
        assert not os.path.samefile(folder / name, folder.with_name("out") / name)


def test_a_linked_weight_survives_a_patch_in_place(folder: Path, gguf_file: Path) -> None:
    """Two names of one file: patching one in place does not reach the other."""
    other = gguf_file.with_name("other.gguf")
    os.link(gguf_file, other)
    before = digest(gguf_file)
    ropepatch.open(other).patch("yarn", 4.0).write(in_place=True)
    again = ropepatch.open(other).patch("yarn", 2.0, existing="replace")
    again.write(in_place=True)  # all values keep their length now
    assert digest(gguf_file) == before


@pytest.mark.parametrize(
    ("method", "factor", "name"),
    [("yarn", 4.0, "model-yarn-4x"), ("yarn+resonance", 2.5, "model-yarn-resonance-2.5x"), ("ntk", 3, "model-ntk-3x")],
)
def test_default_names(checkpoint: Path, method: str, factor: float, name: str) -> None:
    """The output stands beside the input and says what was done."""
    path = output.default_output(ropepatch.open(checkpoint).patch(method, factor))
    assert path == checkpoint.with_name(name + checkpoint.suffix)


@pytest.mark.parametrize("choice", ["none", "header", "full"])
def test_digests(gguf_file: Path, choice: str) -> None:
    """Digests in the manifest are those of the files, or absent."""
    written = gguf_file.with_name("out.gguf")
    document = ropepatch.open(gguf_file).patch("yarn", 4.0).write(written, digest=choice)
    none = choice == "none"
    assert document.subjects == {"out.gguf": None if none else digest(written)}
    assert document.inputs == {"model.gguf": None if none else digest(gguf_file)}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("method", ["yarn", "mrrope-pro"])
def test_full_digests_show_that_no_weight_changed(gguf_file: Path, method: str, in_place: bool, verify: bool) -> None:
    """Full digests are those of both files and of the tensor data, before and after, as hashlib takes them."""
    before = digest(gguf_file)
    weights = hashlib.sha256(b"".join(array.tobytes() for array in engine.tensors_of(gguf_file).values())).hexdigest()
    target = None if in_place else gguf_file.with_name("out.gguf")
    written = target or gguf_file
    document = (
        ropepatch.open(gguf_file).patch(method, 4.0).write(target, in_place=in_place, digest="full", verify=verify)
    )
    assert document.inputs == {"model.gguf": before}
    assert document.subjects == {written.name: digest(written)}
    recorded = document.document["predicate"]["buildDefinition"]["internalParameters"]["ropepatch_tensorData"]
    entry = recorded[written.name]
    assert entry["before"] == entry["after"] == {"sha256": weights}
    assert list(schemas.validator("manifest").iter_errors(document.document)) == []


def test_a_changed_weight_shows_in_the_digests(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison the digest of the tensor data is taken from the output itself: it betrays a bad copy."""
    flip_in_copies(monkeypatch, at=1000)
    document = ropepatch.open(gguf_file).patch("ntk", 4.0).write(gguf_file.with_name("o.gguf"), verify=False)
    entry = document.document["predicate"]["buildDefinition"]["internalParameters"]["ropepatch_tensorData"]["o.gguf"]
    assert entry["before"] != entry["after"]


def test_impossible_choices_are_usage_errors(gguf_file: Path) -> None:
    """Unknown words are refused with the known ones."""
    patch = ropepatch.open(gguf_file).patch("yarn", 4.0)
    for options, said in (
        ({"weights": "move"}, "link, copy, none"),
        ({"digest": "half"}, "none, header, full"),
        ({"in_place": True, "output": "x.gguf"}, "output"),
        ({"in_place": True, "sync": False}, "sync"),
    ):
        with pytest.raises(UsageError, match=said):
            patch.write(**options)
    assert [p.name for p in gguf_file.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("sync", [True, False])
def test_a_new_file_is_flushed_unless_asked_otherwise(
    gguf_file: Path, folder: Path, sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `sync` every new file and its folder go to the disk before the end; without, nothing waits for the disk."""
    calls: list[str] = []

    def counted(descriptor: int, original: Any = os.fsync) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    for ref in (gguf_file, folder):
        calls.clear()
        target = ref.with_name("out" + ref.suffix)
        ropepatch.open(ref).patch("yarn", 4.0).write(target, sync=sync)
        assert bool(calls) == sync
        assert not sync or str(ref.parent) in calls
        calls.clear()
        assert ropepatch.revert(target, output=ref.with_name("back" + ref.suffix), sync=sync).exists()
        assert bool(calls) == sync


# Replay ---------------------------------------------------------------------------------------------------------------


def test_a_file_that_changed_after_it_was_read_is_refused(checkpoint: Path) -> None:
    """A patch holds the values that it replaces against those that are there when it is written."""
    patch = ropepatch.open(checkpoint).patch("ntk", 4.0)
    if checkpoint.is_dir():
        tiny.write_hf(checkpoint, SPEC.with_(rope_theta=5000.0))
    else:
        tiny.write_gguf(checkpoint, SPEC.with_(rope_theta=5000.0))
    before = tree(checkpoint)
    with pytest.raises(InputError, match="the patch expects"):
        patch.write()
    assert tree(checkpoint) == before
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]
