"""GGUF bytes laid down by hand, right or wrong as wanted: what no writer would produce."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10


def text(value: str | bytes, endian: str = "<", length: int | None = None) -> bytes:
    """A string record; `length` lies about how long it is."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(f"{endian}Q", len(data) if length is None else length) + data


def key(name: str, kind: int, payload: bytes, endian: str = "<") -> bytes:
    """A metadata record with the payload as given."""
    return text(name, endian) + struct.pack(f"{endian}i", kind) + payload


def u32(value: int, endian: str = "<") -> bytes:
    """Four bytes."""
    return struct.pack(f"{endian}I", value)


def array(kind: int, count: int, payload: bytes = b"", endian: str = "<") -> bytes:
    """An array's payload; `count` need not be true."""
    return struct.pack(f"{endian}iQ", kind, count) + payload


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0, endian: str = "<") -> bytes:
    """A tensor record."""
    head = text(name, endian) + struct.pack(f"{endian}I{len(shape)}q", len(shape), *shape)
    return head + struct.pack(f"{endian}iQ", kind, offset)


@dataclass(frozen=True)
class Parts:
    """A file in pieces; the counts follow the lists unless they are given."""

    keys: Sequence[bytes] = ()
    tensors: Sequence[bytes] = ()
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    key_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32
    endian: str = "<"

    def build(self) -> bytes:
        """The bytes, data section aligned."""
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        head = self.magic + struct.pack(f"{self.endian}Iqq", self.version, *counts)
        head += b"".join(self.keys) + b"".join(self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data
