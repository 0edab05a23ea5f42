"""The journal of a change in place: what the files beside it held before.

It appears whole before the first byte of a file changes, and is removed when all of the change is done: files,
verification and manifest. As long as it stands, :func:`recover` restores the old files and the old manifest from
whatever state they are in. A change is therefore either done or undone, never in between.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropepatch.errors import InputError, WouldOverwrite
from ropepatch.naming import JOURNAL_SUFFIX as SUFFIX
from ropepatch.storage import files, in_place, journal_file, kernel, moving
from ropepatch.storage.in_place import Plan
from ropepatch.storage.ranges import Progress
from ropepatch.storage.splice import Splice

#: journals of changes that this process is in the middle of: it may read what it writes
_OURS: set[str] = set()


@contextlib.contextmanager
def change(
    journal: Path,
    changes: Mapping[str, Sequence[Splice]],
    kept: Sequence[str],
    progress: Progress | None = None,
) -> Iterator[list[Plan]]:
    """Apply ``changes`` to files beside ``journal``; undo them when the block fails, or when the process dies in it.

    Args:
        journal: where the journal shall stand.
        changes: splices by file name, relative to the journal's folder.
        kept: small files that the block will write, or remove, and that an undo restores.
        progress: called with the number of bytes just moved.

    Yields:
        How each file was changed.

    Raises:
        InputError: a file does not hold what the splices expect, another process is changing one, or an earlier change
            was interrupted and not yet undone.
    """
    root = journal.parent
    with contextlib.ExitStack() as stack:
        for name in changes:
            stack.enter_context(_locked(root / name))
        refuse_pending(journal)
        plans = [in_place.plan(root / name, splices, name) for name, splices in changes.items()]
        for plan in plans:
            in_place.check_writable(root / plan.name, plan)
        for name in changes:
            moving.forget(root / name)  # a record that an earlier change left behind belongs to no journal
        stack.callback(os.close, journal_file.write(journal, plans, kept))
        stack.callback(_OURS.discard, os.path.realpath(journal))
        _OURS.add(os.path.realpath(journal))
        try:
            for plan in plans:
                in_place.apply(root / plan.name, plan, progress=progress)
            yield plans
        except BaseException:
            _undo(journal, plans, journal_file.read(journal)[1], None)
            raise
        _remove(journal)
        with contextlib.suppress(OSError):  # the change is done; a record that stays hurts nobody
            for name in changes:
                moving.forget(root / name)


@contextlib.contextmanager
def announced(journal: Path, sizes: Mapping[str, int], kept: Sequence[str], *, sync: bool = True) -> Iterator[None]:
    """Say beside new files that they are being written, until the block has ended one way or the other.

    A file appears under its name whole, but it takes several steps until it is checked and its manifest is there.
    Where the process is killed between them, :func:`recover` removes what stands there. The block itself removes what
    it wrote when it fails.

    Args:
        journal: where the journal shall stand.
        sizes: the lengths that the new files will have, by name; 0 where that is not known yet.
        kept: small files that the block will write, too.
        sync: wait until the journal is on the disk.

    Raises:
        InputError: another process is writing them.
    """
    if _announces(journal) and os.path.realpath(journal) not in _OURS:
        recover(journal)  # the last one was killed before it came to anything, or was stopped by a power failure
    plans = [Plan(name, in_place.NEW, 0, size, (0, 0), 0, ()) for name, size in sizes.items()]
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(os.close, journal_file.write(journal, plans, kept, sync=sync))
        except WouldOverwrite:
            refuse_pending(journal)
            raise
        stack.callback(_OURS.discard, os.path.realpath(journal))
        _OURS.add(os.path.realpath(journal))
        try:
            yield
        finally:
            journal.unlink(missing_ok=True)


def _announces(journal: Path) -> bool:
    """Whether a journal stands for files that are written anew."""
    try:
        return all(plan.kind == in_place.NEW for plan in journal_file.read(journal)[0])
    except (InputError, OSError):
        return False


def refuse_pending(journal: Path) -> None:
    """Raise when a change of the files beside ``journal`` is going on, or was interrupted.

    Raises:
        InputError: naming the process, or the command that helps.
    """
    if not os.path.lexists(journal) or os.path.realpath(journal) in _OURS:
        return
    new = _announces(journal)
    if new and not any(os.path.lexists(journal.parent / plan.name) for plan in journal_file.read(journal)[0]):
        return
    with contextlib.suppress(FileNotFoundError), _locked(journal):
        if new:
            raise InputError(
                "its writing was interrupted before it was checked",
                where=str(journal).removesuffix(SUFFIX),
                hint="ropepatch recover removes it; the input was not touched",
            )
        raise InputError(
            "a change of it was interrupted",
            where=str(journal).removesuffix(SUFFIX),
            hint=f"ropepatch recover restores it from {journal.name}",
        )


def recover(journal: Path, progress: Progress | None = None) -> list[str]:
    """Undo the interrupted change that ``journal`` tells of, and remove it.

    Returns:
        The names of the files that were restored, or removed because they were new; none when there is no journal.

    Raises:
        InputError: another process is at work, the journal is not whole, or a file is not one that the change left.
    """
    root = journal.parent
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(journal))
        except FileNotFoundError:
            return []
        plans, kept = journal_file.read(journal)
        for plan in plans:
            if plan.kind == in_place.NEW:
                continue
            if not (root / plan.name).exists():
                raise InputError("is gone", where=str(root / plan.name), hint=f"remove {journal} if that is right")
            stack.enter_context(_locked(root / plan.name))
        _undo(journal, plans, kept, progress)
    for name in (*(plan.name for plan in plans), *kept):
        _sweep(root / name)
        _sweep(moving.record_path(root / name))
    return [plan.name for plan in plans]


def _undo(journal: Path, plans: Sequence[Plan], kept: Mapping[str, bytes | None], progress: Any) -> None:
    root = journal.parent
    for plan in plans:
        in_place.undo(root / plan.name, plan, progress=progress)
    for name, data in kept.items():
        if data is None:
            (root / name).unlink(missing_ok=True)
        elif not (root / name).exists() or (root / name).read_bytes() != data:
            files.write_bytes(root / name, data, overwrite=True)
    files.sync_folder(root)
    for plan in plans:
        moving.forget(root / plan.name)
    _remove(journal)


def _remove(journal: Path) -> None:
    journal.unlink()
    files.sync_folder(journal.parent)


def _sweep(path: Path) -> None:
    """Remove unfinished files that killed processes left beside ``path``."""
    for stray in path.parent.glob(f".{_escaped(path.name)}.*.part"):
        stray.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file.

    Raises:
        InputError: another process holds it, or put another file under its name meanwhile.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not kernel.lock(descriptor):
            holder = kernel.lock_holder(descriptor)
            raise InputError(
                f"is being changed by {f'process {holder}' if holder else 'another process'}",
                where=str(path).removesuffix(SUFFIX),
                hint="try again when that has ended",
            )
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise InputError("was just replaced by another process", where=str(path), hint="try again")
        yield
    finally:
        os.close(descriptor)
