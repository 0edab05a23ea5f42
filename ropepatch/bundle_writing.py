"""Writing the files of a bundle: all of them appear, or none."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ropepatch.bundle import Bundle, Progress
from ropepatch.errors import UsageError, WouldOverwrite
from ropepatch.storage import files, journal
from ropepatch.storage.splice import Splice

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pth", ".pt")
#: files up to this size are copied rather than linked, so that editing one leaves the other alone
_LINKED_FROM = 1 << 20


def write(
    source: Bundle,
    target: Bundle,
    changes: Mapping[str, list[Splice]],
    weights: str,
    progress: Progress | None = None,
    *,
    sync: bool = True,
) -> None:
    """Write ``target``: changed files with their splices, the others linked, copied or (weights only) left out.

    Args:
        source: what is read.
        target: what is written; its names correspond to the source's.
        changes: splices by the source's file name.
        weights: ``link``, ``copy`` or ``none``.
        progress: called with the number of bytes just moved.
        sync: wait until each file is on the disk.
    """
    for old_name, new_name in zip(source.names, target.names, strict=True):
        old, new = source.path(old_name), target.path(new_name)
        if target.kind == "folder":
            new.parent.mkdir(parents=True, exist_ok=True)
        if old_name in changes or source.kind == "file":
            files.write_spliced(old, new, changes.get(old_name, []), sync=sync, progress=progress)
        elif weights == "none" and old.suffix in _WEIGHTS:
            continue
        elif weights == "link" and old.stat().st_size > _LINKED_FROM:
            files.link_or_copy(old, new, sync=sync, progress=progress)
        else:
            files.clone_or_copy(old, new, sync=sync, progress=progress)


def sizes(source: Bundle, target: Bundle, changes: Mapping[str, list[Splice]]) -> dict[str, int]:
    """How long each file of ``target`` will be."""
    found = {}
    for name, new_name in zip(source.names, target.names, strict=True):
        growth = sum(len(splice.after) - len(splice.before) for splice in changes.get(name, ()))
        found[new_name] = source.path(name).stat().st_size + growth
    return found


@contextlib.contextmanager
def appearing(target: Bundle, sizes: Mapping[str, int], *, sync: bool) -> Iterator[Bundle]:
    """Where the block shall write; on an error nothing that it wrote is left. A folder appears only when whole; beside
    files a journal tells of them until they are checked and their manifest is there."""
    if target.kind != "folder":
        with journal.announced(target.journal, sizes, [target.manifest.name], sync=sync):
            try:
                yield target
            except BaseException as error:
                strangers = error.where if isinstance(error, WouldOverwrite) else None
                for path in (*(target.path(name) for name in target.names), target.manifest):
                    if str(path) != strangers:  # somebody else put that one there meanwhile
                        path.unlink(missing_ok=True)
                raise
        return
    folder = target.root
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        error.filename = str(folder)  # nobody knows the temporary name
        raise
    try:
        yield Bundle(work, target.names, target.kind)
        work.chmod(0o777 & ~files.umask())
        work.rename(folder)
        if sync:
            files.sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def refuse_unsynced(in_place: bool, sync: bool) -> None:
    """A change in place is always waited for.

    Raises:
        UsageError: it was asked for without waiting.
    """
    if in_place and not sync:
        raise UsageError(
            "--no-sync goes with a new file only",
            hint="a change in place is always on the disk before the next step, or its journal could not undo it",
        )
