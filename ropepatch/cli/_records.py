"""Reading what an earlier run printed or wrote: a patch, a manifest, or an output with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropepatch.manifest import Manifest
    from ropepatch.patch import Patch


def read(path: str) -> Manifest | Patch:
    """The manifest or patch in a file, or the manifest of an output.

    Raises:
        InputError: it is none of them.
        HubError: it is on the Hub and cannot be had.
    """
    from ropepatch import located, manifest, patch
    from ropepatch.hub import refs

    if refs.is_remote(path):
        if not path.endswith(".json"):
            return located.find(path).record
        from ropepatch.hub import mirror

        path = str(mirror.small(path))
    from ropepatch.containers import json_text
    from ropepatch.errors import InputError

    if Path(path).is_dir() or Path(path).suffix in (".gguf", ".safetensors"):
        return located.find(Path(path)).record
    if not Path(path).exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(path)
    _, document = json_text.read(path)
    schema = document.get("schema")
    if schema == manifest.SCHEMA:
        return manifest.read(Path(path))
    if schema != patch.SCHEMA:
        raise InputError(
            "is neither a manifest nor a patch of ropepatch",
            where=path,
            hint="give an output, the .ropepatch.json beside it, or what apply --dry-run --json printed",
        )
    try:
        return patch.Patch.from_json(document)
    except InputError as error:
        raise InputError(error.what, where=path) from None
