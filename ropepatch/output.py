"""Writing a patched checkpoint and its manifest, undoing it, and doing the same to a sibling."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ropepatch import checkpoint, manifest, splices
from ropepatch.errors import CheckFailed, InputError, UsageError, WouldOverwrite
from ropepatch.manifest import Manifest
from ropepatch.patch import Edit, Patch, Value, group_edits
from ropepatch.storage import files
from ropepatch.storage.splice import Splice, invert
from ropepatch.verify import structure

Progress = Callable[[int], None]
WEIGHTS = ("link", "copy", "none")
DIGESTS = ("none", "header", "full")
_SKIPPED = {".git", ".cache", manifest.FOLDER_NAME}
#: files that are hashed even where the weights are only linked
_SMALL = 32 << 20


def default_output(source: Path, patch: Patch) -> Path:
    """``model.gguf`` to ``model-yarn-4x.gguf``, ``model/`` to ``model-yarn-4x/``."""
    tag = patch.method.replace("+", "-") + (f"-{patch.factor:.6g}x" if patch.factor else "")
    if source.is_dir():
        source = source.resolve()
        return source.with_name(f"{source.name}-{tag}")
    return source.with_name(f"{source.stem}-{tag}{source.suffix}")


def source_of(patch: Patch) -> Path:
    """The file or folder that a patch's edits go to."""
    path = Path(patch.ref)
    if patch.before.source.format == "hf" and not path.is_dir():
        return path.parent
    if path.is_dir() and patch.before.source.format != "hf":
        return path / patch.edits[0].file if patch.edits else path
    return path


def write(
    patch: Patch,
    output: Path | None = None,
    *,
    in_place: bool = False,
    weights: str = "link",
    digest: str | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """Write the patched checkpoint and its manifest.

    Args:
        patch: what to apply.
        output: the new file or folder; default beside the input.
        in_place: change the input itself instead.
        weights: for folders, ``link`` (reflink, hard link or copy), ``copy`` or ``none``.
        digest: ``none``, ``header`` or ``full``; default full for a copy, header for in place and linked weights.
        verify: check the output, and delete it when a check fails.
        progress: called with the number of bytes just moved.

    Raises:
        WouldOverwrite: the output exists.
        CheckFailed: the output is not what the patch says; it has been deleted or undone.
    """
    if weights not in WEIGHTS or (digest is not None and digest not in DIGESTS):
        raise UsageError(f"weights is one of {', '.join(WEIGHTS)}, digest one of {', '.join(DIGESTS)}")
    source = source_of(patch)
    target = source if in_place else (output or default_output(source, patch))
    if not in_place:
        for path in (target, manifest.path_for(target) if not source.is_dir() else target):
            if os.path.lexists(path):
                raise WouldOverwrite("exists already", where=str(path), hint="choose another name with -o")
    job = _Job(patch, source, target, in_place, weights, digest or _default_digest(source, in_place, weights), progress)
    return job.run(verify)


def _default_digest(source: Path, in_place: bool, weights: str) -> str:
    return "header" if in_place or (source.is_dir() and weights == "link") else "full"


@dataclasses.dataclass
class _Job:
    patch: Patch
    source: Path
    target: Path
    in_place: bool
    weights: str
    digest: str
    progress: Progress | None

    def run(self, verify: bool) -> Manifest:
        started = manifest.now()
        changes = {
            name: splices.for_file(self._within(self.source, name), edits)
            for name, edits in group_edits(self.patch.edits).items()
        }
        before = self._digests(self.source) if self.in_place else {}
        previous = self._previous()
        try:
            self._write(changes)
            report = self._verify(changes) if verify else None
            document = self._manifest(changes, started, report, before, previous)
            text = document.to_text().encode()
            files.write_bytes(manifest.path_for(self.target), text, overwrite=self.in_place)
        except BaseException:
            self._undo(changes)
            raise
        return document

    def _within(self, root: Path, name: str) -> Path:
        return root / name if self.source.is_dir() else root

    def _write(self, changes: Mapping[str, list[Splice]]) -> None:
        if self.in_place:
            for name, items in changes.items():
                files.apply_in_place(self._within(self.source, name), items, progress=self.progress)
        elif self.source.is_dir():
            write_folder(self.source, self.target, changes, self.weights, self.progress)
        else:
            items = next(iter(changes.values()), [])
            files.write_spliced(self.source, self.target, items, progress=self.progress)

    def _undo(self, changes: Mapping[str, list[Splice]]) -> None:
        """Leave no output behind; in place, bring the old bytes back where they were exchanged."""
        if not self.in_place:
            if self.source.is_dir():
                shutil.rmtree(self.target, ignore_errors=True)
            else:
                self.target.unlink(missing_ok=True)
            return
        for name, items in changes.items():
            with contextlib.suppress(InputError):  # this file was not changed yet
                files.apply_in_place(self._within(self.source, name), invert(items))

    def _verify(self, changes: Mapping[str, list[Splice]]) -> dict[str, Any]:
        full = self.digest == "full"
        return structure.check(self.patch, self.source, self.target, changes, full=full).to_json()

    def _digests(self, root: Path) -> dict[str, dict[str, str]]:
        names = _tree(root) if root.is_dir() else [root.name]
        wanted = [name for name in names if self._hashed(root / name if root.is_dir() else root)]
        paths = [root / name if root.is_dir() else root for name in wanted]
        taken = dict(zip(wanted, structure.digests(paths, self.progress), strict=True))
        return {name: {"sha256": taken[name]} if name in taken else {} for name in names}

    def _hashed(self, path: Path) -> bool:
        if self.digest == "none":
            return False
        return self.digest == "full" or path.stat().st_size <= _SMALL

    def _previous(self) -> Mapping[str, Any] | None:
        path = manifest.path_for(self.target)
        return manifest.read(path).document if self.in_place and path.exists() else None

    def _manifest(
        self,
        changes: Mapping[str, list[Splice]],
        started: datetime.datetime,
        report: Mapping[str, Any] | None,
        before: Mapping[str, Mapping[str, str]],
        previous: Mapping[str, Any] | None,
    ) -> Manifest:
        return manifest.build(
            self.patch,
            subjects=self._digests(self.target),
            inputs=before or self._digests(self.source),
            splices={(name if self.source.is_dir() else self.target.name): items for name, items in changes.items()},
            started=started,
            verification=report,
            previous=previous,
            source=self.source.resolve().name,
        )


def _tree(root: Path) -> list[str]:
    """The files of a checkpoint folder by relative name, without version control, caches and the manifest."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        here = Path(folder).relative_to(root)
        found += [str(here / name) for name in names if not (here == Path(".") and name in _SKIPPED)]
    return sorted(found)


@contextlib.contextmanager
def _appearing_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well."""
    if os.path.lexists(target):
        raise WouldOverwrite("exists already", where=str(target), hint="choose another name with -o")
    if not target.parent.is_dir():
        raise InputError("no such directory", where=str(target.parent))
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield work
        work.chmod(0o777 & ~_umask())
        work.rename(target)
        files.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_folder(
    source: Path,
    target: Path,
    changes: Mapping[str, list[Splice]],
    weights: str,
    progress: Progress | None = None,
) -> None:
    """A new checkpoint folder: changed files written, the others linked, copied or (weights only) left out."""
    with _appearing_folder(target) as work:
        for name in _tree(source):
            old, new = source / name, work / name
            new.parent.mkdir(parents=True, exist_ok=True)
            if name in changes:
                files.write_spliced(old, new, changes[name])
            elif weights == "none" and old.suffix in (".safetensors", ".bin", ".gguf", ".pth", ".pt"):
                continue
            elif weights == "link" and old.stat().st_size > 1 << 20:
                files.link_or_copy(old, new, progress=progress)
            else:
                files.clone_or_copy(old, new, progress=progress)


def revert(ref: Path, *, output: Path | None = None, in_place: bool = False, progress: Progress | None = None) -> Path:
    """Restore the input of a patch, byte for byte, from the output and its manifest.

    Args:
        ref: the patched file or folder.
        output: where the input shall stand again; default beside, under ``-reverted``.
        in_place: turn the patched checkpoint itself back.

    Returns:
        The path restored.

    Raises:
        InputError: there is no manifest, or the checkpoint has changed since.
        CheckFailed: what was restored has another sha256 than the input had.
    """
    if not ref.exists():
        raise InputError("no such file or directory", where=str(ref))
    record = manifest.read(manifest.path_for(ref))
    changes = {name: invert(items) for name, items in record.splices.items()}
    if not ref.is_dir() and set(changes) - {ref.name}:
        raise InputError(f"the manifest speaks of {', '.join(changes)}", where=str(manifest.path_for(ref)))
    target = ref if in_place else output or _reverted_name(ref)
    _check_still_the_output(ref, record)
    if in_place:
        for name, items in changes.items():
            files.apply_in_place(ref / name if ref.is_dir() else ref, items, progress=progress)
        _restore_manifest(ref, record)
    elif ref.is_dir():
        write_folder(ref, target, changes, "link", progress)
    else:
        files.write_spliced(ref, target, changes.get(ref.name, []), progress=progress)
    _check_restored(ref, target, record, changes, in_place)
    return target


def _reverted_name(ref: Path) -> Path:
    ref = ref.resolve()
    return ref.with_name(f"{ref.name}-reverted" if ref.is_dir() else f"{ref.stem}-reverted{ref.suffix}")


def _check_still_the_output(ref: Path, record: Manifest) -> None:
    for name, wanted in record.subjects.items():
        path = ref / name if ref.is_dir() else ref
        if wanted and name in record.splices and files.sha256(path) != wanted:
            raise InputError("has changed since it was patched: its sha256 is not the manifest's", where=str(path))


def _restore_manifest(ref: Path, record: Manifest) -> None:
    path = manifest.path_for(ref)
    if record.previous is None:
        path.unlink()
    else:
        files.write_bytes(path, Manifest(record.previous).to_text().encode(), overwrite=True)


def _check_restored(
    ref: Path, target: Path, record: Manifest, changes: Mapping[str, list[Splice]], in_place: bool
) -> None:
    inputs = record.inputs
    for name in changes:
        wanted = inputs.get(name) if ref.is_dir() else next(iter(inputs.values()), None)
        path = target / name if ref.is_dir() else target
        if wanted and files.sha256(path) != wanted:
            if not in_place:
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            raise CheckFailed("has another sha256 than the input that the manifest names", where=str(path))


def replay(record: Manifest | Patch, ref: str) -> Patch:
    """The same change for a sibling checkpoint (another quantisation, another copy); nothing is written.

    Args:
        record: a manifest, or a patch.
        ref: the sibling.

    Raises:
        InputError: the sibling's RoPE is not what the patch starts from.
    """
    patch = record.patch if isinstance(record, Manifest) else record
    model = checkpoint.open(ref)
    before = model.profile
    if before.source.format != patch.before.source.format:
        raise InputError(
            f"is {before.source.format}, the patch is for {patch.before.source.format}",
            where=ref,
            hint=f"use apply --method {patch.method}",
        )
    own = [path.name for path in model.dialect.files()]
    edits = tuple(
        dataclasses.replace(edit, file=own[0]) if before.source.format == "gguf" else edit for edit in patch.edits
    )
    after = dataclasses.replace(patch.after, source=before.source, notes=before.notes)
    return dataclasses.replace(patch, ref=ref, edits=edits, before=before, after=after, root=model.dialect.root)


__all__ = ["DIGESTS", "WEIGHTS", "Edit", "Value", "default_output", "replay", "revert", "write", "write_folder"]
