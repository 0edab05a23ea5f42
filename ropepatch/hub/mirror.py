"""A checkpoint on the Hub as a folder of sparse files: metadata whole, headers of weights, nothing of the weights."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ropepatch.containers import safetensors
from ropepatch.dialects import inv_freq_tensors
from ropepatch.errors import HubError, InputError
from ropepatch.hub import client, gguf_header
from ropepatch.hub.choosing import METADATA, chosen, shards_of
from ropepatch.hub.client import Ranges, Snapshot
from ropepatch.hub.refs import HubRef, parse
from ropepatch.naming import SHARD, firsts
from ropepatch.storage.remote import Mirror, Sparse

#: the largest file that is fetched whole; an index of shards is the longest
SMALL = 32 << 20
_FIRST = 256 << 10
#: the first request for a shard that is not the first: no tokenizer in it
_FIRST_OF_SHARD = 32 << 10
_FIRST_OF_SAFETENSORS = 64 << 10
_MAX_HEADERS = 64
_MAX_BUFFERS = 512
_FACTOR_BYTES = 1 << 18
#: mirrors that stay for the next command of the same process
_KEPT = 32


class Opened:
    """A ref on the Hub that has been looked at.

    Attributes:
        ref: the place, at its commit.
        path: where its mirror (or its snapshot in the cache) is.
        snapshot: what the repository holds; None when working offline.
        mirror: the folder of sparse files; None when working offline.
        exact: headers were read with every byte.
    """

    def __init__(
        self, ref: HubRef, path: Path, snapshot: Snapshot | None, mirror: Mirror | None, exact: bool = True
    ) -> None:
        self.ref, self.path, self.snapshot, self.mirror, self.exact = ref, path, snapshot, mirror, exact


_OPENED: OrderedDict[str, Opened] = OrderedDict()
_LOCK = threading.Lock()


def opened(ref: str, *, exact: bool = False) -> Opened:
    """The checkpoint that ``ref`` names, with what is needed to read its RoPE here.

    Args:
        ref: a place on the Hub.
        exact: read every byte of a header, also the middle of large vocabularies.

    Raises:
        HubError: it cannot be had.
        InputError: there is no checkpoint in it.
        UsageError: it holds several, and none is named.
    """
    with _LOCK:
        known = _OPENED.get(ref)
    if known is None or (exact and not known.exact):
        known = _offline(parse(ref)) if client.offline() else _online(parse(ref), exact)
    with _LOCK:
        _OPENED[ref] = _OPENED[str(known.ref)] = known
        _OPENED.move_to_end(ref)
        while len(_OPENED) > 2 * _KEPT:
            _, oldest = _OPENED.popitem(last=False)
            if oldest.mirror is not None and oldest not in _OPENED.values():
                oldest.mirror.close()
    return known


def models(ref: str) -> list[str]:
    """Every GGUF model of a repository or of a folder in it, as refs at one commit.

    Raises:
        HubError: the repository cannot be seen.
        InputError: it holds none.
    """
    place = parse(ref)
    if client.offline():
        folder = snapshot_folder(place)
        if folder is None:
            raise _absent(place)
        names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.gguf"))]
        found = [str(place.at(folder.name).within(name)) for name in firsts(names, place.file)]
    else:
        snapshot = client.look(place)
        found = [str(snapshot.ref.within(name)) for name in firsts(snapshot.files, place.file)]
    if not found:
        raise InputError("holds no GGUF file", where=ref)
    return found


def small(ref: str) -> Path:
    """One small file, whole.

    Raises:
        HubError: it cannot be had.
        InputError: it is large.
    """
    place = parse(ref)
    if client.offline():
        return _offline(place).path
    snapshot = client.look(place)
    if place.file is None or place.file not in snapshot.files:
        raise HubError("there is no such file", where=str(snapshot.ref))
    mirror = Mirror(place.repo.rsplit("/", 1)[-1], str(snapshot.ref.within(None)))
    mirror.put(place.file, client.read(snapshot, place.file, SMALL))
    return mirror.path(place.file)


def look(ref: HubRef) -> Snapshot:
    """What a repository holds at a commit, from memory where this process has opened it.

    Raises:
        HubError: it cannot be seen.
    """
    known = _OPENED.get(str(ref))
    return known.snapshot if known is not None and known.snapshot is not None else client.look(ref)


def _online(ref: HubRef, exact: bool) -> Opened:
    snapshot = client.look(ref)
    file = chosen(snapshot, ref.file)
    pinned = snapshot.ref.within(file if file != ref.file else ref.file)
    mirror = Mirror(ref.repo.rsplit("/", 1)[-1], str(snapshot.ref.within(None)))
    mirror.fetch = lambda name: _small(mirror, snapshot, name)
    whole = True
    try:
        if file and file.endswith(".gguf"):
            for name in shards_of(snapshot, file):
                whole &= _gguf(mirror, snapshot, name, exact)
        else:
            _folder(mirror, snapshot, file)
    except BaseException:
        mirror.close()
        raise
    return Opened(pinned, mirror.root / file if file else mirror.root, snapshot, mirror, whole)


def _small(mirror: Mirror, snapshot: Snapshot, name: str) -> bool:
    """Bring a whole small file; False where there is none."""
    if name not in snapshot.files:
        return False
    path = client.cached(snapshot.ref, name)
    if path is not None:
        mirror.link(name, path)
    else:
        mirror.put(name, client.read(snapshot, name, SMALL))
    return True


def _sparse(mirror: Mirror, snapshot: Snapshot, name: str) -> Sparse | None:
    """An empty sparse file; None where the cache has the real one."""
    path = client.cached(snapshot.ref, name)
    if path is not None:
        mirror.link(name, path)
        return None
    source = Ranges(snapshot, name)
    return Sparse(mirror.hole(name, source.size), source)


def _folder(mirror: Mirror, snapshot: Snapshot, named: str | None) -> None:
    """What describes a Hugging Face folder, and the headers in which frequencies may be stored."""
    single = named in snapshot.files
    parent = str(PurePosixPath(named).parent) if named and single else named or ""
    below = "" if parent in ("", ".") else f"{parent}/"
    config = next((below + name for name in METADATA if below + name in snapshot.files), None)
    wanted = [named] if named and single and not named.endswith(".safetensors") else []
    index = f"{below}{inv_freq_tensors.INDEX}"
    for name in dict.fromkeys([*wanted, *filter(None, [config]), *([index] if index in snapshot.files else [])]):
        _small(mirror, snapshot, name)
    weights = [
        name
        for name in snapshot.files
        if name.startswith(below) and name.endswith(".safetensors") and "/" not in name.removeprefix(below)
    ]
    for name in weights:  # their sizes tell the model's, even where their headers are of no interest
        if client.cached(snapshot.ref, name) is None:
            mirror.hole(name, snapshot.files[name].size)
    held = _holding(mirror.root / below, index in snapshot.files, weights)
    for name in [named] if config is None and named and single else held:
        _safetensors(mirror, snapshot, name)


def _holding(folder: Path, indexed: bool, weights: Sequence[str]) -> list[str]:
    """The safetensors files whose headers have to be read: those that may hold stored frequencies."""
    if not indexed:
        return list(weights)[:_MAX_HEADERS]
    named = inv_freq_tensors.shards_in_index(folder / inv_freq_tensors.INDEX)
    return [name for name in weights if PurePosixPath(name).name in named][:_MAX_HEADERS]


def _safetensors(mirror: Mirror, snapshot: Snapshot, name: str) -> None:
    """The header of a safetensors file, and the frequencies stored in it."""
    (mirror.root / name).unlink(missing_ok=True)
    file = _sparse(mirror, snapshot, name)
    if file is None:
        return
    file.extend(_FIRST_OF_SAFETENSORS)
    start = file.path.open("rb").read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if file.known < 8 + length <= min(file.source.size, 8 + safetensors.MAX_HEADER):
        file.extend(8 + length - file.known)
    try:
        header = safetensors.scan(file.path)
    except InputError:
        return  # the reader of the mirror meets the same and says it
    stored = [tensor for key, tensor in header.tensors.items() if inv_freq_tensors.is_rope_buffer(key)]
    _fill(file, [(tensor.start, tensor.end) for tensor in stored if tensor.end - tensor.start <= _FACTOR_BYTES])


def _gguf(mirror: Mirror, snapshot: Snapshot, name: str, exact: bool) -> bool:
    """The header of a GGUF file, and its frequency factors; False where some of the header was left out."""
    file = _sparse(mirror, snapshot, name)
    if file is None:
        return True
    match = SHARD.match(PurePosixPath(name).name)
    first = _FIRST_OF_SHARD if match and int(match["number"]) > 1 else _FIRST
    header, whole = gguf_header.fetch(file, first, exact=exact)
    factors = [info for key, info in header.tensors.items() if "rope_f" in key and info.size <= _FACTOR_BYTES]
    _fill(file, [(header.data_offset + one.offset, header.data_offset + one.offset + one.size) for one in factors])
    return whole


def _fill(file: Sparse, ranges: Iterable[tuple[int, int]]) -> None:
    """Fetch small ranges, those that lie close together by one request."""
    joined: list[list[int]] = []
    for start, end in sorted(ranges):
        if end <= file.known:
            continue
        if joined and start - joined[-1][1] < gguf_header.WORTH_SKIPPING:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    if len(joined) > _MAX_BUFFERS:
        raise InputError(f"holds {len(joined)} stored frequency buffers far apart", where=str(file.path))
    for start, end in joined:
        file.fill(start, end)


# the cache


def _absent(ref: HubRef) -> HubError:
    return HubError(
        "is not in the cache, and HF_HUB_OFFLINE forbids to ask for it",
        where=str(ref),
        hint=f"hf download {ref.repo} while online",
    )


def _offline(ref: HubRef) -> Opened:
    """The checkpoint as it lies in the cache."""
    folder = snapshot_folder(ref)
    if folder is None:
        raise _absent(ref)
    pinned = ref.at(folder.name)
    path = folder / ref.file if ref.file else folder
    if not path.exists():
        raise _absent(ref)
    if path.is_dir() and not any((path / name).exists() for name in METADATA):
        models = firsts(p.name for p in path.glob("*.gguf"))
        if len(models) == 1:
            path = path / models[0]
            pinned = pinned.within(path.relative_to(folder).as_posix())
    return Opened(pinned, path, None, None)


def snapshot_folder(ref: HubRef) -> Path | None:
    """The folder of the cache that holds a revision of a repository; None where nothing of it was downloaded."""
    from huggingface_hub import constants

    top = Path(constants.HF_HUB_CACHE) / f"models--{ref.repo.replace('/', '--')}"
    revision = ref.revision or "main"
    pointer = top / "refs" / revision
    if pointer.is_file():
        revision = pointer.read_text(encoding="ascii", errors="replace").strip()
    folder = top / "snapshots" / revision
    return folder if folder.is_dir() and folder.parent == top / "snapshots" else None


def forget() -> None:
    """Remove all mirrors of this process."""
    while _OPENED:
        _, oldest = _OPENED.popitem()
        if oldest.mirror is not None:
            oldest.mirror.close()
