"""GGUF: a header scanner that skips arrays.

The layout is ggml's ``docs/gguf.md``; what is refused is what llama.cpp's ``gguf_init_from_reader`` refuses. Every
count that the file declares is held against the bytes that are left before anything is allocated for it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ropepatch.containers import texts
from ropepatch.containers.ggml_types import TYPES
from ropepatch.errors import InputError

MAGIC = b"GGUF"
MAX_NAME = 64  # ggml's GGML_MAX_NAME, the terminating zero included
MAX_DIMS = 4
MAX_STRING = 16 << 20  # Ollama's limit; llama.cpp's 1 GiB would let a sparse file fill the memory
MAX_ARRAY = 1 << 30
#: of what is held in memory or walked over one by one: many times what any published model has, and seconds at most
MAX_KEYS, MAX_TENSORS, MAX_TEXTS = 1 << 16, 1 << 16, 1 << 21
#: of all texts together that are held: keys, their values, names of tensors
MAX_HELD = 16 << 20

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
_WIDTHS = {code: struct.calcsize("<" + fmt) for code, (_, fmt) in SCALARS.items()}
GGML_F32 = 0

#: the bytes of the last long arrays of texts by their count: a patch scans one vocabulary several times
_VOCABULARIES: dict[int, bytes] = {}
_MANY, _KEPT = 10_000, 16 << 20
#: bytes that are mapped at first; a longer header is scanned again with more of them
_WINDOW = 64 << 20


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


@dataclass(frozen=True)
class TensorInfo:
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
            data = file.read(ref.count * _WIDTHS[ref.type])
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
        return max((align(info.offset + info.size, self.alignment) for info in self.tensors.values()), default=0)


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
    with mmap.mmap(number, known, access=mmap.ACCESS_READ) as data:
        scanner = _Scanner(path, data, size)
        try:
            return scanner.run()
        except struct.error:
            if known < size:
                raise Incomplete(scanner.at, scanner.left) from None
            raise InputError(
                "the header ends in the middle of a value: the file is truncated", where=str(path)
            ) from None


class _Scanner:
    """Walks the header once; ``at`` is the current offset."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0
        self.left = 0
        self.data_end = 0
        self.held = self.texts = 0

    def fail(self, what: str) -> InputError:
        return InputError(what, where=f"{self.path} at offset {self.at}")

    def run(self) -> Header:
        header = self._preamble()
        tensors, keys = self._unpack("q"), self._unpack("q")
        left = self.size - self.at
        # The smallest record: 8 bytes of key length, 1 of key, 4 of type, 1 of value; a tensor takes at least 25.
        if not 0 <= keys <= left // 14 or not 0 <= tensors <= left // 25:
            raise self.fail(f"declares {keys} keys and {tensors} tensors in {left} bytes")
        if keys > MAX_KEYS or tensors > MAX_TENSORS:
            raise self.fail(f"{keys} keys and {tensors} tensors are too many (limits {MAX_KEYS} and {MAX_TENSORS})")
        for _ in range(keys):
            self._key(header)
        header.kv_end = self.at
        header.alignment = self._alignment(header)
        for _ in range(tensors):
            self._tensor(header)
        header.infos_end = self.at
        header.data_offset = align(self.at, header.alignment)
        self._check_data(header)
        return header

    def _preamble(self) -> Header:
        if self.data[:4] != MAGIC:
            raise InputError("not a GGUF file", where=str(self.path))
        version = struct.unpack_from("<I", self.data, 4)[0]
        endian = "<"
        if version & 0xFFFF == 0 and version:
            endian, version = ">", struct.unpack_from(">I", self.data, 4)[0]
        if version not in (2, 3):
            self.at = 4
            raise self.fail(f"GGUF version {version} is not supported (2 and 3 are)")
        self.at = 8
        self.endian = endian
        self._structs = {code: struct.Struct(endian + code) for code in "BbHhIif?Qqd"}
        self._records = [struct.Struct(f"{endian}{dims}qiQ") for dims in range(MAX_DIMS + 1)]
        return Header(self.path, version, endian, self.size)

    def _unpack(self, code: str) -> Any:
        packer = self._structs[code]
        value = packer.unpack_from(self.data, self.at)[0]
        self.at += packer.size
        return value

    def _text(self, limit: int) -> bytes:
        length = self._unpack("Q")
        if length > limit or length > self.size - self.at:
            raise self.fail(f"a text of {length} bytes does not fit (limit {limit}, {self.size - self.at} left)")
        self.held += length
        if self.held > MAX_HELD:
            raise self.fail(f"its texts outside of arrays come to more than {MAX_HELD} bytes")
        text = self.data[self.at : self.at + length]
        if len(text) < length:
            raise struct.error("the text goes on behind what is known")
        self.at += length
        return text

    def _key(self, header: Header) -> None:
        start = self.at
        key = self._text(MAX_STRING).decode("utf-8", "surrogateescape")
        if not key or key in header.keys:
            raise self.fail(f"key {key!r} is {'repeated' if key else 'empty'}")
        kind = self._unpack("i")
        value = self._value(kind, key)
        header.keys[key] = KeyValue(key, kind, value, start, self.at)

    def _value(self, kind: int, key: str) -> Any:
        if kind in SCALARS:
            return self._unpack(SCALARS[kind][1])
        if kind == STRING:
            return self._text(MAX_STRING).decode("utf-8", "replace")
        if kind != ARRAY:
            raise self.fail(f"key {key!r} has unknown value type {kind}")
        inner, count = self._unpack("i"), self._unpack("Q")
        width = 8 if inner == STRING else _WIDTHS.get(inner)
        if width is None:
            raise self.fail(f"key {key!r} is an array of {TYPE_NAMES.get(inner, inner)}, which loaders reject")
        if count > MAX_ARRAY or count > (self.size - self.at) // width:
            raise self.fail(f"key {key!r} declares {count} elements in {self.size - self.at} bytes")
        self.texts += count if inner == STRING else 0
        if self.texts > MAX_TEXTS:
            raise self.fail(f"key {key!r} declares too many texts (limit {MAX_TEXTS} in all arrays)")
        ref = ArrayRef(inner, count, self.at)
        if inner == STRING:
            self._skip_texts(count, key)
        else:
            self.at += count * width
        return ref

    def _skip_texts(self, count: int, key: str) -> None:
        start, known = self.at, _VOCABULARIES.get(count, b"")
        if known and self.data[start : start + len(known)] == known:
            self.at += len(known)
            return
        try:
            at = texts.skip(self.data, start, self.size, count, self.endian)
        except texts.Cut as cut:
            self.left = (cut.at - start) * cut.left // max(count - cut.left, 1)
            raise
        if at > self.size:
            self.at = at
            raise self.fail(f"a text of key {key!r} leaves the file")
        self.at = at
        if count >= _MANY and at - start <= _KEPT and at <= len(self.data):
            _VOCABULARIES.pop(count, None)
            _VOCABULARIES[count] = self.data[start:at]
            while len(_VOCABULARIES) > 2:
                _VOCABULARIES.pop(next(iter(_VOCABULARIES)))

    def _alignment(self, header: Header) -> int:
        record = header.keys.get("general.alignment")
        if record is None:
            return 32
        if record.type != TYPE_CODES["UINT32"]:
            raise self.fail("general.alignment is not a UINT32")
        alignment = int(record.value)
        if alignment == 0 or alignment & (alignment - 1):
            raise self.fail(f"general.alignment {alignment} is not a power of two")
        return alignment

    def _tensor(self, header: Header) -> None:
        start = self.at
        name = self._text(MAX_NAME - 1).decode("utf-8", "surrogateescape")
        if name in header.tensors:
            raise self.fail(f"tensor {name!r} is repeated")
        dims = self._unpack("I")
        if dims > MAX_DIMS:
            raise self.fail(f"tensor {name!r} has {dims} dimensions")
        record = self._records[dims]
        *lengths, kind, offset = record.unpack_from(self.data, self.at)
        self.at += record.size
        shape = tuple(lengths)
        size = self._size(name, shape, kind)
        if offset != self.data_end:
            raise self.fail(
                f"tensor {name!r} is at data offset {offset}, not {self.data_end} as those before it require"
            )
        self.data_end = align(offset + size, header.alignment)
        header.tensors[name] = TensorInfo(name, shape, kind, offset, size, start, self.at)

    def _size(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        if kind not in TYPES:
            raise self.fail(f"tensor {name!r} has unknown type {kind}")
        elements = 1
        for length in shape:
            if length < 0:
                raise self.fail(f"tensor {name!r} has a negative dimension")
            elements *= length
        _, block, width = TYPES[kind]
        if elements >= 1 << 63 or (shape and shape[0] % block):
            raise self.fail(f"tensor {name!r} has the impossible shape {shape}")
        return elements // block * width

    def _check_data(self, header: Header) -> None:
        end = max((info.offset + info.size for info in header.tensors.values()), default=0)
        if header.tensors and header.data_offset + end > self.size:
            raise InputError(
                f"tensor data ends at {header.data_offset + end}, the file at {self.size}: it is truncated",
                where=str(self.path),
            )
