"""Reading a manifest that somebody else may have written: whole, or refused in one line."""

from __future__ import annotations

from pathlib import Path

from ropepatch import manifest
from ropepatch.errors import InputError
from ropepatch.manifest import Manifest

#: what in-toto and SLSA want and nothing here reads: ``manifest verify`` says whether it is there and right
_UNREAD = frozenset({"_type", "predicateType", "buildType", "uri", "id", "invocationId", "startedOn", "mediaType"})


def read(path: Path) -> Manifest:
    """The manifest in the file ``path``; its members are there, and of the types that readers count on.

    Raises:
        InputError: it is no manifest of ropepatch, or not whole.
    """
    found = manifest.read(path)
    check(found, str(path))
    return found


def check(record: Manifest, where: str) -> None:
    """Raise :class:`InputError` when ``record`` is no manifest of ropepatch, or not whole."""
    from ropepatch import shapes

    record.check(where)
    fault = shapes.misfit("manifest", record.document, _UNREAD)
    if fault is not None:
        raise InputError(f"is not a whole manifest: {fault}", where=where)
