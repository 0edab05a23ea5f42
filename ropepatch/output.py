"""Writing a patched checkpoint and its manifest, undoing it, and doing the same to a sibling."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ropepatch import bundle_writing, manifest, naming, splices
from ropepatch.bundle import Bundle, Progress, bundle_of
from ropepatch.errors import UsageError
from ropepatch.evidence import Evidence
from ropepatch.hub import refs
from ropepatch.manifest import Manifest
from ropepatch.patch import Patch, group_edits
from ropepatch.storage import files, journal, kernel, ranges
from ropepatch.storage.splice import Splice
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


def target_of(patch: Patch, source: Bundle, output: str | Path | None = None, *, overlay: bool = False) -> Bundle:
    """The files that writing ``patch`` to ``output`` makes; a folder that is there takes a file under its usual name.

    Args:
        patch: what is applied.
        source: its input, see :func:`source_of`.
        output: the new file or folder; default beside the input.
        overlay: a first shard beside a shared body.

    Raises:
        InputError: a file shall go into a folder that is not there.
    """
    usual = default_output(patch)
    path = usual if output is None else source.placed(output, usual)
    if overlay:
        from ropepatch import overlay as overlays

        return overlays.target(path)
    return source.renamed(path)


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
    output: str | Path | None = None,
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
        output: the new file or folder, or an existing folder for a file; default beside the input.
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
    bundle_writing.refuse_unsynced(in_place, sync)
    depth = after_write.depth(verify)
    if overlay and in_place:
        raise UsageError("in place and overlay exclude each other")
    if in_place and refs.is_remote(patch.ref):
        raise UsageError("a checkpoint on the Hub is not changed in place; --to publishes a patched one")
    source = source_of(patch, weights)
    target = source if in_place else target_of(patch, source, output, overlay=overlay)
    if not in_place:
        naming.refuse_unfit(source.anchor, target.anchor, folder=source.kind == "folder" and not overlay)
        target.refuse_existing()
        _refuse_inside(source, target)
    forward = after_write.prepare(patch, source, weights) if depth == "forward" else None
    if overlay:
        job: _Overlay | _Job = _Overlay(patch, source, target, digest or "header", body, sync, progress, forward)
    else:
        usual = "header" if in_place or (source.kind != "file" and weights == "link") else "full"
        job = _Job(patch, source, target, in_place, weights, digest or usual, sync, progress, forward)
    with files.blamed(target.anchor):
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
                previous = self._previous()
                outdated = self.target.outdated
                kept = [self.target.manifest.name, *(path.name for path in outdated)]
                with journal.change(self.target.journal, changes, kept, self.progress):
                    for path in outdated:
                        path.unlink(missing_ok=True)
                    return self._finish(self.target, changes, started, verify, evidence, previous)
            with bundle_writing.appearing(
                self.target, bundle_writing.sizes(self.source, self.target, changes), sync=self.sync
            ) as work:
                evidence.foresee(changes)
                bundle_writing.write(self.source, work, changes, self.weights, self.progress, sync=self.sync)
                return self._finish(work, changes, started, verify, evidence, None)

    def _previous(self) -> Mapping[str, Any] | None:
        """The manifest of the patch that this one follows in place."""
        if not self.target.manifest.exists():
            return None
        return manifest.read(self.target.manifest).document

    def _block(self, names: Sequence[str]) -> int:
        """The unit in which tensor data shall move: whole blocks in place, and in files that are large enough for it to
        matter: blocks can be shared then where the file system shares them, and are copied faster where it does not."""
        folder = self.target.root if self.target.kind != "folder" else self.target.root.parent
        large = any(self.source.path(name).stat().st_size >= ranges.SHARED_FROM for name in names)
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
        from ropepatch import overlay as overlays

        started = manifest.now()
        self.target.refuse_existing()
        with bundle_writing.appearing(self.target, dict.fromkeys(self.target.names, 0), sync=self.sync) as work:
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


def _refuse_inside(source: Bundle, target: Bundle) -> None:
    inner, outer = target.root.resolve(), source.root.resolve()
    if source.kind == "folder" and (inner == outer or outer in inner.parents):
        raise UsageError(f"{target.root} lies inside of the input", hint="choose a name beside it with -o")
