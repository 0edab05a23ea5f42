"""Moving a long range within its own file by copying, for file systems that cannot do it and disks without room.

Source and destination overlap, so each chunk is written beside the file before it is written into it. That one record
tells how far the move has come: what lies behind it (in the direction of the move) is at its new place, what lies
before it is still at its old one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ropepatch.errors import InputError
from ropepatch.storage import files
from ropepatch.storage.ranges import Progress

#: bytes of one chunk, held in memory and up to twice on the disk beside the file
CHUNK = 8 << 20


def record_path(path: Path) -> Path:
    """Where the record of a moving file stands."""
    return path.with_name(f".{path.name}.ropepatch-move")


def shift(path: Path, descriptor: int, body: tuple[int, int], move: int, progress: Progress | None = None) -> None:
    """Move ``body`` by ``move`` bytes; can be taken back by :func:`unshift` from any point."""
    start, end = body
    left = end - start
    while left:
        count = min(CHUNK, left)
        at = start + left - count if move > 0 else end - left
        _step(path, descriptor, count, at, at, move)
        left -= count
        if progress:
            progress(count)


def unshift(path: Path, descriptor: int, body: tuple[int, int], move: int, progress: Progress | None = None) -> None:
    """Move back whatever part of ``body`` has been moved."""
    record = record_path(path)
    if not record.exists():
        return
    at, data = _load(record)
    files.write_at(descriptor, data, at)
    os.fsync(descriptor)
    start, end = body
    left = end - at - len(data) if move > 0 else at - start
    while left:
        count = min(CHUNK, left)
        at = end - left if move > 0 else start + left - count
        _step(path, descriptor, count, at + move, at, -move)
        left -= count
        if progress:
            progress(count)


def forget(path: Path) -> None:
    """Remove the record of a move that is over."""
    record_path(path).unlink(missing_ok=True)


def _step(path: Path, descriptor: int, count: int, source: int, home: int, move: int) -> None:
    """Take one chunk from ``source`` to ``source + move``; the record names its place in the old file, ``home``."""
    data = _read(path, descriptor, count, source)
    files.write_bytes(record_path(path), json.dumps({"at": home}).encode() + b"\n" + data, overwrite=True)
    files.write_at(descriptor, data, source + move)
    os.fsync(descriptor)


def _read(path: Path, descriptor: int, count: int, at: int) -> bytes:
    pieces = []
    while count:
        piece = os.pread(descriptor, count, at)
        if not piece:
            raise InputError(f"ends at {at}, in the middle of what was to be moved", where=str(path))
        pieces.append(piece)
        count, at = count - len(piece), at + len(piece)
    return b"".join(pieces)


def _load(record: Path) -> tuple[int, bytes]:
    head, _, data = record.read_bytes().partition(b"\n")
    return int(json.loads(head)["at"]), data
