"""Writing a patched checkpoint and its manifest, undoing it, and doing the same to a sibling."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ropepatch import bundle, checkpoint, manifest, naming, splices
from ropepatch import overlay as overlays
from ropepatch.bundle import Bundle, Progress, bundle_of
from ropepatch.dialects.base import Lowering
from ropepatch.errors import CheckFailed, InputError, UsageError, WouldOverwrite
from ropepatch.evidence import Evidence
from ropepatch.hub import refs
from ropepatch.manifest import Manifest
from ropepatch.methods.base import Method, ParameterError
from ropepatch.methods.stack import Stack
from ropepatch.patch import Patch, group_edits
from ropepatch.profile import RopeProfile
from ropepatch.storage import files, journal, kernel
from ropepatch.storage.splice import Splice, invert
from ropepatch.verify import after_write, structure

WEIGHTS = ("link", "copy", "none")
DIGESTS = ("none", "header", "full")


def source_of(patch: Patch, weights: str = "link") -> Bundle:
    """The files that a patch's edits go to; those of a checkpoint on the Hub are downloaded.

    Args:
        patch: the patch.
        weights: with ``none`` the weights of a folder on the Hub stay there.
    """
    path = Path(patch.ref)
    if refs.is_remote(patch.ref):
        from ropepatch.hub import fetch

        if weights == "none":
            path, whole = fetch.small(patch.ref, {edit.file for edit in patch.edits})
            if whole is not None:
                return Bundle(path, tuple(whole), "folder")
        else:
            path = fetch.download(patch.ref)
    if patch.before.source.format != "gguf":
        single = path.suffix == ".safetensors" and all(edit.file == path.name for edit in patch.edits)
        return bundle_of(path if path.is_dir() or single else path.parent)
    return bundle_of(path / patch.edits[0].file if path.is_dir() and patch.edits else path)


def default_output(patch: Patch) -> Path:
    """``model.gguf`` to ``model-yarn-4x.gguf``, ``model/`` to ``model-yarn-4x/``; what is on the Hub, to here."""
    tag = patch.method.replace("+", "-") + (f"-{patch.factor:.6g}x" if patch.factor else "")
    if not refs.is_remote(patch.ref):
        return source_of(patch).default(tag)
    name = refs.parse(patch.ref).name
    if patch.before.source.format == "hf":
        return Bundle(Path(name), (), "folder").default(tag)
    return Bundle(Path(), (name,), "split" if naming.SHARD.match(name) else "file").default(tag)


def _origin(patch: Patch) -> tuple[str, Mapping[str, Mapping[str, str]]]:
    """Where the inputs of a patch are on the Hub, and the digests that it has of them; nothing for local ones."""
    if not refs.is_remote(patch.ref):
        return "file:", {}
    from ropepatch.hub import mirror

    found = mirror.opened(patch.ref)
    folder = found.ref.file if found.path.is_dir() else str(PurePosixPath(found.ref.file or "").parent)
    below = f"{folder}/" if folder and folder != "." else ""
    files = found.snapshot.files if found.snapshot is not None else {}
    known = {name.removeprefix(below): file.digest for name, file in files.items() if name.startswith(below)}
    return f"{found.ref.within(None)}/{below}", known


def write(
    patch: Patch,
    output: Path | None = None,
    *,
    in_place: bool = False,
    weights: str = "link",
    digest: str | None = None,
    verify: bool | str = True,
    overlay: bool = False,
    body: str = "auto",
    sync: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """Write the patched checkpoint and its manifest.

    Args:
        patch: what to apply.
        output: the new file or folder; default beside the input.
        in_place: change the input itself instead.
        weights: files that do not change: ``link`` (reflink, hard link or copy), ``copy`` or ``none``.
        digest: ``none``, ``header`` (small files only) or ``full``; default full for the copy of a file, header for
            in place and linked weights.
        verify: check the output, and delete it when a check fails: ``structure`` (True), ``forward`` (also run it at
            far positions, and keep the statement beside the manifest), or ``none`` (False).
        overlay: write a first shard without weights beside a body that it shares; see :mod:`ropepatch.overlay`.
        body: how the body is brought there: ``auto``, ``hardlink``, ``symlink`` or ``copy``.
        sync: wait until what is new is on the disk. Without it the system flushes it when it likes, as after ``cp``:
            the output still appears whole or not at all, but a power failure soon after may lose it.
        progress: called with the number of bytes just moved.

    Raises:
        WouldOverwrite: the output exists.
        CheckFailed: the output is not what the patch says; it has been deleted or undone.
    """
    if weights not in WEIGHTS or (digest is not None and digest not in DIGESTS):
        raise UsageError(f"weights is one of {', '.join(WEIGHTS)}, digest one of {', '.join(DIGESTS)}")
    if in_place and output is not None:
        raise UsageError("in place and an output name exclude each other")
    _refuse_unsynced(in_place, sync)
    depth = after_write.depth(verify)
    if overlay and in_place:
        raise UsageError("in place and overlay exclude each other")
    if in_place and refs.is_remote(patch.ref):
        raise UsageError("a checkpoint on the Hub is not changed in place; --to publishes a patched one")
    source = source_of(patch, weights)
    if overlay:
        target = overlays.target(output or default_output(patch))
    else:
        target = source if in_place else source.renamed(output or default_output(patch))
    if not in_place:
        target.refuse_existing()
        _refuse_inside(source, target)
    forward = after_write.prepare(patch, source, weights) if depth == "forward" else None
    if overlay:
        job: _Overlay | _Job = _Overlay(patch, source, target, digest or "header", body, sync, progress, forward)
    else:
        usual = "header" if in_place or (source.kind != "file" and weights == "link") else "full"
        job = _Job(patch, source, target, in_place, weights, digest or usual, sync, progress, forward)
    return job.run(depth != "none")


def _inputs(
    taken: Mapping[str, Mapping[str, str]], known: Mapping[str, Mapping[str, str]], kind: str
) -> dict[str, Mapping[str, str]]:
    """Digests of the inputs: those taken here, else those that the Hub has; of a folder also of what stays there."""
    found = {name: digest or known.get(name, {}) for name, digest in taken.items()}
    left = {name: digest for name, digest in known.items() if name not in (*found, "README.md", ".gitattributes")}
    return {**found, **(left if kind == "folder" else {})}


def _name(patch: Patch, source: Bundle) -> str:
    """The input's name, which ``revert`` restores; a cache has names of its own."""
    return refs.parse(patch.ref).name if refs.is_remote(patch.ref) else source.anchor.resolve().name


@dataclasses.dataclass
class _Job:
    patch: Patch
    source: Bundle
    target: Bundle
    in_place: bool
    weights: str
    digest: str
    sync: bool
    progress: Progress | None
    forward: after_write.ForwardCheck | None = None

    def run(self, verify: bool) -> Manifest:
        started = manifest.now()
        edits = group_edits(self.patch.edits)
        block = self._block(list(edits))
        changes = {n: splices.for_file(self.source.path(n), items, block=block) for n, items in edits.items()}
        with Evidence(self.source, edits, self.digest, self.progress) as evidence:
            evidence.start()
            if self.in_place:
                evidence.wait()
                previous = manifest.read(self.target.manifest).document if self.target.manifest.exists() else None
                outdated = _outdated(self.target)
                kept = [self.target.manifest.name, *(path.name for path in outdated)]
                with journal.change(self.target.journal, changes, kept, self.progress):
                    for path in outdated:
                        path.unlink(missing_ok=True)
                    return self._finish(self.target, changes, started, verify, evidence, previous)
            with _appearing(self.target, _sizes(self.source, self.target, changes), sync=self.sync) as work:
                evidence.foresee(changes)
                bundle.write(self.source, work, changes, self.weights, self.progress, sync=self.sync)
                return self._finish(work, changes, started, verify, evidence, None)

    def _block(self, names: Sequence[str]) -> int:
        """The unit in which tensor data shall move: whole blocks in place, and in files that are large enough for it to
        matter: blocks can be shared then where the file system shares them, and are copied faster where it does not."""
        folder = self.target.root if self.target.kind != "folder" else self.target.root.parent
        large = any(self.source.path(name).stat().st_size >= files.SHARED_FROM for name in names)
        return kernel.block_size(folder) if self.in_place or large else 0

    def _finish(
        self,
        written: Bundle,
        changes: Mapping[str, list[Splice]],
        started: datetime.datetime,
        verify: bool,
        evidence: Evidence,
        previous: Mapping[str, Any] | None,
    ) -> Manifest:
        full = self.digest == "full"
        report = structure.check(self.patch, self.source, written, changes, full=full) if verify else None
        if self.forward and report:
            self.forward.run(written, report)
        new_name = dict(zip(self.source.names, written.names, strict=True))
        compared = verify and full and not self.in_place
        origin, known = _origin(self.patch)
        document = manifest.build(
            self.patch,
            subjects=evidence.outputs(written, compared=compared),
            inputs=_inputs(evidence.inputs(), known, self.source.kind),
            origin=origin,
            splices={new_name[name]: items for name, items in changes.items()},
            started=started,
            verification=report.to_json() if report else None,
            previous=previous,
            source=_name(self.patch, self.source),
            tensor_data=evidence.tensor_data(written, compared=compared),
        )
        files.write_bytes(written.manifest, document.to_text().encode(), overwrite=self.in_place, sync=self.sync)
        if self.forward:
            self.forward.record(written, document)
        return document


@dataclasses.dataclass
class _Overlay:
    patch: Patch
    source: Bundle
    target: Bundle
    digest: str
    body: str
    sync: bool
    progress: Progress | None
    forward: after_write.ForwardCheck | None = None

    def run(self, verify: bool) -> Manifest:
        started = manifest.now()
        self.target.refuse_existing()
        with _appearing(self.target, dict.fromkeys(self.target.names, 0), sync=self.sync) as work:
            done = overlays.write(self.patch, self.source, work, link=self.body, sync=self.sync, progress=self.progress)
            body = self.source.path(self.source.names[-1])
            full = self.digest == "full"
            report = structure.check_overlay(self.patch, body, work, done.splices, full=full) if verify else None
            if self.forward and report:
                self.forward.run(work, report)
            with Evidence(self.source, {}, self.digest, self.progress) as inputs:
                inputs.start()
                with Evidence(work, {}, self.digest, self.progress) as outputs:
                    outputs.start()
            document = manifest.build(
                self.patch,
                subjects=outputs.inputs(),
                inputs=inputs.inputs(),
                splices=done.splices,
                started=started,
                verification=report.to_json() if report else None,
                source=_name(self.patch, self.source),
                overlay=done.body,
            )
            files.write_bytes(work.manifest, document.to_text().encode(), sync=self.sync)
            if self.forward:
                self.forward.record(work, document)
            return document


def _sizes(source: Bundle, target: Bundle, changes: Mapping[str, list[Splice]]) -> dict[str, int]:
    """How long each file of ``target`` will be."""
    found = {}
    for name, new_name in zip(source.names, target.names, strict=True):
        growth = sum(len(splice.after) - len(splice.before) for splice in changes.get(name, ()))
        found[new_name] = source.path(name).stat().st_size + growth
    return found


@contextlib.contextmanager
def _appearing(target: Bundle, sizes: Mapping[str, int], *, sync: bool) -> Iterator[Bundle]:
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
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield Bundle(work, target.names, target.kind)
        work.chmod(0o777 & ~files.umask())
        work.rename(folder)
        if sync:
            files.sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _refuse_unsynced(in_place: bool, sync: bool) -> None:
    if in_place and not sync:
        raise UsageError(
            "a change in place is always flushed to the disk: its journal could not undo it otherwise",
            hint="leave out --no-sync, or write a new file",
        )


def _refuse_inside(source: Bundle, target: Bundle) -> None:
    inner, outer = target.root.resolve(), source.root.resolve()
    if source.kind == "folder" and (inner == outer or outer in inner.parents):
        raise UsageError(f"{target.root} lies inside of the input", hint="choose a name beside it with -o")


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
        ref: the patched file (any shard of it) or folder.
        output: where the input shall stand again; default beside, under ``-reverted``.
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
    _refuse_unsynced(in_place, sync)
    ref = Path(ref)
    if not ref.exists():
        raise InputError("no such file or directory", where=str(ref))
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
        outdated = _outdated(patched)
        kept = [patched.manifest.name, *(path.name for path in outdated)]
        with journal.change(patched.journal, changes, kept, progress):
            _check_restored(patched, patched, record, changes)
            _restore_manifest(patched.manifest, record)
            for path in outdated:
                path.unlink(missing_ok=True)
        return patched.anchor
    target = patched.renamed(Path(output) if output else patched.default("reverted"))
    target.refuse_existing()
    with _appearing(target, _sizes(patched, target, changes), sync=sync) as work:
        bundle.write(patched, work, changes, "link", progress, sync=sync)
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
        raise InputError("no such file or directory", where=str(ref))
    found = []
    for pending in naming.journals(ref):
        found += [pending.parent / name for name in journal.recover(pending, progress)]
    if not found and not ref.exists():
        raise InputError("no such file or directory", where=str(ref))
    return found


def _counterpart(name: str, model: checkpoint.Checkpoint) -> str:
    """The sibling's file that corresponds to an edited one: the shard of the same number, else the first file."""
    own = [path.name for path in model.dialect.files()]
    match = naming.SHARD.match(name)
    number = int(match["number"]) if match else 1
    return own[number - 1] if number <= len(own) else own[0]


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


def _outdated(target: Bundle) -> tuple[Path, ...]:
    """What speaks of the files as they are before a change in place, and is false of them afterwards: the statement of
    a verification and the signature."""
    from ropepatch.signing import signature_path
    from ropepatch.verify.verification import record_path as evidence_path

    return evidence_path(target.anchor), signature_path(target)


def _restore_manifest(path: Path, record: Manifest) -> None:
    if record.previous is None:
        os.unlink(path)
    else:
        files.write_bytes(path, Manifest(record.previous).to_text().encode(), overwrite=True)


def replay(record: Manifest | Patch, ref: str, *, force: bool = False) -> Patch:
    """The same change for a sibling checkpoint (another quantisation, another copy); nothing is written.

    Args:
        record: a manifest, or a patch.
        ref: the sibling.
        force: also for another model: the method with its parameters is put in force there, by edits of its own.

    Raises:
        InputError: it is of another format, or another model and ``force`` is off.
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
    other = _otherness(before, patch.before)
    if other and force:
        return _anew(patch, model)
    if other:
        raise InputError(
            f"is another model than the one that the patch was made for: {other}",
            where=ref,
            hint=f"--force puts {patch.method} with the same parameters in force here; ropepatch diff compares the two",
        )
    edits = tuple(patch.edits)
    if before.source.format == "gguf":
        edits = tuple(dataclasses.replace(edit, file=_counterpart(edit.file, model)) for edit in edits)
    after = dataclasses.replace(patch.after, source=before.source, notes=before.notes)
    return dataclasses.replace(patch, ref=model.ref, edits=edits, before=before, after=after, root=model.dialect.root)


def _otherness(found: RopeProfile, wanted: RopeProfile) -> str | None:
    """In what a checkpoint differs from the one that a patch starts from; None where it does not."""
    pairs: list[tuple[str, Any, Any]] = [
        ("architecture", found.source.architecture, wanted.source.architecture),
        ("trained context", found.trained_context, wanted.trained_context),
        ("declared context", found.declared_context, wanted.declared_context),
        ("rope groups", sorted(found.groups), sorted(wanted.groups)),
    ]
    for name in sorted(set(found.groups) & set(wanted.groups)):
        mine, theirs = found.groups[name], wanted.groups[name]
        pairs += [
            (f"{name}.{item.name}", getattr(mine, item.name), getattr(theirs, item.name))
            for item in dataclasses.fields(mine)
        ]
    different = [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]
    if not different:
        return None
    name, mine, theirs = different[0]
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    return f"{name} is {_in_short(mine)}, there it is {_in_short(theirs)}{more}"


def _in_short(value: Any) -> str:
    from ropepatch.report.text import short

    return short(value.to_json() if hasattr(value, "to_json") else value, 60)


def _anew(patch: Patch, model: checkpoint.Checkpoint) -> Patch:
    """The patch's methods in a checkpoint of the same rope groups that is otherwise another one."""
    before = model.profile
    if set(before.groups) != set(patch.after.groups):
        raise InputError(
            f"has the rope groups {', '.join(before.groups)}, the patch is for {', '.join(patch.after.groups)}",
            where=model.ref,
            hint=f"use apply --method {patch.method}",
        )
    trained = before.trained_context or before.declared_context
    groups = {
        name: dataclasses.replace(group, scaling=_counted_from(patch.after.groups[name].scaling, trained), factors=None)
        if patch.after.groups[name].scaling != patch.before.groups[name].scaling
        else group
        for name, group in before.groups.items()
    }
    longer = round(patch.factor * trained) if patch.factor and trained else patch.after.declared_context
    after = dataclasses.replace(before, groups=groups, trained_context=trained, declared_context=longer)
    try:
        edits, notes = model.dialect.lower(before, after, Lowering())
    except ParameterError as error:
        raise InputError(f"cannot take the patch: {error}", where=model.ref) from None
    return dataclasses.replace(
        patch,
        ref=model.ref,
        edits=tuple(edits),
        before=before,
        after=after,
        notes=(*notes, "made anew for another model than the one that the manifest is of"),
        root=model.dialect.root,
    )


def _counted_from(scaling: Method, trained: int | None) -> Method:
    """A method with its parameters, counting from another original context."""
    if isinstance(scaling, Stack):
        return Stack(tuple(_counted_from(stage, trained) for stage in scaling.stages))
    if trained is None or "original_max_position_embeddings" not in {item.name for item in dataclasses.fields(scaling)}:
        return scaling
    changed: Any = {"original_max_position_embeddings": trained}
    return dataclasses.replace(scaling, **changed)
