"""The files that make up a checkpoint, and the names that they take in an output."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ropepatch import naming
from ropepatch.errors import InputError, WouldOverwrite
from ropepatch.naming import SHARD

if TYPE_CHECKING:
    pass

Progress = Callable[[int], None]

#: characters of such a name behind its stem
_TAIL = len("-00001-of-00001.gguf")
#: what is no part of a checkpoint, and what speaks of one output only
_SKIPPED = {
    ".git",
    ".cache",
    naming.AUDIT,
    naming.EVIDENCE,
    naming.JOURNAL_SUFFIX,
    naming.MANIFEST,
    naming.SIGNATURE,
}


@dataclass(frozen=True)
class Bundle:
    """A checkpoint as files below one folder.

    Attributes:
        root: the folder.
        names: the files, relative to it; those of a split GGUF in order.
        kind: ``file``, ``split`` or ``folder``.
    """

    root: Path
    names: tuple[str, ...]
    kind: str

    @property
    def anchor(self) -> Path:
        """The path that a person would name: the file, the first shard, or the folder."""
        return self.root if self.kind == "folder" else self.root / self.names[0]

    @property
    def stem(self) -> str:
        """The name without suffix and shard number."""
        if self.kind == "folder":
            return self.root.resolve().name
        return stem_of(self.names[0]) if self.kind == "split" else Path(self.names[0]).stem

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.root / name

    @property
    def manifest(self) -> Path:
        """Where the bundle's manifest stands: inside a folder, beside files."""
        if self.kind == "folder":
            return self.root / naming.MANIFEST
        return self.root / (self.stem + naming.MANIFEST_SUFFIX)

    @property
    def journal(self) -> Path:
        """Where the journal of a change in place stands."""
        return self.root / (naming.JOURNAL_SUFFIX if self.kind == "folder" else self.stem + naming.JOURNAL_SUFFIX)

    @property
    def statement(self) -> Path:
        """Where the statement of a verification stands: beside the manifest."""
        return self.root / (naming.EVIDENCE if self.kind == "folder" else self.stem + naming.EVIDENCE_SUFFIX)

    @property
    def signature(self) -> Path:
        """Where the signature stands."""
        return self.root / (naming.SIGNATURE if self.kind == "folder" else self.stem + naming.SIGNATURE_SUFFIX)

    @property
    def outdated(self) -> tuple[Path, ...]:
        """What a change in place makes false, because it speaks of the files as they were."""
        return self.statement, self.signature

    def renamed(self, target: Path) -> Bundle:
        """The bundle that an output under ``target`` makes, with the files in the same order."""
        if self.kind == "folder":
            return Bundle(target, self.names, self.kind)
        if self.kind == "file":
            return Bundle(target.parent, (target.name,), self.kind)
        match = SHARD.match(target.name)
        stem = match["stem"] if match else target.name.removesuffix(".gguf")
        return Bundle(target.parent, tuple(f"{stem}{n[-_TAIL:]}" for n in self.names), self.kind)

    def default(self, tag: str) -> Path:
        """``model.gguf`` to ``model-TAG.gguf``, ``model/`` to ``model-TAG/``, beside the input."""
        if self.kind == "folder":
            plain = self.root.name not in ("", ".", "..")
            return (self.root if plain else self.root.resolve()).with_name(f"{self.stem}-{tag}")
        suffix = self.names[0][-_TAIL:] if self.kind == "split" else Path(self.names[0]).suffix or ".gguf"
        return self.root / f"{self.stem}-{tag}{suffix}"

    def placed(self, output: str | Path, usual: Path) -> Path:
        """The name that an output gets under ``output``: as with cp, a folder that is there takes a file.

        Args:
            output: the name that was asked for; a text that ends with a separator names a folder.
            usual: the name that it has otherwise.

        Raises:
            InputError: a file shall go into a folder that is not there.
        """
        if self.kind == "folder" or not (Path(output).is_dir() or str(output).endswith(os.sep)):
            return Path(output)
        if not Path(output).is_dir():
            raise InputError("no such directory", where=str(output))
        return Path(output) / usual.name

    def refuse_existing(self) -> None:
        """Raise :class:`WouldOverwrite` when anything that this bundle would write is there already."""
        paths = [self.root] if self.kind == "folder" else [*(self.path(n) for n in self.names), self.manifest]
        for path in paths:
            if os.path.lexists(path):
                if self.kind != "folder":
                    from ropepatch.storage import journal

                    journal.refuse_pending(self.journal)
                raise WouldOverwrite("exists already", where=str(path), hint="choose another name with -o")
        if not self.anchor.parent.is_dir():
            raise InputError("no such directory", where=str(self.anchor.parent))


def stem_of(name: str) -> str:
    """A file's name without suffix, and without shard number where llama.cpp would take it for one."""
    match = SHARD.match(name)
    return match["stem"] if match else Path(name).stem


def bundle_of(path: Path) -> Bundle:
    """The bundle that ``path`` names: a folder, a file, or any shard of a split GGUF.

    Raises:
        InputError: a shard is missing.
    """
    if path.is_dir():
        return Bundle(path, tuple(tree(path)), "folder")
    match = SHARD.match(path.name)
    if match is None:
        return Bundle(path.parent, (path.name,), "file")
    count = int(match["count"])
    names = tuple(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
    for name in names:
        if not (path.parent / name).exists():
            raise InputError(f"shard {name} is missing", where=str(path), hint=f"all {count} shards have to be there")
    return Bundle(path.parent, names, "split")


def is_gguf(path: Path) -> bool:
    """Whether a file is a GGUF: by its suffix, or, as a blob of Ollama's has none, by its first bytes."""
    if path.suffix == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def skipped(name: str) -> bool:
    """Whether a file of a folder, by its relative name, is no part of the checkpoint."""
    first, _, rest = name.partition("/")
    return first in _SKIPPED if not rest else bool({".git", ".cache"} & set(name.split("/")))


def tree(root: Path) -> list[str]:
    """The files of a checkpoint folder by relative name, without version control, caches and the manifest."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        here = Path(folder).relative_to(root)
        found += [str(here / name) for name in names if not (here == Path(".") and name in _SKIPPED)]
    return sorted(found)
