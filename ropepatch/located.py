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

#: files without a digest of the Hub's are small enough to be fetched
_WHOLE = 32 << 20


@dataclass(frozen=True)
class Located:
    """The files of an output.

    Attributes:
        ref: how it was named; for a place on the Hub at its commit.
        files: where they are.
        record: the manifest.
        recorded: sha256 by name of those files that are on the Hub only, as the Hub records them.
    """

    ref: str
    files: Bundle
    record: Manifest
    recorded: Mapping[str, str] = field(default_factory=dict)

    def there(self, name: str) -> bool:
        """Whether a file is among them."""
        return name in self.recorded or self.files.path(name).is_file()

    def digests(self, names: Iterable[str], progress: Progress | None = None) -> dict[str, str]:
        """The sha256 of each file: as the Hub has it, or taken now."""
        wanted = list(names)
        with Digests(progress) as running:
            taken = {name: running.file(self.files.path(name)) for name in wanted if name not in self.recorded}
        return {name: self.recorded.get(name) or taken[name].result() for name in wanted}


def find(ref: str | Path) -> Located:
    """The output that ``ref`` names, by itself or by its manifest.

    Raises:
        InputError: there is no such output, or no manifest.
        HubError: it is on the Hub and cannot be had.
    """
    if isinstance(ref, str) and refs.is_remote(ref):
        return _on_the_hub(ref)
    path = Path(ref)
    if not path.exists():
        raise InputError("no such file or directory", where=str(ref))
    found = bundle.bundle_of(described(path))
    if not found.manifest.exists() and path.is_file() and (path.parent / naming.MANIFEST).exists():
        found = bundle.bundle_of(path.parent)
    return Located(str(ref), found, manifest.read(found.manifest))


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


def _on_the_hub(ref: str) -> Located:
    from ropepatch.hub import choosing, mirror

    opened = mirror.opened(ref, exact=True)
    if opened.mirror is None or opened.snapshot is None:  # working offline, from the cache
        return Located(str(opened.ref), (found := bundle.bundle_of(opened.path)), manifest.read(found.manifest))
    file, listed = opened.ref.file, opened.snapshot.files
    single = file is not None and file in listed
    parent = str(PurePosixPath(file).parent) if file and single else file or ""
    below = "" if parent in ("", ".") else f"{parent}/"
    if file and file.endswith(".gguf"):
        names = tuple(PurePosixPath(name).name for name in choosing.shards_of(opened.snapshot, file))
        kind = "split" if naming.SHARD.match(names[0]) else "file"
    else:
        inside = [name.removeprefix(below) for name in listed if name.startswith(below)]
        names, kind = tuple(sorted(name for name in inside if not bundle.skipped(name))), "folder"
    files = Bundle(opened.mirror.root / parent, names, kind)
    fetch = opened.mirror.fetch
    assert fetch is not None
    record_name = below + files.manifest.name
    if not fetch(record_name):
        raise InputError("there is no manifest", where=str(opened.ref.within(record_name)))
    recorded = {}
    for name in names:
        sha256 = listed[below + name].sha256
        if sha256 is not None:
            recorded[name] = sha256
        elif listed[below + name].size <= _WHOLE:
            fetch(below + name)
    return Located(str(opened.ref), files, manifest.read(files.manifest), recorded)
