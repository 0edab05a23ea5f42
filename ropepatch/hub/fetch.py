"""Whole files from the Hub, by huggingface_hub's own cache: what a local output or a forward pass needs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath

from ropepatch.bundle import stem_of
from ropepatch.errors import HubError
from ropepatch.hub import choosing, client, mirror, problems
from ropepatch.hub.client import Snapshot
from ropepatch.naming import MANIFEST_SUFFIX

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pth", ".pt", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite")
#: the same weights in formats that nobody loads where there are safetensors
_DOUBLES = tuple(suffix for suffix in WEIGHTS if suffix not in (".safetensors", ".gguf"))
_DONE: dict[tuple[str, frozenset[str]], Path] = {}


def download(ref: str, *, weights: bool = True, also: Collection[str] = ()) -> Path:
    """The checkpoint that ``ref`` names, downloaded into the cache unless it is there: the path of its file or folder.

    Args:
        ref: a place on the Hub.
        weights: with them; formats that double safetensors are left out.
        also: files that are needed even without, relative to the folder.

    Raises:
        HubError: it cannot be had.
    """
    found = mirror.opened(ref)
    if found.snapshot is None:
        return found.path  # offline: what the cache has
    key = (str(found.ref), frozenset(also) | {"weights" if weights else ""})
    if key not in _DONE:
        _DONE[key] = _fetched(found.snapshot, found.ref.file, weights, also)
    return _DONE[key]


def small(ref: str, edited: Collection[str]) -> tuple[Path, list[str] | None]:
    """The same without weights, and without a request where the mirror has every file that is ``edited``.

    Returns:
        The folder, and the files in it that are whole; None where all are.
    """
    found = mirror.opened(ref)
    if found.mirror is None or not found.path.is_dir():
        return download(ref, weights=False, also=edited), None
    below = f"{found.ref.file}/" if found.ref.file else ""
    whole = [name.removeprefix(below) for name in found.mirror.whole if name.startswith(below)]
    if set(edited) <= set(whole):
        return found.path, [name for name in sorted(whole) if name in edited or not name.endswith(WEIGHTS)]
    return download(ref, weights=False, also=edited), None


def wanted(snapshot: Snapshot, file: str | None, weights: bool, also: Collection[str]) -> list[str]:
    """The files of a repository that make up the checkpoint."""
    if file in snapshot.files and file is not None:
        if file.endswith(".gguf"):
            manifest = str(PurePosixPath(file).with_name(stem_of(PurePosixPath(file).name) + MANIFEST_SUFFIX))
            return [*choosing.shards_of(snapshot, file), *([manifest] if manifest in snapshot.files else [])]
        file = None if (parent := str(PurePosixPath(file).parent)) == "." else parent
    below = f"{file}/" if file else ""
    names = [name for name in snapshot.files if name.startswith(below)]
    doubled = any(name.endswith(".safetensors") for name in names)
    dropped = WEIGHTS if not weights else _DOUBLES if doubled else ()
    return [name for name in names if not name.endswith(dropped) or name.removeprefix(below) in also]


def _fetched(snapshot: Snapshot, file: str | None, weights: bool, also: Collection[str]) -> Path:
    from huggingface_hub import snapshot_download

    names = wanted(snapshot, file, weights, also)
    _check_room(snapshot, names)
    ref = snapshot.ref
    client.bars(True)
    with problems.translated(ref.within(file)):
        # names are patterns there; those with brackets in them would be none
        patterns = ["".join(f"[{c}]" if c in "[*?" else c for c in name) for name in names]
        top = Path(
            snapshot_download(ref.repo, revision=snapshot.commit, allow_patterns=patterns, library_name="ropepatch")
        )
    for name in names:
        if not (top / name).is_file():
            raise HubError("was not downloaded", where=str(ref.within(name)))
    return top / file if file else top


def _check_room(snapshot: Snapshot, names: Collection[str]) -> None:
    """Refuse a download that cannot fit before it begins."""
    import shutil

    from huggingface_hub import constants

    missing = sum(snapshot.files[name].size for name in names if client.cached(snapshot.ref, name) is None)
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise HubError(
            f"{missing / 1e9:.1f} GB are to be downloaded, and {free / 1e9:.1f} GB are free in {folder}",
            where=str(snapshot.ref),
            hint="set HF_HOME to a larger disk; for a config alone, --weights none moves no weights",
        )
