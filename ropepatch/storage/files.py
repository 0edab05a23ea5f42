"""Writing files: kernel copies, atomic appearance under the final name, links, digests."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ropepatch.errors import InputError, WouldOverwrite
from ropepatch.storage.splice import Splice, check, same_size, segments

#: One request to the kernel; progress is reported between requests.
CHUNK = 64 << 20
_FICLONE = 0x40049409

Progress = Callable[[int], None]


def copy_range(source: int, target: int, offset: int, length: int, progress: Progress | None = None) -> None:
    """Append ``length`` bytes of ``source`` from ``offset`` to ``target``, by the kernel where it can.

    Raises:
        InputError: the source ends early.
    """
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
            done = _write_all(target, os.pread(source, min(count, 1 << 20), offset))
        if done == 0:
            raise InputError("the file ends before its own header says", where=f"offset {offset}")
        offset, length = offset + done, length - done
        if progress:
            progress(done)


def _write_all(target: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)


@contextlib.contextmanager
def appearing(path: Path, *, overwrite: bool = False) -> Iterator[int]:
    """A file descriptor whose bytes appear under ``path`` only when the block ends well.

    The bytes go to a temporary name in the same folder, are flushed to disk and renamed; on an error or an
    interrupt nothing is left behind.

    Raises:
        WouldOverwrite: ``path`` exists and ``overwrite`` is false.
    """
    if not overwrite and os.path.lexists(path):
        raise WouldOverwrite("exists already", where=str(path), hint="choose another name with -o")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        yield descriptor
        os.fchmod(descriptor, 0o666 & ~umask())
        os.fsync(descriptor)
        if overwrite:
            os.replace(name, path)
        else:
            _rename_new(name, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    finally:
        os.close(descriptor)


def _rename_new(name: str, path: Path) -> None:
    """Rename without replacing a file that appeared in the meantime, where the file system has hard links."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise WouldOverwrite("appeared while it was being written", where=str(path)) from None
    except OSError:
        os.rename(name, path)
    else:
        os.unlink(name)


def umask() -> int:
    """The process's mask of permission bits for new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot flush a folder
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a small file whole or not at all."""
    with appearing(path, overwrite=overwrite) as target:
        _write_all(target, data)


def write_spliced(
    source: Path, target: Path, splices: Sequence[Splice], *, overwrite: bool = False, progress: Progress | None = None
) -> None:
    """Write ``source`` with ``splices`` applied to a new file ``target``.

    Raises:
        WouldOverwrite: ``target`` exists and ``overwrite`` is false.
        InputError: the source does not hold the bytes that a splice expects.
    """
    origin = os.open(source, os.O_RDONLY)
    try:
        size = os.fstat(origin).st_size
        _check_before(origin, source, splices, size)
        with appearing(target, overwrite=overwrite) as descriptor:
            for segment in segments(splices, size):
                if isinstance(segment, bytes):
                    _write_all(descriptor, segment)
                else:
                    copy_range(origin, descriptor, *segment, progress)
    finally:
        os.close(origin)


def apply_in_place(path: Path, splices: Sequence[Splice], *, progress: Progress | None = None) -> None:
    """Apply ``splices`` to ``path`` itself: overwritten when no length changes, else rewritten and renamed.

    Raises:
        InputError: the file does not hold the bytes that a splice expects.
    """
    shared = path.is_symlink() or path.stat().st_nlink > 1  # overwriting would change the other name's file too
    if shared or not same_size(splices):
        write_spliced(path, path, splices, overwrite=True, progress=progress)
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        _check_before(descriptor, path, splices, os.fstat(descriptor).st_size)
        for splice in splices:
            os.pwrite(descriptor, splice.after, splice.offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_before(descriptor: int, path: Path, splices: Sequence[Splice], size: int) -> None:
    try:
        check(splices, size)
    except ValueError as error:
        raise InputError(str(error), where=str(path)) from None
    for splice in splices:
        if os.pread(descriptor, len(splice.before), splice.offset) != splice.before:
            raise InputError(
                f"holds other bytes at offset {splice.offset} than the patch was made for",
                where=str(path),
                hint="the file has changed since",
            )


def clone_or_copy(source: Path, target: Path, *, progress: Progress | None = None) -> None:
    """A new file with the same bytes: sharing blocks where the file system can, copied by the kernel else."""
    origin = os.open(source, os.O_RDONLY)
    try:
        with appearing(target) as descriptor:
            try:
                fcntl.ioctl(descriptor, _FICLONE, origin)
            except OSError:
                copy_range(origin, descriptor, 0, os.fstat(origin).st_size, progress)
        shutil.copymode(source, target)
    finally:
        os.close(origin)


def link_or_copy(source: Path, target: Path, *, progress: Progress | None = None) -> str:
    """``target`` with the bytes of ``source``, without moving them where possible.

    A reflink is tried first (independent file, shared blocks), then a hard link, then a copy.

    Returns:
        ``reflink``, ``hardlink`` or ``copy``: what it came to.
    """
    origin = os.open(source, os.O_RDONLY)
    try:
        with appearing(target) as descriptor:
            fcntl.ioctl(descriptor, _FICLONE, origin)
        return "reflink"
    except OSError:
        pass
    finally:
        os.close(origin)
    try:
        os.link(source.resolve(), target)
        return "hardlink"
    except OSError:
        clone_or_copy(source, target, progress=progress)
        return "copy"


def sha256(path: Path, *, progress: Progress | None = None) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()
