"""A GGUF header shown to the gguf library's reader without its long arrays."""

from __future__ import annotations

import importlib.util
import struct
import sys
import tempfile
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ropepatch._versions import installed
from ropepatch.containers import gguf
from ropepatch.errors import CheckFailed

#: headers up to this size go to the reader as they are
_SMALL = 256 << 10
#: of the other tensors as many records are shown; the library takes half a millisecond for each
_RECORDS = 64


@dataclass(frozen=True)
class Seen:
    """What the library saw: scalar keys, small tensors by name, and how many tensors there are."""

    keys: dict[str, Any]
    tensors: dict[str, Any]
    tensor_count: int
    version: str


def read_with_gguf(path: Path) -> Seen:
    """The scalars and the small F32 tensors of a GGUF file, as ``gguf.GGUFReader`` reads them.

    Raises:
        CheckFailed: the library cannot read the file.
    """
    header = gguf.scan(path)
    if header.data_offset <= _SMALL:
        return _read(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "skeleton.gguf"
        _write_skeleton(header, copy)
        return _read(copy)


@cache
def library() -> types.ModuleType:
    """The module ``gguf.gguf_reader``, and of its package no more than it imports.

    The package itself loads writers, vocabularies and YAML for model cards, which takes twice the reader's time and as
    much as patching a header. So it stands there unexecuted while the reader is imported; who imports gguf afterwards
    gets all of it.

    Raises:
        ImportError: the library is not installed.
    """
    spec = importlib.util.find_spec("gguf")
    if "gguf" in sys.modules or spec is None:
        return importlib.import_module("gguf.gguf_reader")
    sys.modules["gguf"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("gguf.gguf_reader")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
            del sys.modules[name]


def _read(path: Path) -> Seen:
    gguf_reader = library()
    try:
        reader = gguf_reader.GGUFReader(path)
    except Exception as error:
        raise CheckFailed(f"the gguf library cannot read it: {error}", where=str(path)) from None
    keys = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and field.types and field.types[0] != gguf_reader.GGUFValueType.ARRAY
    }
    small = {
        tensor.name: tensor.data.reshape(-1)
        for tensor in reader.tensors
        if tensor.tensor_type == gguf_reader.GGMLQuantizationType.F32
        and tensor.n_elements <= 1 << 16
        and "." in tensor.name
    }
    return Seen(
        keys,
        {name: data.copy() for name, data in small.items() if name.startswith("rope_")},
        len(reader.tensors),
        installed("gguf") or "of no known version",
    )


def _write_skeleton(header: gguf.Header, copy: Path) -> None:
    """Scalars, the factor tensors, and records of some others; the rest of the data is a hole."""
    scalars = [record for record in header.keys.values() if record.type != gguf.ARRAY]
    with open(header.path, "rb") as file, open(copy, "wb") as out:
        out.write(file.read(8))
        shown = [info for number, info in enumerate(header.tensors.values()) if number < _RECORDS or _is_factors(info)]
        out.write(struct.pack(f"{header.endian}qq", len(shown), len(scalars)))
        for record in scalars:
            file.seek(record.start)
            out.write(file.read(record.end - record.start))
        for info in shown:
            file.seek(info.start)
            out.write(file.read(info.end - info.start))
        data = -(-out.tell() // header.alignment) * header.alignment
        for info in shown:
            if _is_factors(info):
                file.seek(header.data_offset + info.offset)
                out.seek(data + info.offset)
                out.write(file.read(info.size))
        out.truncate(data + header.data_size)


def _is_factors(info: gguf.TensorInfo) -> bool:
    return info.name.startswith("rope_") and info.size <= 1 << 18
