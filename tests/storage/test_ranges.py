"""Moving ranges between open files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropepatch.errors import InputError
from ropepatch.storage import kernel, ranges

SIZE = 9 << 20  # more than the range from which blocks are taken beforehand


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A source with bytes that differ everywhere, and an empty target, on a file system that shares no blocks."""
    monkeypatch.setattr(kernel, "clone_range", lambda *_: False)
    (tmp_path / "source").write_bytes(os.urandom(SIZE))
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("able", [True, False])
def test_a_long_range_behind_a_head(ends: tuple[int, int], able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is whole and no longer than it should be, with blocks taken beforehand and without."""
    if not able:
        monkeypatch.setattr(kernel, "_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    source, target = ends
    os.write(target, b"head")

    ranges.copy_range(source, target, 100, SIZE - 200)

    assert os.fstat(target).st_size == 4 + SIZE - 200
    assert os.pread(target, SIZE, 0) == b"head" + os.pread(source, SIZE - 200, 100)


def test_a_full_disk_is_known_before_the_copy(ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the blocks cannot be taken, not one byte is copied."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kernel, "_fallocate", full)
    moved: list[int] = []

    with pytest.raises(OSError, match="No space left"):
        ranges.copy_range(*ends, 0, SIZE, moved.append)

    assert moved == []
    assert os.fstat(ends[1]).st_size == 0


def test_a_source_that_became_shorter_is_refused(ends: tuple[int, int]) -> None:
    """Blocks are taken for no more than is there, and the end is noticed."""
    with pytest.raises(InputError, match="ends before"):
        ranges.copy_range(*ends, 0, SIZE + 5)
    assert os.fstat(ends[1]).st_size == SIZE
