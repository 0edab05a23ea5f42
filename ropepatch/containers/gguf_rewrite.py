"""Changes of a GGUF header as splices: keys, small tensors, and the padding that keeps the rest where it is."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ropepatch.containers.gguf import GGML_F32, SCALARS, STRING, TYPE_CODES, TYPE_NAMES, Header, align
from ropepatch.errors import InputError
from ropepatch.storage.splice import Splice

#: a text of blanks that takes what a header has to spare; engines ignore keys that they do not know
PAD = "ropepatch.pad"


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
        position = align(position + values.nbytes, header.alignment)
    growth = sum(len(s.after) - len(s.before) for s in changed) + len(records) + len(infos)
    padding_end = min(header.data_offset, header.size)
    padding = _pread(source, header.infos_end, padding_end)
    end = header.infos_end + growth
    fresh = bytes(align(end, header.alignment) - end) if header.tensors or added else padding
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
            data += raw + bytes(align(len(raw), header.alignment) - len(raw))
        found.append(Splice(start, _pread(source, start, stop), data))
    return found


def _f32(header: Header, values: npt.NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values, dtype=f"{header.endian}f4").tobytes()
