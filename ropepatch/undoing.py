"""Undoing a patch: from the output and its manifest, or from the journal of one that was interrupted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ropepatch import bundle_writing, located, manifest, naming
from ropepatch.bundle import Bundle, Progress, bundle_of
from ropepatch.errors import CheckFailed, InputError
from ropepatch.hub import refs
from ropepatch.manifest import Manifest
from ropepatch.storage import files, journal
from ropepatch.storage.splice import Splice, invert


def revert(
    ref: str | Path,
    *,
    output: str | Path | None = None,
    in_place: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Restore the input of a patch, byte for byte, from the output and its manifest.

    Args:
        ref: the patched file (any shard of it) or folder, or its manifest.
        output: where the input shall stand again, or an existing folder for a file; default beside, under
            ``-reverted``.
        in_place: turn the patched checkpoint itself back.
        sync: wait until what is new is on the disk; see :func:`write`.
        progress: called with the number of bytes just moved.

    Returns:
        The path restored.

    Raises:
        InputError: there is no manifest, or the checkpoint has changed since.
        CheckFailed: what was restored has another sha256 than the input had.
    """
    refs.refuse(ref, "revert")
    bundle_writing.refuse_unsynced(in_place, sync)
    ref = Path(ref)
    if not ref.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(ref)
    ref = located.described(ref)
    for pending in naming.journals(ref):
        journal.refuse_pending(pending)
    patched = bundle_of(ref)
    record = manifest.read(patched.manifest)
    if record.overlay:
        raise InputError(
            "is an overlay", where=str(ref), hint="its input is as it was; to undo it, delete its two files"
        )
    changes = {name: invert(items) for name, items in record.splices.items()}
    if unknown := set(changes) - set(patched.names):
        raise InputError(f"the manifest speaks of {', '.join(sorted(unknown))}", where=str(patched.manifest))
    _check_still_the_output(patched, record)
    if in_place:
        outdated = patched.outdated
        kept = [patched.manifest.name, *(path.name for path in outdated)]
        with files.blamed(patched.anchor), journal.change(patched.journal, changes, kept, progress):
            _check_restored(patched, patched, record, changes)
            _restore_manifest(patched.manifest, record)
            for path in outdated:
                path.unlink(missing_ok=True)
        return patched.anchor
    usual = patched.default("reverted")
    target = patched.renamed(usual if output is None else patched.placed(output, usual))
    target.refuse_existing()
    sizes = bundle_writing.sizes(patched, target, changes)
    with files.blamed(target.anchor), bundle_writing.appearing(target, sizes, sync=sync) as work:
        bundle_writing.write(patched, work, changes, "link", progress, sync=sync)
        _check_restored(patched, work, record, changes)
    return target.anchor


def recover(ref: str | Path, *, progress: Progress | None = None) -> list[Path]:
    """Undo a change that was interrupted: files and manifest are as they were before it; new ones are removed.

    Args:
        ref: the file (any shard of it) or folder.
        progress: called with the number of bytes just moved.

    Returns:
        The files restored (or removed: they are not there any more); none when nothing was interrupted.

    Raises:
        InputError: another process is at work on them, or they are not what the interrupted change left.
    """
    refs.refuse(ref, "recover")
    ref = Path(ref)
    if not ref.parent.is_dir():
        from ropepatch.dialects import strangers

        raise strangers.missing(ref)
    found = []
    for pending in naming.journals(ref):
        found += [pending.parent / name for name in journal.recover(pending, progress)]
    if not found and not ref.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(ref)
    return found


def _check_still_the_output(patched: Bundle, record: Manifest) -> None:
    for name, wanted in record.subjects.items():
        path = patched.path(name)
        if wanted and name in record.splices and files.sha256(path) != wanted:
            raise InputError("has changed since it was patched: its sha256 is not the manifest's", where=str(path))


def _check_restored(patched: Bundle, restored: Bundle, record: Manifest, changes: Mapping[str, list[Splice]]) -> None:
    """Hold the restored files against the digests of the inputs, which correspond to the outputs in order."""
    original = dict(zip(sorted(record.subjects), sorted(record.inputs.items()), strict=False))
    for name, new_name in zip(patched.names, restored.names, strict=True):
        wanted = record.inputs.get(name) if patched.kind == "folder" else original.get(name, (None, None))[1]
        path = restored.path(new_name)
        if name in changes and wanted and files.sha256(path) != wanted:
            raise CheckFailed("has another sha256 than the input that the manifest names", where=str(path))


def _restore_manifest(path: Path, record: Manifest) -> None:
    if record.previous is None:
        os.unlink(path)
    else:
        files.write_bytes(path, Manifest(record.previous).to_text().encode(), overwrite=True)
