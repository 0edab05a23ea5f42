"""safetensors: the header, bounded before it is parsed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropepatch.containers import json_text
from ropepatch.errors import InputError
from ropepatch.storage import splice
from ropepatch.storage.splice import Splice

#: The library takes 100 MB, whose JSON would need gigabytes; 100,000 tensors have about 12.
MAX_HEADER = 16 << 20
#: where a config may stand inside the header: a text under this key of ``__metadata__``
CONFIG = ("__metadata__", "config")
_ALIGNMENT = 8
#: how deep the library's JSON reader follows
_DEPTH = 128
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor: ``start`` and ``end`` count from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A parsed header: tensors by name, ``__metadata__``, and where the data begins."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    data_offset: int
    size: int


def scan(path: str | Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        InputError: it is no safetensors file, is truncated, or its offsets do not fit.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise InputError("not a safetensors file, or truncated: impossible header length", where=str(path))
            text = file.read(length).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("not a safetensors file: the header is not UTF-8", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    raw = json_text.parse(text, str(path))
    if not json_text.is_unicode(text, raw):
        raise InputError("not a safetensors file: the header holds half of a surrogate pair", where=str(path))
    metadata = raw.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError("its __metadata__ is no object of texts", where=str(path))
    tensors = {name: _tensor(path, name, entry, 8 + length, size) for name, entry in raw.items()}
    _check_places(path, tensors, 8 + length, size)
    return Header(path, tensors, metadata, 8 + length, size)


def _check_places(path: Path, tensors: Mapping[str, Tensor], position: int, size: int) -> None:
    """The tensors have to cover the data without holes and overlaps."""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != position:
            what = "overlaps another" if tensor.start < position else "leaves a hole before it"
            raise InputError(f"tensor {tensor.name!r} {what}", where=str(path))
        position = tensor.end
    if position != size:
        raise InputError(f"its tensors end at {position}, the file at {size}", where=str(path))


def _tensor(path: Path, name: str, entry: Any, base: int, size: int) -> Tensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        fits = all(type(n) is int and n >= 0 for n in (*shape, start, end)) and _fits_shape(dtype, shape, end - start)
        fits = fits and (len(entry) == 3 or not _deep(list(entry.values()), _DEPTH - 2))
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits or base + end > size:
        raise InputError(f"tensor {name!r} has an impossible type, shape or offset", where=str(path))
    return Tensor(name, dtype, shape, base + start, base + end)


def _fits_shape(dtype: str, shape: tuple[int, ...], length: int) -> bool:
    """Whether a tensor takes ``length`` bytes; like the library's, the product may not wrap on its way to 0."""
    bits = _BITS[dtype]
    for dimension in shape:
        bits *= dimension
        if bits >= 1 << 64:
            return False
    return bits == length * 8


def _deep(value: Any, limit: int) -> bool:
    """Whether lists and objects stand in each other more than ``limit`` deep."""
    inner = [value]
    for _ in range(limit):
        inner = [item for one in inner if isinstance(one, (list, dict)) for item in _items(one)]
        if not inner:
            return False
    return any(isinstance(one, (list, dict)) for one in inner)


def _items(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def config_text(header: Header) -> str:
    """The JSON text under ``config`` in the metadata.

    Raises:
        InputError: there is none, or it is no text.
    """
    text = header.metadata.get(CONFIG[1])
    if not isinstance(text, str):
        raise InputError("has no config in its __metadata__", where=str(header.path))
    return text


def with_config(header: Header, text: str) -> list[Splice]:
    """The splices that put ``text`` under ``config`` in the metadata.

    The header's length, its end's padding (spaces, to a multiple of 8) and that one value change; tensors are
    addressed from the header's end, so that their entries stay as they are.

    Raises:
        InputError: the new header would be longer than readers take.
    """
    with open(header.path, "rb") as file:
        old = file.read(header.data_offset)[8:]
    body = old.rstrip(b" ")
    new = json_text.set_value(body.decode("utf-8"), CONFIG, text).encode("utf-8")
    padding = b" " * (-len(new) % _ALIGNMENT)
    if len(new) + len(padding) > MAX_HEADER:
        raise InputError(f"the new header would exceed {MAX_HEADER} bytes", where=str(header.path))
    return [
        *splice.between(struct.pack("<Q", len(old)), struct.pack("<Q", len(new) + len(padding))),
        *splice.between(body, new, 8),
        *splice.between(old[len(body) :], padding, 8 + len(body)),
    ]
