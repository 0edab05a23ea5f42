"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropepatch.errors import InputError, WouldOverwrite
from ropepatch.storage import files, ranges
from ropepatch.storage.splice import Splice, invert

OLD = bytes(range(256)) * 40
SPLICES = [Splice(0, OLD[:4], b"NEW!!"), Splice(100, b"", b"inserted"), Splice(5000, OLD[5000:5100], b"")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file to patch, alone in its folder."""
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    return path


def names(path: Path) -> list[str]:
    """What lies in a file's folder."""
    return sorted(entry.name for entry in path.parent.iterdir())


def spliced() -> bytes:
    """The new file."""
    return b"NEW!!" + OLD[4:100] + b"inserted" + OLD[100:5000] + OLD[5100:]


def no_kernel(*_: Any) -> int:
    """A kernel that cannot copy between files."""
    raise OSError(errno.EXDEV, "no")


@pytest.mark.parametrize("kernel", [True, False])
def test_write_spliced_and_back(source: Path, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is exact, undoing it gives the old one, with the kernel's copy and without it."""
    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", no_kernel, raising=False)
    target, back = source.with_name("new"), source.with_name("back")
    moved: list[int] = []
    files.write_spliced(source, target, SPLICES, progress=moved.append)
    assert target.read_bytes() == spliced()
    assert sum(moved) == len(OLD) - 104
    files.write_spliced(target, back, invert(SPLICES))
    assert back.read_bytes() == OLD
    assert source.read_bytes() == OLD


def test_copies_larger_than_one_request(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges are copied piece by piece where the kernel gives less than asked for."""
    monkeypatch.setattr(ranges, "CHUNK", 7)
    files.write_spliced(source, source.with_name("new"), SPLICES)
    assert source.with_name("new").read_bytes() == spliced()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), RuntimeError("bug")])
@pytest.mark.parametrize("step", ["copy_range", "write_all", "sync_folder"])
def test_nothing_is_left_behind(source: Path, step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt, a full disk or a bug at any step leaves the input alone and no other file behind."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    if step == "sync_folder":  # the last step: the file stands already when it fails
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(ranges, step, fail)
    with pytest.raises(type(error)):
        files.write_spliced(source, source.with_name("new"), SPLICES)
    assert names(source) == ["model.bin"]
    assert source.read_bytes() == OLD


def test_an_interrupt_in_the_middle_of_a_copy(source: Path) -> None:
    """Stopped by the progress report half way, nothing appears under the final name or any other."""

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_spliced(source, source.with_name("new"), SPLICES, progress=stop)
    assert names(source) == ["model.bin"]


def test_the_final_name_is_empty_until_the_end(source: Path) -> None:
    """While bytes are written the target does not exist."""
    seen: list[bool] = []
    target = source.with_name("new")
    files.write_spliced(source, target, SPLICES, progress=lambda _: seen.append(target.exists()))
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_exists_is_not_overwritten(source: Path, kind: str) -> None:
    """A file, a folder or a dangling link under the final name is left as it is."""
    target = source.with_name("new")
    make: dict[str, Callable[[], Any]] = {
        "file": lambda: target.write_bytes(b"mine"),
        "folder": target.mkdir,
        "dangling link": lambda: target.symlink_to("nowhere"),
    }
    make[kind]()
    with pytest.raises(WouldOverwrite, match="exists already"):
        files.write_spliced(source, target, SPLICES)
    assert names(source) == ["model.bin", "new"]
    as_it_was = {
        "file": lambda: target.read_bytes() == b"mine",
        "folder": lambda: target.is_dir() and not any(target.iterdir()),
        "dangling link": lambda: target.is_symlink() and not target.exists(),
    }
    assert as_it_was[kind]()


def test_a_file_that_appears_meanwhile_is_not_overwritten(source: Path) -> None:
    """Another program's file, made while ours was being written, wins."""
    target = source.with_name("new")
    with pytest.raises(WouldOverwrite, match="appeared"):
        files.write_spliced(source, target, SPLICES, progress=lambda _: target.write_bytes(b"theirs") and None)
    assert target.read_bytes() == b"theirs"
    assert names(source) == ["model.bin", "new"]


def test_splices_of_another_file_are_refused(source: Path) -> None:
    """A source that does not hold what a splice replaces is not touched, and no output appears."""
    wrong = [Splice(10, b"not these", b"x")]
    for act in (
        lambda: files.write_spliced(source, source.with_name("new"), wrong),
        lambda: files.write_spliced(source, source.with_name("new"), [Splice(len(OLD), b"x", b"")]),
    ):
        with pytest.raises(InputError, match=r"holds other bytes|leaves the file"):
            act()
    assert names(source) == ["model.bin"]
    assert source.read_bytes() == OLD


def test_a_new_file_has_the_usual_mode(source: Path) -> None:
    """The output is as readable as any new file, not private like a temporary one."""
    mask = os.umask(0o027)
    try:
        files.write_spliced(source, source.with_name("new"), SPLICES)
        files.write_bytes(source.with_name("small"), b"x")
    finally:
        os.umask(mask)
    for name in ("new", "small"):
        assert stat.S_IMODE(source.with_name(name).stat().st_mode) == 0o640


def test_link_or_copy(source: Path) -> None:
    """The same bytes by the cheapest way that the file system has; what it was is said truly."""
    target = source.with_name("linked")
    how = files.link_or_copy(source, target)
    assert target.read_bytes() == OLD
    assert how in ("reflink", "hardlink")
    assert (target.stat().st_ino == source.stat().st_ino) == (how == "hardlink")
    assert names(source) == ["linked", "model.bin"]


def test_link_or_copy_follows_a_link_to_the_bytes(source: Path) -> None:
    """A symbolic link (the Hub's cache is full of them) gives a real file, not a link to a link."""
    link = source.with_name("blob-link")
    link.symlink_to(source.name)
    files.link_or_copy(link, source.with_name("linked"))
    assert not source.with_name("linked").is_symlink()
    assert source.with_name("linked").read_bytes() == OLD


def test_link_or_copy_falls_back_to_a_copy(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reflinks and hard links the bytes are copied."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(files.kernel.fcntl, "ioctl", refuse)
    with monkeypatch.context() as inner:
        inner.setattr(os, "link", refuse)
        target = source.with_name("copied")
        assert files.link_or_copy(source, target) == "copy"
    assert target.read_bytes() == OLD
    assert target.stat().st_ino != source.stat().st_ino
    assert names(source) == ["copied", "model.bin"]


def test_link_or_copy_does_not_overwrite(source: Path) -> None:
    """What exists is left as it is."""
    target = source.with_name("linked")
    target.write_bytes(b"mine")
    with pytest.raises(WouldOverwrite):
        files.link_or_copy(source, target)
    assert target.read_bytes() == b"mine"


def test_clone_or_copy_is_another_file(source: Path) -> None:
    """A clone is independent: writing to it leaves the source alone."""
    target = source.with_name("clone")
    files.clone_or_copy(source, target)
    with open(target, "r+b") as file:
        file.write(b"changed")
    assert source.read_bytes() == OLD


def test_sha256(source: Path) -> None:
    """The digest is hashlib's."""
    assert files.sha256(source) == hashlib.sha256(OLD).hexdigest()
