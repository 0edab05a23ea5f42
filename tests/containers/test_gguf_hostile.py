"""Broken and hostile GGUF headers: each check of the format, one line and no effort."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from ropepatch.containers import gguf, gguf_rewrite
from ropepatch.errors import InputError
from tests.attacks.gguf_cases import ARCH, aligned
from tests.attacks.gguf_cases import MALFORMED as CASES
from tests.support import raw_gguf as raw
from tests.support.raw_gguf import Parts


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line_and_at_once(name: str, tmp_path: Path) -> None:
    """Every malformed header is refused with what and where, in no time and with little memory."""
    data, message = CASES[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(InputError, match=message) as caught:
            gguf.scan(path)
        assert time.process_time() - start < 1
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
    splices = gguf_rewrite.splices(header, {"k\udcff\udcfe": ("UINT32", 6)}, {})
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
        with pytest.raises(InputError, match="a text of 536870912 bytes is too long"):
            gguf.scan(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
