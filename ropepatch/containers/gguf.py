"""GGUF: a header's records, and where they are; the layout is ggml's ``docs/gguf.md``."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ropepatch.errors import InputError

#: value type -> (name, struct code); the names are those of gguf.GGUFValueType
SCALARS: dict[int, tuple[str, str]] = {
    0: ("UINT8", "B"),
    1: ("INT8", "b"),
    2: ("UINT16", "H"),
    3: ("INT16", "h"),
    4: ("UINT32", "I"),
    5: ("INT32", "i"),
    6: ("FLOAT32", "f"),
    7: ("BOOL", "?"),
    10: ("UINT64", "Q"),
    11: ("INT64", "q"),
    12: ("FLOAT64", "d"),
}
STRING, ARRAY = 8, 9
TYPE_NAMES = {**{code: name for code, (name, _) in SCALARS.items()}, STRING: "STRING", ARRAY: "ARRAY"}
TYPE_CODES = {name: code for code, name in TYPE_NAMES.items()}
WIDTHS = {code: struct.calcsize("<" + fmt) for code, (_, fmt) in SCALARS.items()}
GGML_F32 = 0

#: bytes that are mapped at first; a longer header is scanned again with more of them
_WINDOW = 64 << 20
#: the header that was scanned last, with its bytes if they are no more than this: a patch scans a file several times
_LAST: list[tuple[bytes, Header]] = []
_KEPT = 16 << 20
_PIECE = 64 << 10


@dataclass(frozen=True)
class ArrayRef:
    """An array value that was stepped over: where its elements are."""

    type: int
    count: int
    offset: int


@dataclass(frozen=True)
class KeyValue:
    """One metadata record; ``start`` and ``end`` are file offsets of the whole record."""

    key: str
    type: int
    value: Any
    start: int
    end: int


class TensorInfo(NamedTuple):
    """One tensor record; ``offset`` counts from the start of the data section, ``size`` is in bytes, ``start`` and
    ``end`` are file offsets of the record."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size: int
    start: int
    end: int


@dataclass
class Header:
    """A scanned GGUF header.

    Attributes:
        path: the file.
        version: 2 or 3.
        endian: ``<`` or ``>``.
        keys: metadata records by key, in file order.
        tensors: tensor records by name, in file order.
        kv_end: offset behind the last metadata record.
        infos_end: offset behind the last tensor record.
        data_offset: start of the data section.
        alignment: ``general.alignment`` or 32.
        size: the file's length in bytes.
    """

    path: Path
    version: int
    endian: str
    size: int
    keys: dict[str, KeyValue] = field(default_factory=dict)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    kv_end: int = 0
    infos_end: int = 0
    data_offset: int = 0
    alignment: int = 32

    def get(self, key: str) -> Any:
        """The value of ``key``: a Python scalar, an :class:`ArrayRef`, or None when absent."""
        record = self.keys.get(key)
        return None if record is None else record.value

    def type_of(self, key: str) -> str | None:
        """The name of the value type of ``key``, None when absent."""
        record = self.keys.get(key)
        return None if record is None else TYPE_NAMES[record.type]

    def array(self, key: str, limit: int = 4096) -> list[Any] | None:
        """The elements of an array of scalars; None when ``key`` is absent, no such array, or longer than ``limit``."""
        ref = self.get(key)
        if not isinstance(ref, ArrayRef) or ref.type not in SCALARS or ref.count > limit:
            return None
        with open(self.path, "rb") as file:
            file.seek(ref.offset)
            data = file.read(ref.count * WIDTHS[ref.type])
        return list(struct.unpack(f"{self.endian}{ref.count}{SCALARS[ref.type][1]}", data))

    def read_f32(self, name: str, limit: int = 1 << 16) -> npt.NDArray[np.float32]:
        """The values of a small F32 tensor, shape as in the file reversed to numpy's order.

        Raises:
            InputError: it is not F32, or larger than ``limit`` elements.
        """
        info = self.tensors[name]
        if info.type != GGML_F32 or info.size > 4 * limit:
            raise InputError(f"tensor {name} is not a small F32 tensor", where=str(self.path))
        with open(self.path, "rb") as file:
            file.seek(self.data_offset + info.offset)
            data = file.read(info.size)
        values = np.frombuffer(data, dtype=f"{self.endian}f4").astype(np.float32)
        return values.reshape(info.shape[::-1])

    @property
    def data_size(self) -> int:
        """Bytes of the data section that the tensors take, the padding of the last one included."""
        return align(data_end(self.tensors), self.alignment)


def data_end(tensors: dict[str, TensorInfo]) -> int:
    """Where the last tensor ends in the data section: each begins where the one before it in the file has ended."""
    last = next(reversed(tensors.values()), None)
    return 0 if last is None else last.offset + last.size


def align(position: int, alignment: int) -> int:
    """The next multiple of ``alignment``."""
    return -(-position // alignment) * alignment


class Incomplete(Exception):
    """The header goes on behind the bytes that are known.

    Attributes:
        at: the offset up to which it was understood.
        left: a guess at how many bytes are still missing of the value there; 0 where nothing speaks for one.
    """

    def __init__(self, at: int, left: int) -> None:
        super().__init__(at, left)
        self.at, self.left = at, left


def scan(path: str | Path, known: int | None = None) -> Header:
    """Scan the header of a GGUF file without reading tensors or array elements.

    Args:
        path: the file.
        known: how many bytes from its beginning are in place, where it is a file that is fetched piece by piece.

    Raises:
        InputError: the file is not GGUF, is truncated, or declares something impossible; says what and where.
        Incomplete: more than the ``known`` bytes are needed.
    """
    path = Path(path)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise InputError("not a GGUF file: shorter than a GGUF header", where=str(path))
        if known is not None:
            return _scan_beginning(path, file.fileno(), min(known, size), size)
        # Mapping all of a file takes address space for all of it, which may be capped.
        window = min(size, _WINDOW)
        while True:
            try:
                return _scan_beginning(path, file.fileno(), window, size)
            except Incomplete as more:
                window = min(size, max(4 * window, more.at + 2 * more.left))


def _scan_beginning(path: Path, number: int, known: int, size: int) -> Header:
    from ropepatch.containers.gguf_scanner import Scanner

    last = _LAST[0] if _LAST else None
    if last and last[1].size == size and len(last[0]) <= known and _begins(number, last[0]):
        return replace(last[1], path=path)
    with mmap.mmap(number, known, access=mmap.ACCESS_READ) as data:
        scanner = Scanner(path, data, size, last)
        try:
            header = scanner.run()
            if header.infos_end <= _KEPT:
                _LAST[:] = [(data[: header.infos_end], header)]
            return header
        except struct.error:
            if known < size:
                raise Incomplete(scanner.at, scanner.left) from None
            raise InputError(
                "the header ends in the middle of a value: the file is truncated", where=str(path)
            ) from None


def _begins(number: int, wanted: bytes) -> bool:
    """Whether a file begins with these bytes; compared piece by piece, for which no new pages are needed."""
    pieces = (wanted[at : at + _PIECE] for at in range(0, len(wanted), _PIECE))
    return all(os.pread(number, len(piece), index * _PIECE) == piece for index, piece in enumerate(pieces))
