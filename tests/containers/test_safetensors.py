"""The safetensors scanner against the safetensors library, and what it refuses."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ropepatch.containers import safetensors
from ropepatch.errors import InputError


def built(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file by hand; `length` lies about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_scan_sees_what_the_library_sees(tmp_path: Path) -> None:
    """Names, types, shapes, metadata and the bytes of each tensor are the library's."""
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), np.float16),
        "c": np.array(5, np.int64),
        "d": np.array([True, False]),
    }
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = safetensors.scan(path)
    assert header.metadata == {"format": "pt"}
    assert header.size == path.stat().st_size
    raw = path.read_bytes()
    with safe_open(path, framework="numpy") as library:
        assert sorted(header.tensors) == sorted(library.keys())
        for name, info in header.tensors.items():
            assert info.shape == library.get_tensor(name).shape
            assert info.dtype == library.get_slice(name).get_dtype()
            assert raw[info.start : info.end] == library.get_tensor(name).tobytes()


def entry(**changes: Any) -> dict[str, Any]:
    """One F32 tensor of two elements, with something changed."""
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"GGUF", "not a safetensors file"),
        (built({}, length=1 << 62), "not a safetensors file"),
        (built({}, length=2**64 - 1), "not a safetensors file"),
        (built({}, length=3), "not a safetensors file"),
        (built(b"\xff\xff\xff"), "not UTF-8"),
        (built(b"[1]"), "is a JSON list"),
        (built(b"{'a'}"), "is not JSON"),
        (built(b'{"a": ' + b"[" * 100_000), "nested too deeply"),
        (built(b'{"t": 1, "t": 2}'), "'t' twice"),
        (built({"t": 5}), "'t' has an impossible"),
        (built({"t": {}}), "'t' has an impossible"),
        (built(entry(), bytes(7)), "'t' has an impossible"),
        (built(entry(dtype="F99"), bytes(8)), "'t' has an impossible"),
        (built(entry(dtype=[]), bytes(8)), "'t' has an impossible"),
        (built(entry(shape=[3]), bytes(8)), "'t' has an impossible"),
        (built(entry(shape=[-1, -2]), bytes(8)), "'t' has an impossible"),
        (built(entry(shape=["2"]), bytes(8)), "'t' has an impossible"),
        (built(entry(shape=[2.0]), bytes(8)), "'t' has an impossible"),
        (built(entry(shape=None), bytes(8)), "'t' has an impossible"),
        (built(entry(data_offsets=[8, 0]), bytes(8)), "'t' has an impossible"),
        (built(entry(data_offsets=[-8, 0]), bytes(8)), "'t' has an impossible"),
        (built(entry(data_offsets=[0]), bytes(8)), "'t' has an impossible"),
        (built(entry(data_offsets=[0, 8, 16]), bytes(8)), "'t' has an impossible"),
        (built(entry(data_offsets=None), bytes(8)), "'t' has an impossible"),
    ],
)
def test_refused_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    """A header that lies is refused with the tensor's name, before anything is allocated for it."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        safetensors.scan(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The operating system's reason stands in the message."""
    with pytest.raises(InputError, match="No such file"):
        safetensors.scan(tmp_path / "m.safetensors")
