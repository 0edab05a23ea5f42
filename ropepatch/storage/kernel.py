"""What the kernel does to files without moving their bytes: shared blocks, inserted and removed ranges, locks.

Every call says plainly that it cannot (False, None) where the file system or the system lacks it; what goes wrong
otherwise is an ``OSError``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: linux/fs.h
_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
#: linux/falloc.h
_COLLAPSE = 0x08
_INSERT = 0x20
#: fcntl.h, SYNC_FILE_RANGE_WRITE
_WRITE = 2
#: what a kernel or file system answers when it has no such call, or not for such a file
UNABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EXDEV, errno.EPERM, errno.ETXTBSY)


def clone(target: int, source: int) -> bool:
    """Let ``target`` share all blocks of ``source``; False where it cannot."""
    return _able(lambda: fcntl.ioctl(target, _FICLONE, source))


def clone_range(target: int, source: int, offset: int, length: int, at: int) -> bool:
    """Let ``target`` share a range of ``source``; offsets and length are multiples of the block size.

    Args:
        target: the descriptor that is written.
        source: the descriptor whose blocks are shared.
        offset: where the range starts in ``source``.
        length: its length; 0 for all that follows.
        at: where it starts in ``target``.
    """
    return _able(lambda: fcntl.ioctl(target, _FICLONERANGE, struct.pack("qQQQ", source, offset, length, at)))


def insert_range(descriptor: int, offset: int, length: int) -> bool:
    """Push everything from ``offset`` on by ``length`` bytes, both multiples of the block size; False where it cannot.

    The kernel renumbers extents: no byte of the file is read or written.
    """
    return _able(lambda: _fallocate(descriptor, _INSERT, offset, length))


def collapse_range(descriptor: int, offset: int, length: int) -> bool:
    """Take ``length`` bytes out at ``offset``, both multiples of the block size; False where it cannot."""
    return _able(lambda: _fallocate(descriptor, _COLLAPSE, offset, length))


def allocate(descriptor: int, offset: int, length: int) -> bool:
    """Take the blocks of a range that will be written, and let the file reach to its end; False where it cannot.

    A full disk is known before the first byte is copied then, and the copy finds its blocks at once.
    """
    return _able(lambda: _fallocate(descriptor, 0, offset, length))


def _able(call: Callable[[], Any]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        return False
    return True


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    call = getattr(_libc(), "fallocate", None)
    if call is None:
        raise OSError(errno.ENOSYS, "no fallocate on this system")
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if ctypes.sizeof(ctypes.c_void_p) < 8:
        call = _libc().fallocate64
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if call(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def begin_write_back(descriptor: int, offset: int, length: int) -> bool:
    """Let the disk begin with a range that was just written, without waiting for it; False where there is no such call.

    A later fsync then finds little left to do. Nothing is promised by it: neither the file's length nor its name.
    """
    call = getattr(_libc(), "sync_file_range", None)
    if call is None or ctypes.sizeof(ctypes.c_void_p) < 8:
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return bool(call(descriptor, offset, length, _WRITE) == 0)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def block_size(path: Path | int) -> int:
    """The unit in which the file system of a path or descriptor shares and moves ranges.

    Network and memory file systems report transfer sizes of a mebibyte; none of them moves ranges, and 4096 is as
    good as any there.
    """
    size = os.statvfs(path).f_bsize
    return size if 512 <= size <= 1 << 16 and size & (size - 1) == 0 else 4096


def unnamed(folder: Path) -> int | None:
    """A new file in ``folder`` that has no name and vanishes with its descriptor; None where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, flag | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (*UNABLE, errno.EISDIR):
            return None
        raise


def give_name(descriptor: int, path: Path) -> None:
    """Put an unnamed file under ``path``.

    Raises:
        FileExistsError: there is something under that name.
    """
    # A directory descriptor makes Python call linkat, which alone follows the link in /proc to the file itself.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)


def shares_blocks(source: Path, folder: Path) -> bool:
    """Whether a new file in ``folder`` can share blocks with ``source``: tried on a file without a name."""
    if os.stat(source).st_dev != os.stat(folder).st_dev:
        return False
    probe = unnamed(folder)
    if probe is None:
        return False
    origin = os.open(source, os.O_RDONLY)
    try:
        block = block_size(source)
        return os.fstat(origin).st_size >= block and clone_range(probe, origin, 0, block, 0)
    finally:
        os.close(origin)
        os.close(probe)


def can_move_ranges(folder: Path) -> bool:
    """Whether files in ``folder`` can have ranges inserted and removed: tried on one without a name."""
    probe = unnamed(folder)
    if probe is None:
        return False
    try:
        block = block_size(folder)
        os.pwrite(probe, bytes(3 * block), 0)
        return insert_range(probe, block, block) and collapse_range(probe, block, block)
    finally:
        os.close(probe)


def lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file until it is closed; False when another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def lock_holder(descriptor: int) -> int | None:
    """The process that holds the lock of an open file, where the system tells."""
    status = os.fstat(descriptor)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
            return int(fields[4])
    return None
