"""A file with splices undone as far as its metadata reach: headers, the surroundings of every splice, holes else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ropepatch.bundle import is_gguf
from ropepatch.storage.splice import Splice, segments

#: what of an unchanged range is kept on each side of an exchanged one: headers and lists of factors are shorter
_NEAR = 1 << 20


def write(source: Path, changes: Sequence[Splice], target: Path) -> None:
    """``source`` with ``changes``, where of long unchanged ranges only the two ends are written."""
    header = _header_end(source)
    with open(source, "rb", buffering=0) as old, open(target, "xb", buffering=0) as new:
        position = 0
        for segment in segments(changes, source.stat().st_size):
            if isinstance(segment, bytes):
                os.pwrite(new.fileno(), segment, position)
                position += len(segment)
                continue
            offset, length = segment
            for start, count in _ends(length, max(header - offset, 0) + _NEAR):
                _copy(old.fileno(), new.fileno(), offset + start, position + start, count)
            position += length
        new.truncate(position)


def _header_end(path: Path) -> int:
    """How far a file's metadata reach; the whole of a JSON file."""
    from ropepatch.containers import gguf, safetensors

    if is_gguf(path):
        return gguf.scan(path).data_offset
    return safetensors.scan(path).data_offset if path.suffix == ".safetensors" else path.stat().st_size


def _ends(length: int, near: int) -> list[tuple[int, int]]:
    if length <= near + _NEAR:
        return [(0, length)]
    return [(0, near), (length - _NEAR, _NEAR)]


def _copy(source: int, target: int, offset: int, position: int, length: int) -> None:
    while length:
        data = os.pread(source, min(length, _NEAR), offset)
        if not data:
            return
        os.pwrite(target, data, position)
        offset, position, length = offset + len(data), position + len(data), length - len(data)
