"""Broken and hostile GGUF headers: each check of the format, one line and no effort."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from ropepatch.containers import gguf
from ropepatch.errors import InputError
from tests.support import raw_gguf as raw
from tests.support.raw_gguf import Parts

ARCH = raw.key("general.architecture", raw.STRING, raw.text("llama"))
HUGE = 1 << 63


def aligned(value: bytes, kind: int = raw.U32) -> bytes:
    """A `general.alignment` record."""
    return raw.key("general.alignment", kind, value)


CASES: dict[str, tuple[bytes, str]] = {
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
    "key longer than the file": (Parts([raw.text("k", length=HUGE - 1) + bytes(20)]).build(), "does not fit"),
    "key longer than 64 KiB": (Parts([raw.key("k" * 65536, raw.U8, b"\1")]).build(), "does not fit"),
    "unknown value type": (Parts([raw.key("k", 13, bytes(8))]).build(), "'k' has unknown value type 13"),
    "negative value type": (Parts([raw.key("k", -1, bytes(8))]).build(), "unknown value type -1"),
    "text longer than the file": (
        Parts([raw.key("k", raw.STRING, raw.text("v", length=1000))]).build(),
        "does not fit",
    ),
    "text of 2^63 bytes": (Parts([raw.key("k", raw.STRING, raw.text("v", length=HUGE))]).build(), "does not fit"),
    "text of 2^64-1 bytes": (
        Parts([raw.key("k", raw.STRING, raw.text("v", length=2**64 - 1))]).build(),
        "does not fit",
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
    "tensor name of 64 bytes": (Parts([ARCH], [raw.tensor("t" * 64, [1])], bytes(32)).build(), "does not fit"),
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


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line_and_at_once(name: str, tmp_path: Path) -> None:
    """Every malformed header is refused with what and where, in no time and with little memory."""
    data, message = CASES[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(InputError, match=message) as caught:
            gguf.scan(path)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_valid_header_of_the_same_builder_passes(tmp_path: Path) -> None:
    """The cases fail for what is wrong in them: without it the same bytes are read."""
    path = tmp_path / "fine.gguf"
    words = raw.key("w", raw.ARRAY, raw.array(raw.STRING, 2, raw.text("a") + raw.text("")))
    tensors = [raw.tensor("t" * 63, [8]), raw.tensor("b", [2, 2], offset=32), raw.tensor("q", [32, 2], 8, 64)]
    path.write_bytes(Parts([ARCH, words, aligned(raw.u32(32))], tensors, bytes(64 + 68)).build())
    header = gguf.scan(path)
    assert [info.size for info in header.tensors.values()] == [32, 16, 68]
    assert header.get("w").count == 2


@pytest.mark.parametrize("version", [2, 3])
def test_every_truncation_is_refused(version: int, tmp_path: Path) -> None:
    """A file cut at any byte before its last tensor byte is refused, never misread and never a traceback."""
    words = raw.key("w", raw.ARRAY, raw.array(raw.STRING, 2, raw.text("abc") + raw.text("de")))
    number = raw.key("n", raw.U32, raw.u32(7))
    data = Parts([ARCH, words, number], [raw.tensor("t", [4])], bytes(16), version=version).build()
    path = tmp_path / "cut.gguf"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            gguf.scan(path)
    path.write_bytes(data)
    assert gguf.scan(path).get("n") == 7


def test_every_flipped_byte_is_read_or_refused(tmp_path: Path) -> None:
    """No single wrong byte in a header brings anything but a header or an InputError."""
    words = raw.key("w", raw.ARRAY, raw.array(raw.STRING, 2, raw.text("abc") + raw.text("de")))
    data = Parts([ARCH, words, aligned(raw.u32(64))], [raw.tensor("t", [4])], bytes(16), alignment=64).build()
    path = tmp_path / "flipped.gguf"
    for index in range(len(data) - 16):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            path.write_bytes(data[:index] + bytes([value]) + data[index + 1 :])
            with contextlib.suppress(InputError):
                gguf.scan(path)


def test_invalid_utf8_does_not_stop_the_scan(tmp_path: Path) -> None:
    """Vocabularies and keys hold broken UTF-8 in the wild: read, and written back as it was."""
    path = tmp_path / "m.gguf"
    odd = raw.text(b"k\xff\xfe") + struct.pack("<i", raw.U32) + raw.u32(5)
    path.write_bytes(Parts([ARCH, raw.key("v", raw.STRING, raw.text(b"\xff\xfe")), odd]).build())
    header = gguf.scan(path)
    assert header.get("k\udcff\udcfe") == 5
    splices = gguf.splices(header, {"k\udcff\udcfe": ("UINT32", 6)}, {})
    assert len(splices) == 1
    assert splices[0].after.startswith(raw.text(b"k\xff\xfe"))


def test_a_large_hole_where_a_text_should_be_is_not_read_into_memory(tmp_path: Path) -> None:
    """A sparse file that declares one text of 512 MB is refused, not held in memory."""
    path = tmp_path / "sparse.gguf"
    length = 512 << 20
    head = Parts([ARCH, raw.key("k", raw.STRING, raw.text("", length=length))]).build()
    path.write_bytes(head)
    with open(path, "r+b") as file:
        file.truncate(len(head) + length)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="a text of 536870912 bytes does not fit"):
            gguf.scan(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
