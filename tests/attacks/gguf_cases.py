"""GGUF files that break one rule of the format each, files at its limits, and what published attacks looked like."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ropepatch.containers.ggml_types import TYPES
from tests.support import raw_gguf as raw
from tests.support.raw_gguf import Parts

ARCH = raw.key("general.architecture", raw.STRING, raw.text("llama"))
HUGE = 1 << 63


def aligned(value: bytes, kind: int = raw.U32) -> bytes:
    """A `general.alignment` record."""
    return raw.key("general.alignment", kind, value)


#: what every loader refuses: name -> (the file, a pattern of the message)
MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a GGUF file"),
    "short": (b"GGUF" + bytes(8), "not a GGUF file"),
    "other magic": (Parts(magic=b"GGML").build(), "not a GGUF file"),
    "magic the wrong way round": (Parts(magic=b"FUGG").build(), "not a GGUF file"),
    "version 0": (Parts(version=0).build(), "version 0 is not supported"),
    "version 1": (Parts(version=1).build(), "version 1 is not supported"),
    "version 4": (Parts(version=4).build(), "version 4 is not supported"),
    "big-endian version 4": (Parts(version=4, endian=">").build(), "version 4 is not supported"),
    "huge version": (Parts(version=0xFFFFFFFF).build(), "is not supported"),
    "too many keys": (Parts([ARCH], key_count=1 << 62).build(), "declares 4611686018427387904 keys"),
    "negative keys": (Parts([ARCH], key_count=-1).build(), "declares -1 keys"),
    "too many tensors": (Parts([ARCH], tensor_count=1 << 62).build(), "and 4611686018427387904 tensors"),
    "negative tensors": (Parts([ARCH], tensor_count=-2).build(), "and -2 tensors"),
    "a few more keys than there are": (Parts([ARCH], key_count=2).build(), "offset|truncated"),
    "empty key": (Parts([raw.key("", raw.U8, b"\1")]).build(), "is empty"),
    "repeated key": (Parts([ARCH, ARCH]).build(), "'general.architecture' is repeated"),
    "key longer than the file": (Parts([raw.text("k", length=HUGE - 1) + bytes(20)]).build(), "is too long"),
    "unknown value type": (Parts([raw.key("k", 13, bytes(8))]).build(), "'k' has unknown value type 13"),
    "negative value type": (Parts([raw.key("k", -1, bytes(8))]).build(), "unknown value type -1"),
    "text longer than the file": (
        Parts([raw.key("k", raw.STRING, raw.text("v", length=1000))]).build(),
        "ends within a text of 1000 bytes: it is truncated",
    ),
    "text of 2^63 bytes": (Parts([raw.key("k", raw.STRING, raw.text("v", length=HUGE))]).build(), "is too long"),
    "text of 2^64-1 bytes": (
        Parts([raw.key("k", raw.STRING, raw.text("v", length=2**64 - 1))]).build(),
        "is too long",
    ),
    "array of 2^63 elements": (Parts([raw.key("k", raw.ARRAY, raw.array(raw.U8, HUGE))]).build(), "elements in"),
    "array whose bytes overflow": (
        Parts([raw.key("k", raw.ARRAY, raw.array(raw.U64, 1 << 61))]).build(),
        "elements in",
    ),
    "array of texts, too many": (
        Parts([raw.key("k", raw.ARRAY, raw.array(raw.STRING, 1 << 40))]).build(),
        "elements in",
    ),
    "array of texts, one too long": (
        Parts([raw.key("k", raw.ARRAY, raw.array(raw.STRING, 1, raw.text("v", length=HUGE)))]).build(),
        "leaves the file",
    ),
    "array of texts that wraps round": (
        Parts(
            [raw.key("k", raw.ARRAY, raw.array(raw.STRING, 2, raw.text("v", length=2**64 - 8) + raw.text("w")))]
        ).build(),
        "leaves the file",
    ),
    "nested array": (
        Parts([raw.key("k", raw.ARRAY, raw.array(raw.ARRAY, 1, raw.array(raw.U8, 1, b"\1")))]).build(),
        "array of ARRAY, which loaders reject",
    ),
    "array of unknown type": (Parts([raw.key("k", raw.ARRAY, raw.array(99, 1, bytes(8)))]).build(), "array of 99"),
    "alignment 0": (Parts([aligned(raw.u32(0))]).build(), "alignment 0 is not a power of two"),
    "alignment 48": (Parts([aligned(raw.u32(48))]).build(), "alignment 48 is not a power of two"),
    "alignment as u64": (Parts([aligned(struct.pack("<Q", 32), raw.U64)]).build(), "alignment is not a UINT32"),
    "alignment as text": (Parts([aligned(raw.text("32"), raw.STRING)]).build(), "alignment is not a UINT32"),
    "alignment beyond the file": (
        Parts([aligned(raw.u32(1 << 31))], [raw.tensor("t", [1])], bytes(32)).build(),
        "truncated",
    ),
    "tensor name of 64 bytes": (Parts([ARCH], [raw.tensor("t" * 64, [1])], bytes(32)).build(), "is too long"),
    "repeated tensor": (
        Parts([ARCH], [raw.tensor("t", [1]), raw.tensor("t", [1], offset=32)], bytes(64)).build(),
        "'t' is repeated",
    ),
    "five dimensions": (Parts([ARCH], [raw.tensor("t", [1] * 5)], bytes(32)).build(), "'t' has 5 dimensions"),
    "2^32-1 dimensions": (
        Parts([ARCH], [raw.text("t") + raw.u32(2**32 - 1) + bytes(40)], bytes(32)).build(),
        "has 4294967295 dimensions",
    ),
    "negative dimension": (Parts([ARCH], [raw.tensor("t", [-4])], bytes(32)).build(), "negative dimension"),
    "two negative dimensions": (Parts([ARCH], [raw.tensor("t", [-4, -4])], bytes(64)).build(), "negative dimension"),
    "elements overflow": (Parts([ARCH], [raw.tensor("t", [1 << 32, 1 << 32])], bytes(32)).build(), "impossible shape"),
    "elements overflow to zero": (
        Parts([ARCH], [raw.tensor("t", [1 << 62, 4, 4, 4])], bytes(32)).build(),
        "impossible shape",
    ),
    "bytes overflow": (Parts([ARCH], [raw.tensor("t", [1 << 62])], bytes(32)).build(), "truncated"),
    "row no multiple of the block": (
        Parts([ARCH], [raw.tensor("t", [33], kind=8)], bytes(64)).build(),
        "impossible shape",
    ),
    "unknown tensor type": (Parts([ARCH], [raw.tensor("t", [1], kind=1000)], bytes(32)).build(), "unknown type 1000"),
    "first offset not zero": (
        Parts([ARCH], [raw.tensor("t", [1], offset=32)], bytes(64)).build(),
        "data offset 32, not 0",
    ),
    "gap between tensors": (
        Parts([ARCH], [raw.tensor("a", [1]), raw.tensor("b", [1], offset=64)], bytes(96)).build(),
        "data offset 64, not 32",
    ),
    "tensors overlap": (
        Parts([ARCH], [raw.tensor("a", [64]), raw.tensor("b", [1], offset=32)], bytes(512)).build(),
        "data offset 32, not 256",
    ),
    "tensors out of order": (
        Parts([ARCH], [raw.tensor("a", [1], offset=32), raw.tensor("b", [1])], bytes(64)).build(),
        "data offset 32, not 0",
    ),
    "offset of 2^64-32": (Parts([ARCH], [raw.tensor("a", [1], offset=2**64 - 32)], bytes(64)).build(), "data offset"),
    "data cut by one byte": (Parts([ARCH], [raw.tensor("t", [8])], bytes(31)).build(), "truncated"),
    "no data at all": (Parts([ARCH], [raw.tensor("t", [8])]).build(), "truncated"),
}


def _sum_of_sizes_overflows() -> bytes:
    """Each tensor is possible alone; their padded sizes come to more than 2^64."""
    count, rows = 5, (1 << 62) - 64
    tensors = [raw.tensor(f"t{n}", [rows // 4], offset=(n * rows) % 2**64) for n in range(count)]
    return Parts([ARCH], tensors, bytes(64)).build()


#: published attacks by their number, or by the project that told of them, and what the file does
ATTACKS: dict[str, bytes] = {
    "CVE-2024-21802: dimensions whose product wraps": Parts(
        [ARCH], [raw.tensor("t", [1 << 33, 1 << 33, 1 << 33, 1 << 33])], bytes(64)
    ).build(),
    "CVE-2024-21825: an array whose size in bytes wraps": Parts(
        [raw.key("k", raw.ARRAY, raw.array(raw.U64, (1 << 61) + 1, bytes(64)))]
    ).build(),
    "CVE-2024-21836: more tensors than can be allocated": Parts([ARCH], tensor_count=0x0AAAAAAAAAAAAAAB).build(),
    "CVE-2024-23496: a text of 2^64-1 bytes": Parts(
        [raw.key("k", raw.STRING, raw.text("", length=2**64 - 1) + bytes(32))]
    ).build(),
    "CVE-2024-23605: a number of keys whose records wrap": Parts([ARCH], key_count=0x0555555555555556).build(),
    "CVE-2024-32878: a file that ends among its keys": Parts([ARCH], key_count=3).build() + b"\0" * 40,
    "CVE-2024-39720: nothing behind the magic": b"GGUF",
    "CVE-2025-49847: a token longer than 2^31": Parts(
        [raw.key("tokenizer.ggml.tokens", raw.ARRAY, raw.array(raw.STRING, 1, raw.text("a", length=1 << 31)))]
    ).build(),
    "CVE-2025-53630: tensors whose sizes together wrap": _sum_of_sizes_overflows(),
    "CVE-2026-27940: tensors whose records together wrap": Parts([ARCH], tensor_count=(1 << 63) // 368).build(),
    "CVE-2026-33298: rows whose stride wraps": Parts(
        [ARCH], [raw.tensor("t", [1 << 31, 1 << 31, 2, 1])], bytes(64)
    ).build(),
    "CVE-2026-7482: a tensor behind the end": Parts([ARCH], [raw.tensor("t", [1 << 20])], bytes(64)).build(),
    "CVE-2026-7482: an offset behind the end": Parts([ARCH], [raw.tensor("t", [8], offset=1 << 40)], bytes(64)).build(),
    "ollama: an array that would need terabytes": Parts(
        [raw.key("k", raw.ARRAY, raw.array(raw.STRING, 1 << 38, bytes(64)))]
    ).build(),
    "gguf-py: an array of 2^63 elements in 43 bytes": Parts(
        [raw.key("k", raw.ARRAY, raw.array(raw.U8, 1 << 63))]
    ).build(),
}


def _scalars() -> Iterator[bytes]:
    for kind, packed in ((0, "B"), (1, "b"), (2, "H"), (3, "h"), (4, "I"), (5, "i"), (6, "f"), (10, "Q"), (11, "q")):
        yield raw.key(f"scalar.{kind}", kind, struct.pack("<" + packed, 1))
    yield raw.key("scalar.12", 12, struct.pack("<d", 1.5))
    yield raw.key("scalar.true", raw.BOOL, b"\1")
    yield raw.key("scalar.nan", raw.F32, struct.pack("<f", float("nan")))


def _typed(kind: int) -> bytes:
    """Rows of a tensor type, whether it is one or not, and another tensor behind them."""
    _, block, width = TYPES.get(kind, ("", 256, 256))
    size = -(-8 * width // 32) * 32  # eight rows: a wrong size puts the next tensor elsewhere
    return Parts([ARCH], [raw.tensor("t", [block, 8], kind), raw.tensor("u", [8], 0, size)], bytes(size + 32)).build()


WORDS = raw.key("w", raw.ARRAY, raw.array(raw.STRING, 2, raw.text("a") + raw.text("")))
#: at the limits, or odd: who reads what is for the loaders to say
ODD: dict[str, bytes] = {
    "nothing but counts": Parts().build(),
    "version 2": Parts([ARCH, WORDS], [raw.tensor("t", [8])], bytes(32), version=2).build(),
    "big-endian": Parts([], version=3, endian=">").build(),
    "every scalar type": Parts([ARCH, *_scalars()]).build(),
    "a bool of 2": Parts([raw.key("k", raw.BOOL, b"\2")]).build(),
    "an array of bools": Parts([raw.key("k", raw.ARRAY, raw.array(raw.BOOL, 3, b"\0\1\0"))]).build(),
    "an empty array": Parts([raw.key("k", raw.ARRAY, raw.array(raw.F32, 0))]).build(),
    "an empty array of texts": Parts([raw.key("k", raw.ARRAY, raw.array(raw.STRING, 0))]).build(),
    "an empty array of unknown type": Parts([raw.key("k", raw.ARRAY, raw.array(77, 0))]).build(),
    "an empty text": Parts([raw.key("k", raw.STRING, raw.text(""))]).build(),
    "a text that is no UTF-8": Parts([raw.key("k", raw.STRING, raw.text(b"\xff\xfe\x80"))]).build(),
    "a key that is no UTF-8": Parts([raw.key("k", raw.U8, b"\1"), raw.text(b"\xff") + raw.u32(0) + b"\1"]).build(),
    "a key with a zero byte": Parts([raw.key("a\0b", raw.U8, b"\1")]).build(),
    "a key of 65,535 bytes": Parts([raw.key("k" * 65535, raw.U8, b"\1")]).build(),
    "a key of 70,000 bytes": Parts([raw.key("k" * 70000, raw.U8, b"\1")]).build(),
    "a key twice, with another case": Parts([raw.key("k", raw.U8, b"\1"), raw.key("K", raw.U8, b"\1")]).build(),
    "the alignment twice": Parts([aligned(raw.u32(32)), aligned(raw.u32(64))]).build(),
    **{
        f"alignment {value}": Parts(
            [aligned(raw.u32(value))], [raw.tensor("t", [8])], bytes(max(32, value)), alignment=value
        ).build()
        for value in (1, 2, 4, 8, 16, 64, 4096, 65536)
    },
    "alignment as i32": Parts([aligned(raw.u32(32), raw.I32)]).build(),
    "an empty tensor name": Parts([ARCH], [raw.tensor("", [8])], bytes(32)).build(),
    "a tensor name of 63 bytes": Parts([ARCH], [raw.tensor("t" * 63, [8])], bytes(32)).build(),
    "a tensor name with a zero byte": Parts([ARCH], [raw.tensor("a\0b", [8])], bytes(32)).build(),
    "two names that are alike up to a zero byte": Parts(
        [ARCH], [raw.tensor("a\0b", [8]), raw.tensor("a\0c", [8], offset=32)], bytes(64)
    ).build(),
    "no dimensions": Parts([ARCH], [raw.tensor("t", [])], bytes(32)).build(),
    "four dimensions": Parts([ARCH], [raw.tensor("t", [2, 2, 2, 2])], bytes(64)).build(),
    "a dimension of 0": Parts([ARCH], [raw.tensor("t", [0])], bytes(32)).build(),
    "a second dimension of 0": Parts([ARCH], [raw.tensor("t", [8, 0])], bytes(32)).build(),
    "a dimension of 0 before a huge one": Parts([ARCH], [raw.tensor("t", [0, 1 << 62])], bytes(32)).build(),
    "a huge dimension before 0": Parts([ARCH], [raw.tensor("t", [1 << 62, 0])], bytes(32)).build(),
    "a tensor of 2^63-1 elements": Parts([ARCH], [raw.tensor("t", [2**63 - 1])], bytes(32)).build(),
    "a tensor of 2^63-1 bytes": Parts([ARCH], [raw.tensor("t", [2**63 - 1], 24)], bytes(32)).build(),
    "bytes behind the data": Parts([ARCH], [raw.tensor("t", [8])], bytes(32 + 1000)).build(),
    "no padding behind the last tensor": Parts([ARCH], [raw.tensor("t", [1])], bytes(4)).build(),
    "keys and nothing else, not padded": Parts([ARCH, raw.key("k", raw.U8, b"\1")]).build().rstrip(b"\0") + b"\1",
    "the first bit of the key count": Parts([ARCH], key_count=-(1 << 63)).build(),
    "a nested empty array": Parts([raw.key("k", raw.ARRAY, raw.array(raw.ARRAY, 0))]).build(),
    **{f"tensor type {kind}": _typed(kind) for kind in (*range(45), 2**31 - 1, -1)},
}


def every() -> Iterator[tuple[str, bytes]]:
    """All of them by name."""
    for name, (data, _) in MALFORMED.items():
        yield name, data
    yield from ATTACKS.items()
    yield from ODD.items()
