"""The bytes of a large file on their way to a new one, while it is still worked out what will stand in front of them.

Until a patch is made and examined some time goes by, in which the kernel can copy hundreds of megabytes. All that the
copy needs to know is by how much the tensor data will move: by one block, for a header that grows by less. Where that
turns out otherwise, or nothing is written in the end, what was copied vanishes with its descriptor: it has no name.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ropepatch.storage import kernel, ranges
from ropepatch.storage.ranges import Progress

#: smaller files are copied before a thread has begun
WORTH = 256 << 20
_LOOK = 0.05

Pieces = Sequence[tuple[int, int] | bytes]


class _Stopped(Exception):
    pass


class Ahead:
    """A copy that has begun.

    Args:
        origin: the descriptor that is read.
        target: a new file without a name.
        shift: how far the bytes move.
        sync: the new file will be flushed.
    """

    def __init__(self, origin: int, target: int, shift: int, sync: bool) -> None:
        self._origin, self._target, self._shift = origin, target, shift
        self._seen = _identity(origin)
        self._moved, self._stop, self._sync = 0, False, sync
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        os.lseek(target, shift, os.SEEK_SET)
        self._thread.start()

    def _run(self) -> None:
        try:
            size = os.fstat(self._origin).st_size
            ranges.copy_range(self._origin, self._target, 0, size, self._count, sync=self._sync)
        except Exception as error:  # told to whoever wants the bytes
            self._error = error

    def _count(self, moved: int) -> None:
        self._moved += moved
        if self._stop:
            raise _Stopped

    def fits(self, origin: int, pieces: Pieces) -> bool:
        """Whether the file is the one that is copied, unchanged, and all but little of it moves as foreseen."""
        size = self._seen[2]
        copied = sum(length for at, offset, length in _ranges(pieces) if at - offset == self._shift)
        return _identity(origin) == self._seen and size - copied < WORTH // 2

    def complete(self, pieces: Pieces, progress: Progress | None) -> None:
        """Wait for the copy, write what is not in it, and cut off what is too much.

        Raises:
            OSError: the disk is full or broken.
            InputError: the file became shorter.
        """
        told, ended = 0, False
        while not ended:
            self._thread.join(_LOOK if progress else None)
            ended, moved = not self._thread.is_alive(), self._moved
            if progress and moved > told:
                progress(moved - told)
                told = moved
        if self._error is not None:
            raise self._error
        end = 0
        for piece in pieces:
            os.lseek(self._target, end, os.SEEK_SET)
            if isinstance(piece, bytes):
                end += ranges.write_all(self._target, piece)
                continue
            if end - piece[0] != self._shift:
                ranges.copy_range(self._origin, self._target, *piece, sync=self._sync)
            end += piece[1]
        os.ftruncate(self._target, end)

    def descriptor(self) -> int:
        """A descriptor of the new file, for the caller to close."""
        return os.dup(self._target)

    def close(self) -> None:
        """Stop where it is."""
        self._stop = True
        self._thread.join()
        os.close(self._target)
        os.close(self._origin)


#: what this process has begun; one file at a time
_BEGUN: list[Ahead] = []


@contextlib.contextmanager
def begun(source: Path, folder: Path, *, sync: bool) -> Iterator[None]:
    """Copy ``source`` to a file without a name in ``folder`` while the block works; it is found by :func:`taken`.

    Nothing is done where it does not pay (a small file, a file system that shares blocks) or cannot be.
    """
    made = None
    with contextlib.suppress(OSError):
        made = _begin(source, folder, sync)
    if made is None:
        yield
        return
    _BEGUN.append(made)
    try:
        yield
    finally:
        _BEGUN.clear()
        made.close()


def _begin(source: Path, folder: Path, sync: bool) -> Ahead | None:
    size, disk = source.stat().st_size, os.statvfs(folder)
    if size < WORTH or not source.is_file() or disk.f_bavail * disk.f_frsize < 2 * size:
        return None
    if kernel.shares_blocks(source, folder):
        return None
    with contextlib.ExitStack() as opened:
        target = kernel.unnamed(folder)
        if target is None:
            return None
        opened.callback(os.close, target)
        origin = os.open(source, os.O_RDONLY)
        opened.callback(os.close, origin)
        made = Ahead(origin, target, kernel.block_size(folder), sync)
        opened.pop_all()  # they are the copy's now
        return made


def taken(origin: int, folder: Path, pieces: Pieces) -> Ahead | None:
    """The copy that has begun of the file that is open as ``origin``, where it can become what ``pieces`` say.

    Args:
        origin: the input.
        folder: where the output will stand.
        pieces: the output, in order: offset and length of a range of the input, or new bytes.
    """
    for one in _BEGUN:
        if os.fstat(one._target).st_dev == os.stat(folder).st_dev and one.fits(origin, pieces):
            return one
    return None


def _ranges(pieces: Pieces) -> Iterator[tuple[int, int, int]]:
    """Place in the output, offset in the input and length of every range."""
    at = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            at += len(piece)
        else:
            yield at, *piece
            at += piece[1]


def _identity(descriptor: int) -> tuple[int, int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
