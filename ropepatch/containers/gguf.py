"""GGUF: a header scanner that skips arrays, and header changes as splices.

The layout is ggml's ``docs/gguf.md``; what is refused is what llama.cpp's ``gguf_init_from_reader`` refuses. Every
count that the file declares is held against the bytes that are left before anything is allocated for it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ropepatch.containers import texts
from ropepatch.containers.ggml_types import TYPES
from ropepatch.errors import InputError
from ropepatch.storage.splice import Splice

MAGIC = b"GGUF"
MAX_NAME = 64  # ggml's GGML_MAX_NAME, the terminating zero included
MAX_DIMS = 4
MAX_STRING = 16 << 20  # Ollama's limit; llama.cpp's 1 GiB would let a sparse file fill the memory
MAX_ARRAY = 1 << 30

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
#: a text of blanks that takes what a header has to spare; engines ignore keys that they do not know
PAD = "ropepatch.pad"

#: the bytes of the last long arrays of texts by their count: a patch scans one vocabulary several times
_VOCABULARIES: dict[int, bytes] = {}
_MANY, _KEPT = 10_000, 16 << 20


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
        return max((_align(info.offset + info.size, self.alignment) for info in self.tensors.values()), default=0)


def _align(position: int, alignment: int) -> int:
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
        part = known is not None and known < size
        with mmap.mmap(file.fileno(), known or 0, access=mmap.ACCESS_READ) as data:
            scanner = _Scanner(path, data, size)
            try:
                return scanner.run()
            except struct.error:
                if part:
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

    def fail(self, what: str) -> InputError:
        return InputError(what, where=f"{self.path} at offset {self.at}")

    def run(self) -> Header:
        header = self._preamble()
        tensors, keys = self._unpack("q"), self._unpack("q")
        left = self.size - self.at
        # The smallest record: 8 bytes of key length, 1 of key, 4 of type, 1 of value; a tensor takes at least 25.
        if not 0 <= keys <= left // 14 or not 0 <= tensors <= left // 25:
            raise self.fail(f"declares {keys} keys and {tensors} tensors in {left} bytes")
        for _ in range(keys):
            self._key(header)
        header.kv_end = self.at
        header.alignment = self._alignment(header)
        for _ in range(tensors):
            self._tensor(header)
        header.infos_end = self.at
        header.data_offset = _align(self.at, header.alignment)
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
        text = self.data[self.at : self.at + length]
        if len(text) < length:
            raise struct.error("the text goes on behind what is known")
        self.at += length
        return text

    def _key(self, header: Header) -> None:
        start = self.at
        key = self._text(65535).decode("utf-8", "surrogateescape")
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
        shape = tuple(self._unpack("q") for _ in range(dims))
        kind, offset = self._unpack("i"), self._unpack("Q")
        size = self._size(name, shape, kind)
        if offset != self.data_end:
            raise self.fail(
                f"tensor {name!r} is at data offset {offset}, not {self.data_end} as those before it require"
            )
        self.data_end = _align(offset + size, header.alignment)
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


def encode_key(header: Header, key: str, type_name: str, value: Any) -> bytes:
    """A metadata record in the file's byte order. ``value`` is a scalar, a text, or ``(element type, list)``.

    Raises:
        InputError: the value does not fit its type.
    """
    code = TYPE_CODES[type_name]
    try:
        return _text(header, key) + struct.pack(f"{header.endian}i", code) + _encode_value(header, code, value)
    except (struct.error, OverflowError):
        raise InputError(f"{value!r} does not fit the type {type_name} of {key}", where=str(header.path)) from None


def _encode_value(header: Header, code: int, value: Any) -> bytes:
    if code in SCALARS:
        if TYPE_NAMES[code] == "BOOL" and not isinstance(value, bool):
            raise struct.error("struct would take any text for true")
        return struct.pack(header.endian + SCALARS[code][1], value)
    if code == STRING:
        return _text(header, value)
    inner, items = TYPE_CODES[value[0]], value[1]
    packed = b"".join(_encode_value(header, inner, item) for item in items)
    return struct.pack(f"{header.endian}iQ", inner, len(items)) + packed


def _text(header: Header, text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack(f"{header.endian}Q", len(data)) + data


def splices(
    header: Header,
    keys: Mapping[str, tuple[str, Any] | None],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    *,
    block: int = 0,
) -> list[Splice]:
    """The splices that change ``keys`` and F32 ``tensors`` and nothing else.

    A key that is there keeps its place, a new one goes behind the last; None deletes. A tensor that is there must
    keep its shape; a new one goes behind the last, since loaders require offsets to follow the order of the records.

    Args:
        header: the scanned header.
        keys: ``{key: (type name, value)}`` or ``{key: None}``.
        tensors: new F32 values by name, numpy order.
        block: the tensor data may move by a multiple of this many bytes only: a text under ``ropepatch.pad`` takes up
            the rest, and gives it back to later changes. 0 for as few bytes as can be; the text of an earlier change is
            used up then, too.

    Raises:
        InputError: a value does not fit its type, a tensor its place, or ``general.alignment`` would change.
    """
    if "general.alignment" in keys:
        raise InputError("general.alignment cannot change: every tensor would move", where=str(header.path))
    added = {name: values for name, values in tensors.items() if name not in header.tensors}
    keys = {**keys, **_pad(header, keys, added, block)}
    with open(header.path, "rb") as file:
        source = file.fileno()
        changed = _key_splices(header, keys, source)
        changed += _padding_splices(header, keys, added, source, changed)
        changed += _data_splices(header, tensors, added, source)
    return [splice for splice in sorted(changed, key=lambda s: s.offset) if splice.before != splice.after]


def _pad(
    header: Header,
    keys: Mapping[str, tuple[str, Any] | None],
    added: Mapping[str, npt.NDArray[np.float32]],
    block: int,
) -> dict[str, tuple[str, Any] | None]:
    """What becomes of the padding key with a change of ``keys``: nothing, deleted, or as long as whole blocks need."""
    record = header.keys.get(PAD)
    usable = record is None or record.type == STRING
    if PAD in keys or not header.tensors or not usable or not (block or record):
        return {}
    growth = sum(len(_info(header, name, values, 0)) for name, values in added.items())
    for key, value in keys.items():
        old = header.keys.get(key)
        growth += (len(encode_key(header, key, *value)) if value else 0) - (old.end - old.start if old else 0)
    if growth == 0:
        return {}
    room = header.data_offset - header.infos_end - growth + (record.end - record.start if record else 0)
    if 0 <= room < header.alignment:  # what every header pads with zeros
        return {PAD: None}
    empty, step = len(encode_key(header, PAD, "STRING", "")), max(block, header.alignment)
    room += max(0, -(-(empty - room) // step) * step)
    return {PAD: ("STRING", " " * (room - empty))}


def _info(header: Header, name: str, values: npt.NDArray[np.float32], position: int) -> bytes:
    """The record of an F32 tensor whose data are at ``position`` of the data section."""
    shape = values.shape[::-1]
    record = _text(header, name) + struct.pack(f"{header.endian}I{len(shape)}q", len(shape), *shape)
    return record + struct.pack(f"{header.endian}iQ", GGML_F32, position)


def _pread(source: int, start: int, end: int) -> bytes:
    return os.pread(source, end - start, start)


def _key_splices(header: Header, keys: Mapping[str, tuple[str, Any] | None], source: int) -> list[Splice]:
    found = []
    for key, value in keys.items():
        record = header.keys.get(key)
        if record is not None:
            after = b"" if value is None else encode_key(header, key, *value)
            found.append(Splice(record.start, _pread(source, record.start, record.end), after))
    return found


def _padding_splices(
    header: Header,
    keys: Mapping[str, tuple[str, Any] | None],
    added: Mapping[str, npt.NDArray[np.float32]],
    source: int,
    changed: list[Splice],
) -> list[Splice]:
    """Counts at the start, new keys behind the last, new tensor records and fresh padding behind the last of those."""
    new_keys = {key: value for key, value in keys.items() if key not in header.keys and value is not None}
    deleted = sum(value is None and key in header.keys for key, value in keys.items())
    counts = [len(header.tensors), len(header.keys)]
    found = [
        Splice(
            8,
            struct.pack(f"{header.endian}qq", *counts),
            struct.pack(f"{header.endian}qq", counts[0] + len(added), counts[1] + len(new_keys) - deleted),
        )
    ]
    records = b"".join(encode_key(header, key, *value) for key, value in new_keys.items())
    infos = b""
    position = header.data_size
    for name, values in added.items():
        infos += _info(header, name, values, position)
        position = _align(position + values.nbytes, header.alignment)
    growth = sum(len(s.after) - len(s.before) for s in changed) + len(records) + len(infos)
    padding_end = min(header.data_offset, header.size)
    padding = _pread(source, header.infos_end, padding_end)
    end = header.infos_end + growth
    fresh = bytes(_align(end, header.alignment) - end) if header.tensors or added else padding
    if growth == 0 and header.tensors:
        fresh = padding
    if records:
        found.append(Splice(header.kv_end, b"", records))
    if header.infos_end == header.kv_end and records:
        found[-1] = Splice(header.kv_end, padding, records + infos + fresh)
    else:
        found.append(Splice(header.infos_end, padding, infos + fresh))
    return found


def _data_splices(
    header: Header,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    added: Mapping[str, npt.NDArray[np.float32]],
    source: int,
) -> list[Splice]:
    found = []
    for name, values in tensors.items():
        info = header.tensors.get(name)
        if info is None:
            continue
        if info.type != GGML_F32 or info.shape != values.shape[::-1]:
            raise InputError(f"tensor {name} is not F32 of shape {values.shape[::-1]}", where=str(header.path))
        start = header.data_offset + info.offset
        found.append(Splice(start, _pread(source, start, start + info.size), _f32(header, values)))
    if added:
        end = max((info.offset + info.size for info in header.tensors.values()), default=0)
        start = min(header.data_offset + end, header.size)
        stop = min(header.data_offset + header.data_size, header.size)
        data = bytes(header.data_size - end)
        for values in added.values():
            raw = _f32(header, values)
            data += raw + bytes(_align(len(raw), header.alignment) - len(raw))
        found.append(Splice(start, _pread(source, start, stop), data))
    return found


def _f32(header: Header, values: npt.NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values, dtype=f"{header.endian}f4").tobytes()
