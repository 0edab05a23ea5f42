"""An output with its manifest: on this machine, or on the Hub with its headers here and the Hub's own digests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ropepatch import bundle, manifest, naming
from ropepatch.bundle import Bundle, Progress
from ropepatch.errors import InputError
from ropepatch.hub import refs
from ropepatch.manifest import Manifest
from ropepatch.storage.digesting import Digests
from ropepatch.storage.remote import bring


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files of a checkpoint.

    Attributes:
        ref: how it was named; for a place on the Hub at its commit.
        files: where they are.
        recorded: sha256 by name of those files that are on the Hub only, as the Hub records them.
        listed: on the Hub, what there is; files without a sha256 are fetched when they are wanted.
    """

    ref: str
    files: Bundle
    recorded: Mapping[str, str] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()

    def there(self, name: str) -> bool:
        """Whether a file is among them."""
        return name in self.listed or self.files.path(name).is_file()

    def digests(self, names: Iterable[str], progress: Progress | None = None) -> dict[str, str]:
        """The sha256 of each file: as the Hub has it, or taken now."""
        wanted = list(names)
        with Digests(progress) as running:
            taken = {name: running.file(bring(self.files.path(name))) for name in wanted if name not in self.recorded}
        return {name: self.recorded.get(name) or taken[name].result() for name in wanted}


@dataclass(frozen=True, kw_only=True)
class Located(Found):
    """The files of an output, and its manifest."""

    record: Manifest


def find(ref: str | Path) -> Located:
    """The output that ``ref`` names, by itself or by its manifest.

    Raises:
        InputError: there is no such output, or no manifest.
        HubError: it is on the Hub and cannot be had.
    """
    found = files_of(ref if isinstance(ref, str) and refs.is_remote(ref) else described(Path(ref)))
    if found.listed:
        bring(found.files.manifest)
    elif not found.files.manifest.exists() and found.files.kind != "folder":
        folder = found.files.root  # a file of an output's folder
        if (folder / naming.MANIFEST).exists():
            found = Found(ref=found.ref, files=bundle.bundle_of(folder))
    record = manifest.read(found.files.manifest)
    for name in record.subjects:  # edits are read back from small files
        if name in found.listed and name not in found.recorded:
            bring(found.files.path(name))
    return Located(
        ref=found.ref if found.listed else str(ref),
        files=found.files,
        recorded=found.recorded,
        listed=found.listed,
        record=record,
    )


def files_of(ref: str | Path) -> Found:
    """The files of the checkpoint that ``ref`` names, with or without a manifest.

    Raises:
        InputError: there is no such checkpoint.
        HubError: it is on the Hub and cannot be had.
    """
    if isinstance(ref, str) and refs.is_remote(ref):
        return _on_the_hub(ref)
    path = Path(ref)
    if not path.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(ref)
    return Found(ref=str(ref), files=bundle.bundle_of(path))


def described(path: Path) -> Path:
    """The output that a manifest describes; any other path as it is.

    Raises:
        InputError: the output is not beside its manifest.
    """
    if path.name == naming.MANIFEST and path.is_file():
        return path.parent
    if not path.name.endswith(naming.MANIFEST_SUFFIX):
        return path
    name = PurePosixPath(next(iter(manifest.read(path).subjects), "")).name
    if not name or not path.with_name(name).exists():
        raise InputError(f"describes {name or 'nothing'}, which is not beside it", where=str(path))
    return path.with_name(name)


def _on_the_hub(ref: str) -> Found:
    from ropepatch.hub import choosing, mirror

    opened = mirror.opened(ref, exact=True)
    if opened.mirror is None or opened.snapshot is None:  # working offline, from the cache
        return Found(ref=str(opened.ref), files=bundle.bundle_of(opened.path))
    file, there = opened.ref.file, opened.snapshot.files
    single = file is not None and file in there
    parent = str(PurePosixPath(file).parent) if file and single else file or ""
    below = "" if parent in ("", ".") else f"{parent}/"
    if file and file.endswith(".gguf"):
        names = tuple(PurePosixPath(name).name for name in choosing.shards_of(opened.snapshot, file))
        kind = "split" if naming.SHARD.match(names[0]) else "file"
    else:
        inside = [name.removeprefix(below) for name in there if name.startswith(below)]
        names, kind = tuple(sorted(name for name in inside if not bundle.skipped(name))), "folder"
    found = {name: there[below + name].sha256 for name in names}
    return Found(
        ref=str(opened.ref),
        files=Bundle(opened.mirror.root / parent, names, kind),
        recorded={name: sha256 for name, sha256 in found.items() if sha256},
        listed=frozenset(names),
    )
