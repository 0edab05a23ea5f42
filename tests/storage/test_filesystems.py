"""On real file systems in image files: blocks are shared and ranges moved where that exists; nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ropepatch
from ropepatch.containers import gguf
from ropepatch.errors import translated
from ropepatch.storage import in_place, journal, kernel
from ropepatch.storage.splice import Splice
from tests.storage.test_in_place import GROWING, OLD, spliced
from tests.support import faults, mounts, tiny

SPEC = tiny.ModelSpec(
    layers=2, hidden=256, heads=2, kv_heads=1, head_dim=128, intermediate=512, vocab=2000, context=256
)
#: file system -> (moves ranges, shares blocks)
ABLE = {"xfs": (True, True), "btrfs": (False, True), "ext4": (True, False)}


@pytest.fixture(params=ABLE, scope="module")
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Each file system in turn."""
    kind: str = request.param
    with mounts.mounted(kind, tmp_path_factory.mktemp(kind)) as place:
        yield place


@pytest.fixture
def place(disk: Path, request: pytest.FixtureRequest) -> Path:
    """A fresh folder on the disk."""
    folder = disk / str(abs(hash(request.node.name)))
    folder.mkdir()
    return folder


def kind_of(disk: Path) -> str:
    """The file system's name."""
    return disk.name.removeprefix("mount-")


def digest(path: Path) -> str:
    """sha256 by hashlib alone."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_each_can(disk: Path, place: Path) -> None:
    """The probes say what the file system is known for."""
    file = place / "file"
    file.write_bytes(OLD)
    assert (kernel.can_move_ranges(place), kernel.shares_blocks(file, place)) == ABLE[kind_of(disk)]


@pytest.mark.parametrize("method", ["yarn", "mrrope-pro"])
def test_a_new_file_and_back(disk: Path, place: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output shares the tensor data's blocks where it can, is verified byte by byte, and turns back."""
    shared: list[int] = []
    original = kernel.clone_range

    def counting(target: int, source: int, offset: int, length: int, at: int) -> bool:
        done = original(target, source, offset, length, at)
        shared.append(length * done)
        return done

    model = tiny.write_gguf(place / "model.gguf", SPEC)
    before = digest(model)
    assert model.stat().st_size > 1 << 20
    patch = ropepatch.open(model).patch(method, 4.0)
    monkeypatch.setattr(kernel, "clone_range", counting)
    patch.write(place / "out.gguf", digest="full")
    if ABLE[kind_of(disk)][1]:
        assert sum(shared) > 0.9 * model.stat().st_size
    else:
        assert sum(shared) == 0
    assert digest(ropepatch.revert(place / "out.gguf", output=place / "back.gguf")) == before == digest(model)


@pytest.mark.parametrize("method", ["yarn", "mrrope-pro"])
def test_in_place_and_back(disk: Path, place: Path, method: str) -> None:
    """A patch in place moves the data by whole blocks, a second one not at all; both turn back byte for byte."""
    model = tiny.write_gguf(place / "model.gguf", SPEC)
    states = [digest(model)]
    inode, start = model.stat().st_ino, gguf.scan(model).data_offset
    ropepatch.open(model).patch(method, 4.0).write(in_place=True)
    states.append(digest(model))
    assert (gguf.scan(model).data_offset - start) % 4096 == 0
    assert (model.stat().st_ino == inode) == ABLE[kind_of(disk)][0]
    inode, start = model.stat().st_ino, gguf.scan(model).data_offset
    ropepatch.open(model).patch("ntk", 8.0, existing="replace").write(in_place=True)
    assert gguf.scan(model).data_offset == start
    assert model.stat().st_ino == inode
    for state in reversed(states):
        ropepatch.revert(model, in_place=True)
        assert digest(model) == state
    assert [path.name for path in place.iterdir()] == ["model.gguf"]


def test_killed_in_a_change(place: Path) -> None:
    """A kill at any step, and a recover, give the old file or the new one on this file system, too."""
    path, record = place / "model.bin", place / "the.ropepatch-journal"

    def work() -> None:
        with journal.change(record, {path.name: GROWING}, []):
            pass

    for _ in faults.kill_points(work, lambda: path.write_bytes(OLD), torn=True):
        journal.recover(record)
        assert path.read_bytes() in (OLD, spliced(OLD, GROWING))
        assert [entry.name for entry in place.iterdir()] == ["model.bin"]


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk(tmp_path: Path, kind: str) -> None:
    """On a disk without room a new file is refused in one line; the input is intact, and no stray file is left."""
    with mounts.mounted(kind, tmp_path, mebibytes=64 if kind == "ext4" else 12) as place:
        model = tiny.write_gguf(place / "model.gguf", SPEC)
        fill(place / "filler")
        before = digest(model)
        with pytest.raises(OSError, match="No space left") as caught:
            ropepatch.open(model).patch("yarn", 4.0).write()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(place / "model-yarn-4x.gguf")
        assert "MiB are free there" in str(translated(caught.value))
        assert digest(model) == before
        assert {path.name for path in place.iterdir()} <= {"model.gguf", "filler", "lost+found"}


def test_in_place_without_room_for_a_second_file(tmp_path: Path) -> None:
    """Where the kernel moves no ranges and a copy does not fit, the data are moved within the file, and back."""
    with mounts.mounted("tmpfs", tmp_path, mebibytes=104) as place:
        path, record = place / "model.bin", place / "the.ropepatch-journal"
        old = OLD * (70 << 20 >> 18)
        path.write_bytes(old)
        grown = [Splice(6000, old[6000:6005], b"x" * 5000)]
        with journal.change(record, {path.name: grown}, []) as plans:
            assert plans[0].kind == in_place.SHIFT
        assert path.read_bytes() == old[:6000] + b"x" * 5000 + old[6005:]
        back = [Splice(6000, b"x" * 5000, old[6000:6005])]
        with journal.change(record, {path.name: back}, []):
            pass
        assert path.read_bytes() == old
