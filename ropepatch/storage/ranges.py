"""A range of bytes from one open file to another: its blocks are shared where that can be, else the kernel copies."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ropepatch.errors import InputError
from ropepatch.storage import kernel

#: One request to the kernel; progress is reported between requests.
CHUNK = 16 << 20
#: a range has to be this long before sharing its blocks is worth the calls
SHARED_FROM = 1 << 20
#: a range has to be this long before taking its blocks beforehand is worth the call
_ALLOCATED_FROM = 8 << 20

Progress = Callable[[int], None]


def expect(progress: Progress | None, count: int) -> None:
    """Tell who watches, if it wants to know, that ``count`` more bytes will be reported."""
    told = getattr(progress, "expect", None)
    if told is not None:
        told(count)


def copy_range(
    source: int, target: int, offset: int, length: int, progress: Progress | None = None, *, sync: bool = False
) -> None:
    """Append ``length`` bytes of ``source`` from ``offset`` to ``target``: blocks are shared where both ends of the
    copy lie alike in them and the file system can, the rest is copied by the kernel where it can.

    Args:
        source: the descriptor that is read.
        target: the descriptor that is written, where it stands.
        offset: where the range starts in ``source``.
        length: how many bytes.
        progress: called with the number of bytes just copied.
        sync: the target will be flushed afterwards: let the disk begin while the copy goes on.

    Raises:
        InputError: the source ends early.
    """
    if length >= SHARED_FROM:
        offset, length = _share(source, target, offset, length, progress)
    if length >= _ALLOCATED_FROM:
        _allocate(source, target, offset, length)
    by_kernel = hasattr(os, "copy_file_range")
    while length:
        count = min(length, CHUNK)
        done = 0
        if by_kernel:
            try:
                done = os.copy_file_range(source, target, count, offset)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                    raise
                by_kernel = False
        if not by_kernel:
            done = write_all(target, os.pread(source, min(count, 1 << 20), offset))
        if done == 0:
            raise InputError("the file ends before its own header says", where=f"offset {offset}")
        if sync and done >= SHARED_FROM:
            kernel.begin_write_back(target, os.lseek(target, 0, os.SEEK_CUR) - done, done)
        offset, length = offset + done, length - done
        if progress:
            progress(done)


def _allocate(source: int, target: int, offset: int, length: int) -> None:
    """Take the blocks of what will be copied, as far as the source goes: it may be shorter than it was."""
    there = min(length, os.fstat(source).st_size - offset)
    if there > 0:
        kernel.allocate(target, os.lseek(target, 0, os.SEEK_CUR), there)


def _share(source: int, target: int, offset: int, length: int, progress: Progress | None) -> tuple[int, int]:
    """Share as many whole blocks as lie alike; returns the offset and length of what is left to copy."""
    at = os.lseek(target, 0, os.SEEK_CUR)
    block = kernel.block_size(target)
    head = -offset % block
    whole = (length - head) // block * block
    if (at - offset) % block or whole <= 0:
        return offset, length
    if not kernel.clone_range(target, source, offset + head, whole, at + head):
        return offset, length
    if head:
        copied = os.pread(source, head, offset)
        if len(copied) != head:
            raise InputError("the file ends before its own header says", where=f"offset {offset}")
        write_all(target, copied)
    os.lseek(target, at + head + whole, os.SEEK_SET)
    if progress:
        progress(head + whole)
    return offset + head + whole, length - head - whole


def write_all(target: int, data: bytes) -> int:
    """Write all of ``data`` where ``target`` stands; returns its length."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)
