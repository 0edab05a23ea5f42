"""Writing files: kernel copies, atomic appearance under the final name, links, digests."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ropepatch.errors import InputError, WouldOverwrite
from ropepatch.storage import ahead, kernel, ranges
from ropepatch.storage.ranges import Progress
from ropepatch.storage.splice import Splice, check, segments


@contextlib.contextmanager
def appearing(
    path: Path, *, overwrite: bool = False, sync: bool = True, begun: ahead.Ahead | None = None
) -> Iterator[int]:
    """A file descriptor whose bytes appear under ``path`` only when the block ends well.

    The bytes go to a temporary name in the same folder, are flushed to disk and renamed; on an error or an
    interrupt nothing is left behind. Without ``sync`` the system flushes them when it likes: the file still appears
    whole or not at all, whatever happens to the process, but a power failure soon after may lose it. A copy that has
    ``begun`` is the file without a name that goes on.

    Raises:
        WouldOverwrite: ``path`` exists and ``overwrite`` is false.
    """
    if not overwrite and os.path.lexists(path):
        raise WouldOverwrite("exists already", where=str(path), hint="choose another name with -o")
    descriptor, name = begun.descriptor() if begun else kernel.unnamed(path.parent), None
    if descriptor is None:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        yield descriptor
        os.fchmod(descriptor, 0o666 & ~umask())
        if sync:
            os.fsync(descriptor)
        if name is not None or overwrite or not _name_new(descriptor, path):
            name = name or _part_name(descriptor, path)
            if overwrite:
                os.replace(name, path)
            else:
                _rename_new(name, path)
        if sync:
            sync_folder(path.parent)
    except BaseException:
        if name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        raise
    finally:
        os.close(descriptor)


def _name_new(descriptor: int, path: Path) -> bool:
    """Put a file without a name under its own; False where the system cannot name it."""
    try:
        kernel.give_name(descriptor, path)
    except FileExistsError:
        raise WouldOverwrite("appeared while it was being written", where=str(path)) from None
    except OSError as error:
        if error.errno not in (*kernel.UNABLE, errno.ENOENT):
            raise
        return False
    return True


def _part_name(descriptor: int, path: Path) -> str:
    """A temporary name for a file without one: only a name can take the place of another."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)  # an earlier process of this number was killed between two steps
    if not _name_new(descriptor, part):
        with open(part, "xb", buffering=0) as named:
            ranges.copy_range(descriptor, named.fileno(), 0, os.fstat(descriptor).st_size)
            os.fchmod(named.fileno(), 0o666 & ~umask())
            os.fsync(named.fileno())
    return str(part)


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


@contextlib.contextmanager
def blamed(path: Path) -> Iterator[None]:
    """What the system says without a name, or with a temporary one, of writing in the block is said of ``path``."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if nameless or str(error.filename).endswith((".part", ".ropepatch-move")):
            error.filename = str(path)
        raise


def write_bytes(path: Path, data: bytes, *, overwrite: bool = False, sync: bool = True) -> None:
    """Write a small file whole or not at all."""
    with blamed(path), appearing(path, overwrite=overwrite, sync=sync) as target:
        ranges.write_all(target, data)


def write_spliced(
    source: Path,
    target: Path,
    splices: Sequence[Splice],
    *,
    overwrite: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> None:
    """Write ``source`` with ``splices`` applied to a new file ``target``; ``sync`` as for :func:`appearing`.

    Raises:
        WouldOverwrite: ``target`` exists and ``overwrite`` is false.
        InputError: the source does not hold the bytes that a splice expects.
    """
    origin = os.open(source, os.O_RDONLY)
    try:
        size = os.fstat(origin).st_size
        check_before(origin, source, splices, size)
        ranges.expect(progress, size - sum(len(splice.before) for splice in splices))
        pieces = list(segments(splices, size))
        begun = ahead.taken(origin, target.parent, pieces)
        with appearing(target, overwrite=overwrite, sync=sync, begun=begun) as descriptor:
            if begun:
                begun.complete(pieces, progress)
                return
            for segment in pieces:
                if isinstance(segment, bytes):
                    ranges.write_all(descriptor, segment)
                else:
                    ranges.copy_range(origin, descriptor, *segment, progress, sync=sync)
    finally:
        os.close(origin)


def beginning(path: Path, splices: Sequence[Splice], count: int) -> bytes:
    """The first ``count`` bytes of what the splices make of a file, fewer where there are no more.

    Args:
        path: the file.
        splices: what is exchanged in it.
        count: how many bytes.
    """
    made = bytearray()
    with open(path, "rb", buffering=0) as file:
        for segment in segments(splices, path.stat().st_size):
            if isinstance(segment, bytes):
                made += segment
            else:
                made += os.pread(file.fileno(), min(segment[1], count - len(made)), segment[0])
            if len(made) >= count:
                break
    return bytes(made[:count])


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def check_before(descriptor: int, path: Path, splices: Sequence[Splice], size: int) -> None:
    """Hold what a file has against what the splices replace.

    Raises:
        InputError: a splice leaves the file, or expects other bytes.
    """
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


def clone_or_copy(source: Path, target: Path, *, sync: bool = True, progress: Progress | None = None) -> None:
    """A new file with the same bytes: sharing blocks where the file system can, copied by the kernel else."""
    origin = os.open(source, os.O_RDONLY)
    try:
        with appearing(target, sync=sync) as descriptor:
            if not kernel.clone(descriptor, origin):
                ranges.expect(progress, os.fstat(origin).st_size)
                ranges.copy_range(origin, descriptor, 0, os.fstat(origin).st_size, progress, sync=sync)
        shutil.copymode(source, target)
    finally:
        os.close(origin)


class _NoReflink(Exception):
    pass


def link_or_copy(source: Path, target: Path, *, sync: bool = True, progress: Progress | None = None) -> str:
    """``target`` with the bytes of ``source``, without moving them where possible.

    A reflink is tried first (independent file, shared blocks), then a hard link, then a copy.

    Returns:
        ``reflink``, ``hardlink`` or ``copy``: what it came to.
    """
    origin = os.open(source, os.O_RDONLY)
    try:
        with appearing(target, sync=sync) as descriptor:
            if not kernel.clone(descriptor, origin):
                raise _NoReflink
        return "reflink"
    except _NoReflink:
        pass
    finally:
        os.close(origin)
    try:
        os.link(source.resolve(), target)
        return "hardlink"
    except OSError:
        clone_or_copy(source, target, sync=sync, progress=progress)
        return "copy"


def sha256(path: Path, *, progress: Progress | None = None) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    import hashlib  # loads OpenSSL: many patches take no digest

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()
