"""Changing files where they lie: every way gives the same bytes, and every way can be undone."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropepatch.errors import InputError
from ropepatch.storage import files, in_place, journal, kernel, moving
from ropepatch.storage.splice import Splice, invert, segments

BLOCK = 4096
OLD = random.Random(1).randbytes(60 * BLOCK + 77)
KINDS = (in_place.RANGE, in_place.SHIFT, in_place.REWRITE)


def change(path: Path, splices: list[Splice]) -> str:
    """Change a file in place; returns how it was done."""
    with journal.change(path.with_name("the.ropepatch-journal"), {path.name: splices}, []) as plans:
        return plans[0].kind


def spliced(old: bytes, splices: list[Splice]) -> bytes:
    """The new file, put together in memory."""
    parts = segments(splices, len(old))
    return b"".join(part if isinstance(part, bytes) else old[part[0] : sum(part)] for part in parts)


def names(path: Path) -> list[str]:
    """What lies in a file's folder."""
    return sorted(entry.name for entry in path.parent.iterdir())


def force(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only this way of moving a body be open."""
    if kind != in_place.RANGE:
        monkeypatch.setattr(kernel, "can_move_ranges", lambda _: False)
    if kind == in_place.SHIFT:
        monkeypatch.setattr(in_place, "_SPARE", 1 << 60)  # there is never as much room
        monkeypatch.setattr(moving, "CHUNK", 10_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file to change, alone in its folder."""
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    return path


def splice(offset: int, length: int, after: bytes) -> Splice:
    """A splice of the old file."""
    return Splice(offset, OLD[offset : offset + length], after)


GROWING = [splice(8, 8, b"counts!!"), splice(6000, 5, b"x" * (5 + BLOCK)), splice(len(OLD), 0, b"added tensor")]
CHANGES = {
    "values": [splice(8, 4, b"abcd"), splice(99_000, 3, b"xyz")],
    "head grows": GROWING[:2],
    "head and tail grow": GROWING,
    "head grows, values in the body": [*GROWING[:2], splice(99_000, 3, b"xyz"), *GROWING[2:]],
    "grows by an odd number": [splice(6000, 5, b"odd" * 11)],
    "shrinks": [splice(BLOCK * 2 - 9, BLOCK + 100, b"y" * 100)],
    "shrinks at both ends": [splice(BLOCK * 2, BLOCK, b""), splice(len(OLD) - 40, 40, b"")],
    "tail only": [splice(len(OLD), 0, b"z" * 100)],
    "several moves": [splice(0, 0, b"a" * 7), splice(20_000, 10, b""), splice(150_000, 0, b"b" * BLOCK)],
    "ends pull apart": [splice(5, 0, b"c" * BLOCK), splice(len(OLD) - 100, 100, b"")],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
def test_every_way_gives_the_same_bytes(source: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the body is moved, the file is what the splices say; their inverse restores it; nothing else is left."""
    force(kind, monkeypatch)
    splices = CHANGES[name]
    change(source, splices)
    assert source.read_bytes() == spliced(OLD, splices)
    assert names(source) == ["model.bin"]
    change(source, invert(splices))
    assert source.read_bytes() == OLD
    assert names(source) == ["model.bin"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_is_the_one_that_is_open(source: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A growing head moves the body by the kernel where it can, else by a new file, else within the file."""
    if kind == in_place.RANGE and not kernel.can_move_ranges(source.parent):
        pytest.skip("this file system moves no ranges")
    force(kind, monkeypatch)
    inode = source.stat().st_ino
    assert change(source, GROWING) == kind
    assert (source.stat().st_ino == inode) == (kind != in_place.REWRITE)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_splices(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str) -> None:
    """Splices anywhere, of any length, give the bytes that they say, and their inverse gives the old ones."""
    places = sorted(data.draw(st.lists(st.integers(0, len(OLD)), max_size=8, unique=True)))
    lengths = st.sampled_from([0, 1, 32, BLOCK, 2 * BLOCK])
    splices = []
    for offset, following in itertools.pairwise([*places, len(OLD)]):
        before = min(data.draw(lengths), following - offset)
        splices.append(splice(offset, before, data.draw(st.binary(min_size=1, max_size=3)) * data.draw(lengths)))
    path = tmp_path_factory.mktemp("any") / "model.bin"
    path.write_bytes(OLD)
    with pytest.MonkeyPatch.context() as patch:
        force(kind, patch)
        patch.setattr(in_place, "BODY_FROM", 5000)
        patch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug here
        change(path, splices)
        assert path.read_bytes() == spliced(OLD, splices)
        change(path, invert(splices))
    assert path.read_bytes() == OLD
    assert names(path) == ["model.bin"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
def test_what_fails_afterwards_undoes_it(
    source: Path, kind: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the work after the change fails, the old file and the kept files are there again, and no journal."""
    force(kind, monkeypatch)
    record = source.with_name("record.json")
    record.write_text("old record")

    def fail() -> None:
        place = source.with_name("the.ropepatch-journal")
        with journal.change(place, {source.name: GROWING}, ["record.json", "fresh.json"]):
            assert source.read_bytes() == spliced(OLD, GROWING)
            files.write_bytes(record, b"new record", overwrite=True)
            files.write_bytes(source.with_name("fresh.json"), b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert source.read_bytes() == OLD
    assert record.read_text() == "old record"
    assert names(source) == ["model.bin", "record.json"]


def test_splices_of_another_file_are_refused(source: Path) -> None:
    """A file that does not hold what a splice replaces is not touched."""
    for wrong in (b"not these", b"123456789"):
        with pytest.raises(InputError, match="holds other bytes"):
            change(source, [Splice(10, wrong, b"987654321")])
    assert names(source) == ["model.bin"]
    assert source.read_bytes() == OLD


def test_in_place_of_the_same_length_keeps_the_file(source: Path) -> None:
    """Values of the same length are overwritten in the same inode: nothing else is written."""
    inode = source.stat().st_ino
    change(source, [Splice(8, OLD[8:12], b"abcd")])
    assert source.read_bytes() == OLD[:8] + b"abcd" + OLD[12:]
    assert source.stat().st_ino == inode


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_in_place_never_changes_a_file_under_another_name(source: Path, link: Callable[[Path, Path], None]) -> None:
    """A hard link (how weights are shared) or the target of a symbolic one (the Hub's cache) keeps the old bytes."""
    other = source.with_name("other")
    link(source, other)
    change(other, [Splice(8, OLD[8:12], b"abcd")])
    assert other.read_bytes() == OLD[:8] + b"abcd" + OLD[12:]
    assert source.read_bytes() == OLD
    assert names(source) == ["model.bin", "other"]


def test_in_place_of_another_length_replaces_the_file(source: Path) -> None:
    """A file that grows is written anew and takes the name at once; a hard link keeps the old bytes."""
    other = source.with_name("other")
    os.link(source, other)
    change(source, GROWING)
    assert source.read_bytes() == spliced(OLD, GROWING)
    assert other.read_bytes() == OLD
    change(source, invert(GROWING))
    assert source.read_bytes() == OLD
    assert names(source) == ["model.bin", "other"]
