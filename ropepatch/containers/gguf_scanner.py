"""Walking over a GGUF header without reading arrays.

What is refused is what llama.cpp's ``gguf_init_from_reader`` refuses. Every count that the file declares is held
against the bytes that are left before anything is allocated for it.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from ropepatch.containers import texts
from ropepatch.containers.ggml_types import TYPES
from ropepatch.containers.gguf import (
    ARRAY,
    SCALARS,
    STRING,
    TYPE_CODES,
    TYPE_NAMES,
    WIDTHS,
    ArrayRef,
    Header,
    KeyValue,
    TensorInfo,
    align,
    data_end,
)
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


class Scanner:
    """Walks the header once; ``at`` is the current offset.

    Args:
        path: the file, for messages.
        data: its beginning.
        size: its length.
        last: a header that was scanned before, with its bytes: a patch leaves most of them as they were.
    """

    def __init__(self, path: Path, data: mmap.mmap, size: int, last: tuple[bytes, Header] | None = None) -> None:
        self.path, self.data, self.size, self.at = path, data, size, 0
        self.last = last
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
            found = f"{keys} keys and {tensors} tensors in {left} bytes"
            raise self.fail(f"declares {found}: the file is truncated, or damaged")
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
        if length > limit:
            raise self.fail(f"a text of {length} bytes is too long (limit {limit})")
        if length > self.size - self.at:
            raise self.fail(f"the file ends within a text of {length} bytes: it is truncated")
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
        width = 8 if inner == STRING else WIDTHS.get(inner)
        if width is None:
            raise self.fail(f"key {key!r} is an array of {TYPE_NAMES.get(inner, inner)}, which loaders reject")
        if count > MAX_ARRAY or count > (self.size - self.at) // width:
            left = f"{count} elements in {self.size - self.at} bytes"
            raise self.fail(f"key {key!r} declares {left}: the file is truncated, or damaged")
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
        start, known = self.at, self._as_before(count, key)
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

    def _as_before(self, count: int, key: str) -> bytes:
        """The bytes of an array of as many texts under the same key of the header that was scanned before."""
        if self.last is None or (record := self.last[1].keys.get(key)) is None:
            return b""
        data, ref = self.last[0], record.value
        same = isinstance(ref, ArrayRef) and (ref.type, ref.count) == (STRING, count)
        return data[ref.offset : record.end] if same and self.last[1].endian == self.endian else b""

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
        end = data_end(header.tensors)
        if header.tensors and header.data_offset + end > self.size:
            raise InputError(
                f"tensor data ends at {header.data_offset + end}, the file at {self.size}: it is truncated",
                where=str(self.path),
            )
