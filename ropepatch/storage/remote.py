"""Files that are elsewhere, as sparse files here: the ranges that were fetched are in place, the rest is a hole.

Everything that reads headers of local files reads them too. Where the bytes come from is somebody else's business:
:class:`Ranges`. A mirror is shown by its own name, not by the folder that it happens to have here.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ropepatch import errors


class Ranges(Protocol):
    """A file's bytes by range."""

    size: int

    def read(self, start: int, end: int | None) -> bytes:
        """The bytes from ``start`` to ``end``, which may lie behind the end of the file."""


class Mirror:
    """A folder of sparse files.

    Attributes:
        root: where it is.
        shown: what it is called in messages.
        whole: names of files that are here with every byte.
    """

    def __init__(self, name: str, shown: str) -> None:
        self._top = Path(tempfile.mkdtemp(prefix="ropepatch-"))
        self.root = self._top / name
        self.root.mkdir()
        self.shown = shown
        self.whole: set[str] = set()
        #: fetches a file that nobody needed at first, by its name; False where there is none
        self.fetch: Callable[[str], bool] | None = None
        errors.SHOWN[str(self.root)] = shown
        _MIRRORS[self.root] = self
        atexit.register(self.close)

    def close(self) -> None:
        """Remove it."""
        _MIRRORS.pop(self.root, None)
        errors.SHOWN.pop(str(self.root), None)
        shutil.rmtree(self._top, ignore_errors=True)
        atexit.unregister(self.close)

    def path(self, name: str) -> Path:
        """Where a file is, its folder made."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, name: str, data: bytes) -> None:
        """A whole file."""
        self.path(name).write_bytes(data)
        self.whole.add(name)

    def link(self, name: str, target: Path) -> None:
        """A whole file that lies elsewhere on this machine."""
        self.path(name).symlink_to(target.resolve())
        self.whole.add(name)

    def hole(self, name: str, size: int) -> Path:
        """A file of ``size`` bytes of which none is here."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
        return path


class Sparse:
    """One sparse file that is filled from its beginning, and in places behind that.

    Attributes:
        path: the file.
        known: how many bytes from the beginning are in place.
    """

    def __init__(self, path: Path, source: Ranges) -> None:
        self.path = path
        self.source = source
        self.known = 0

    def extend(self, count: int) -> None:
        """Fetch the next ``count`` bytes, fewer at the end."""
        end = min(self.known + count, self.source.size)
        self.fill(self.known, end)
        self.known = end

    def fill(self, start: int, end: int) -> None:
        """Fetch the bytes from ``start`` to ``end``."""
        data = self.source.read(start, end)
        with open(self.path, "r+b") as file:
            file.seek(start)
            file.write(data)


_MIRRORS: dict[Path, Mirror] = {}


def of(path: Path) -> Mirror | None:
    """The mirror that ``path`` lies in; None for an ordinary file."""
    return next((mirror for root, mirror in _MIRRORS.items() if root in (path, *path.parents)), None)


def bring(path: Path) -> Path:
    """``path``, fetched first where it is a file of a mirror that is not here yet."""
    mirror = of(path) if _MIRRORS else None
    if mirror is not None and mirror.fetch is not None and not path.exists():
        mirror.fetch(path.relative_to(mirror.root).as_posix())
    return path
