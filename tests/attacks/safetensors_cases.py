"""safetensors files that break one rule of the format each, and files at its limits."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any


def build(header: Any, data: bytes = b"", *, length: int | None = None, padding: bytes = b"") -> bytes:
    """A file with a header (JSON, or bytes as they are); `length` lies about how long it is."""
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    raw += padding
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    """A tensor's entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def tensors(*entries: dict[str, Any], data: bytes = bytes(8), **more: Any) -> bytes:
    """A file with tensors named a, b, c."""
    return build({**more, **dict(zip("abc", entries, strict=False))}, data)


_A = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

#: size of an element in bits, by name, and names that are none
_DTYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "f32": 32, "F128": 128, "": 32, "I4": 4,
}  # fmt: skip

CASES: dict[str, bytes] = {
    # ------------------------------------------------------------------------------------------------ header length
    "empty": b"",
    "seven bytes": bytes(7),
    "length 0": build(b"", length=0),
    "length 1": build(b"{", length=1),
    "length beyond the file": build({}, length=1000),
    "length of 2^63": build({}, length=1 << 63),
    "length of 2^64-1": build({}, length=2**64 - 1),
    "length of 100 MB and no file": build({}, length=100_000_000),
    "length of 101 MB and no file": build({}, length=101_000_000),
    "one byte short": build({"a": entry()}, bytes(8))[:-1],
    "length cut in the JSON": build({"a": entry()}, bytes(8), length=20),
    # -------------------------------------------------------------------------------------------------------- JSON
    "no JSON": build(b"nonsense"),
    "empty object": build({}),
    "empty object with data": build({}, bytes(8)),
    "a list": build([]),
    "a text": build("{}"),
    "null": build(b"null"),
    "space before the object": build(b" {" + _A + b"}", bytes(8)),
    "line feed before the object": build(b"\n{" + _A + b"}", bytes(8)),
    "spaces behind the object": build(b"{" + _A + b"}", bytes(8), padding=b"   "),
    "tabs and line feeds behind the object": build(b"{" + _A + b"}", bytes(8), padding=b"\t\n\r "),
    "zeros behind the object": build(b"{" + _A + b"}", bytes(8), padding=bytes(4)),
    "letters behind the object": build(b"{" + _A + b"}", bytes(8), padding=b"x"),
    "byte order mark": build(b"\xef\xbb\xbf{" + _A + b"}", bytes(8)),
    "not UTF-8": build(b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "a lone surrogate": build(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "a control character in a name": build(b'{"a\x01":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "an escaped control character in a name": tensors(__metadata__={"k": "\x1b[31m"}, data=b""),
    "comma at the end": build(b"{" + _A + b",}", bytes(8)),
    "comment": build(b"{/**/" + _A + b"}", bytes(8)),
    "a name twice": build(b"{" + _A + b"," + _A + b"}", bytes(8)),
    "a field twice": build(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "a metadata key twice": build(b'{"__metadata__":{"k":"1","k":"2"},' + _A + b"}", bytes(8)),
    "metadata twice": build(b'{"__metadata__":{},"__metadata__":{},' + _A + b"}", bytes(8)),
    "nested 100 deep": build(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"),
    "nested 100,000 deep": build(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nested 100 deep in an unknown field": tensors(entry(x=json.loads("[" * 100 + "]" * 100))),
    **{
        f"nested {depth} deep in an unknown field": tensors(entry(x=json.loads("[" * depth + "]" * depth)))
        for depth in (124, 125, 126, 127, 200)
    },
    "half an escaped pair in a name": build(b'{"\\uDEAD":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "an escaped pair in a name": build(
        b'{"\\ud83d\\ude00":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)
    ),
    "NaN": build(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
    "a number with thousands of digits": build(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"),
    # ---------------------------------------------------------------------------------------------------- metadata
    "metadata": tensors(entry(), __metadata__={"format": "pt"}),
    "metadata null": tensors(entry(), __metadata__=None),
    "metadata a list": tensors(entry(), __metadata__=[]),
    "metadata a number": tensors(entry(), __metadata__={"k": 1}),
    "metadata nested": tensors(entry(), __metadata__={"k": {}}),
    "metadata with null": tensors(entry(), __metadata__={"k": None}),
    "only metadata": build({"__metadata__": {"format": "pt"}}),
    # ----------------------------------------------------------------------------------------------------- entries
    "entry a list": build({"a": ["F32", [2], [0, 8]]}, bytes(8)),
    "entry a list of another order": build({"a": [[2], "F32", [0, 8]]}, bytes(8)),
    "entry a number": build({"a": 1}),
    "entry null": build({"a": None}),
    "entry empty": build({"a": {}}),
    "entry without dtype": build({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "entry without shape": build({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "entry without offsets": build({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "entry with an unknown field": tensors(entry(quantised=True)),
    "dtype a number": tensors(entry(dtype=32)),
    "dtype null": tensors(entry(dtype=None)),
    "dtype an object of a variant": tensors(entry(dtype={"F32": None})),
    **{f"dtype {name!r}": tensors(entry(name, [8], [0, bits]), data=bytes(bits)) for name, bits in _DTYPES.items()},
    "half a byte": tensors(entry("F4", [3], [0, 1]), data=bytes(1)),
    "half a byte, rounded up": tensors(entry("F4", [3], [0, 2]), data=bytes(2)),
    # ------------------------------------------------------------------------------------------------------- shape
    "a scalar": tensors(entry(shape=[], offsets=[0, 4]), data=bytes(4)),
    "a shape with 0": tensors(entry(shape=[0, 7], offsets=[0, 0]), data=b""),
    "shape a number": tensors(entry(shape=2)),
    "shape a text": tensors(entry(shape="2")),
    "shape null": tensors(entry(shape=None)),
    "shape negative": tensors(entry(shape=[-2])),
    "two negative dimensions": tensors(entry(shape=[-1, -2])),
    "shape a float": tensors(entry(shape=[2.0])),
    "shape a fraction": tensors(entry(shape=[1.5])),
    "shape a boolean": tensors(entry(shape=[True], offsets=[0, 4]), data=bytes(4)),
    "shape of 2^64": tensors(entry(shape=[2**64])),
    "shape whose product wraps": tensors(entry(shape=[1 << 33, 1 << 33])),
    "shape whose bytes wrap": tensors(entry(shape=[1 << 62])),
    "shape whose product wraps to the size": tensors(entry("U8", [(1 << 63) + 4, 2], [0, 8])),
    "a huge shape times 0": tensors(entry(shape=[1 << 40, 1 << 40, 0], offsets=[0, 0]), data=b""),
    "shape larger than the data": tensors(entry(shape=[3])),
    "shape smaller than the data": tensors(entry(shape=[1])),
    "30,000 dimensions": tensors(entry(shape=[1] * 30_000, offsets=[0, 4]), data=bytes(4)),
    # ----------------------------------------------------------------------------------------------------- offsets
    "offsets a number": tensors(entry(offsets=8)),
    "one offset": tensors(entry(offsets=[8])),
    "three offsets": tensors(entry(offsets=[0, 8, 8])),
    "offsets null": tensors(entry(offsets=None)),
    "offsets floats": tensors(entry(offsets=[0.0, 8.0])),
    "offsets booleans": tensors(entry("U8", [1], [False, True]), data=bytes(1)),
    "offsets negative": tensors(entry(offsets=[-8, 0])),
    "offsets backwards": tensors(entry(offsets=[8, 0])),
    "offsets behind the end": tensors(entry(offsets=[8, 16])),
    "offsets of 2^64": tensors(entry(offsets=[2**64 - 8, 2**64])),
    "offsets that wrap": tensors(entry(offsets=[2**64 - 4, 4])),
    "a tensor cut short": tensors(entry(), data=bytes(7)),
    "bytes behind the last tensor": tensors(entry(), data=bytes(9)),
    "a hole at the start": tensors(entry(offsets=[8, 16]), data=bytes(16)),
    "a hole between": tensors(entry(), entry(offsets=[16, 24]), data=bytes(24)),
    "two tensors overlap": tensors(entry(), entry(offsets=[4, 12]), data=bytes(12)),
    "two tensors in one place": tensors(entry(), entry(), data=bytes(8)),
    "one tensor inside another": tensors(entry(shape=[4], offsets=[0, 16]), entry(offsets=[4, 12]), data=bytes(16)),
    "tensors out of order": tensors(entry(offsets=[8, 16]), entry(), data=bytes(16)),
    "an empty tensor between": tensors(
        entry(), entry(shape=[0], offsets=[8, 8]), entry(offsets=[8, 16]), data=bytes(16)
    ),
    "an empty tensor in the middle of another": tensors(entry(), entry(shape=[0], offsets=[4, 4])),
    "an empty tensor behind the end": tensors(entry(), entry(shape=[0], offsets=[16, 16])),
    "an empty name": build({"": entry()}, bytes(8)),
}  # fmt: skip


def every() -> Iterator[tuple[str, bytes]]:
    """All of them by name."""
    yield from CASES.items()
