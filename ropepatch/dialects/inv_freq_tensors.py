"""Frequencies stored as tensors beside the weights: found, checked against the config, rewritten with it.

Older transformers and much remote code keep ``inv_freq`` as a persistent buffer, so that it lies in the safetensors
files; what loads it rotates by it, whatever the config says. Only headers and the buffers themselves are read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ropepatch.containers import json_text, safetensors
from ropepatch.errors import InputError
from ropepatch.frequencies import group_frequencies, ratios
from ropepatch.methods.base import Array
from ropepatch.patch import Edit, Value
from ropepatch.profile import RopeGroup, RopeProfile

#: file name of the list of shards, before ``.index.json``
INDEX = "model.safetensors.index.json"
_MAX_INDEX = 256 << 20
_MAX_SHARDS = 4096
_MAX_BUFFERS = 1 << 14
_MAX_PAIRS = 1 << 16
#: float32 code makes float32 frequencies; its powers are off by a few units in the last place
_RELATIVE = 1e-5
_NAME = re.compile(r"(?:^|\.)(?:[\w]*(?:rotary|rope|rot_)[\w]*\.inv_freq|rope\.freqs)$")
#: towers that turn pictures or sound by frequencies of their own
_OTHER_TOWER = re.compile(r"(?:^|[._])(?:visual|vision|vit|image|audio|speech|encoder_audio)(?:[._]|$)", re.IGNORECASE)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d{1,5})\.")


class Opened(Protocol):
    """What is asked of a dialect: where its files lie."""

    root: Path


@dataclass(frozen=True)
class Buffer:
    """One stored buffer.

    Attributes:
        file: the safetensors file's name, relative to the checkpoint.
        tensor: its place there.
        values: what it holds, float64, shape ``(pairs,)``.
    """

    file: str
    tensor: safetensors.Tensor
    values: Array


def is_rope_buffer(name: str) -> bool:
    """Whether a tensor's name says that it holds the text model's rope frequencies."""
    return bool(_NAME.search(name)) and not _OTHER_TOWER.search(name)


def decode(data: bytes, dtype: str) -> Array:
    """The elements of a stored F64, F32, F16 or BF16 tensor as float64.

    Raises:
        KeyError: another dtype.
    """
    if dtype == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).astype(np.float64)
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


def encode(values: npt.ArrayLike, dtype: str) -> bytes:
    """``values`` as the bytes of a tensor of ``dtype``, rounded to nearest even.

    Raises:
        KeyError: another dtype than :func:`decode` reads.
    """
    array = np.asarray(values, dtype=np.float64)
    if dtype == "BF16":
        bits = array.astype("<f4").view("<u4").astype(np.uint64)
        rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
        return rounded.astype("<u2").tobytes()
    return array.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def attach(dialect: Opened, profile: RopeProfile) -> list[str]:
    """What a reader of ``profile`` should know about buffers stored beside it; empty where there are none."""
    notes: list[str] = []
    buffers = find(dialect.root, notes)
    return [*notes, *compare(buffers, profile)]


def compare(buffers: Sequence[Buffer], profile: RopeProfile) -> list[str]:
    """Notes on how stored buffers agree with the frequencies of ``profile``."""
    notes: list[str] = []
    wrong: list[tuple[float, Buffer, int]] = []
    for buffer in buffers:
        expected = group_frequencies(group_of(profile, buffer.tensor.name)).inv_freq
        if expected.shape != buffer.values.shape:
            notes.append(
                f"{buffer.file}: {buffer.tensor.name} holds {buffer.values.size} frequencies, the config "
                f"{expected.size}; it is left as it is"
            )
            continue
        off = ~(np.abs(buffer.values - expected) <= tolerance(expected, buffer.tensor.dtype))
        if off.any():
            quotient = np.where(off, np.clip(ratios(expected, buffer.values), 1e-30, 1e30), 1.0)
            pair = int(np.argmax(np.abs(np.log(quotient))))
            wrong.append((abs(math.log(quotient[pair])), buffer, pair))
    if wrong:
        _, buffer, pair = max(wrong, key=lambda item: item[0])
        notes.append(_disagreement(profile, buffer, pair, len(wrong), len(buffers)))
    elif buffers:
        notes.append(f"{len(buffers)} frequency buffers are stored as tensors; a patch rewrites them with the config")
    return notes


def _disagreement(profile: RopeProfile, buffer: Buffer, pair: int, wrong: int, count: int) -> str:
    expected = group_frequencies(group_of(profile, buffer.tensor.name)).inv_freq[pair]
    found = buffer.values[pair]
    ratio = f"{expected / found:.4g}" if found else "infinity"
    return (
        f"{wrong} of {count} stored frequency buffers disagree with the config: {buffer.file}: {buffer.tensor.name}, "
        f"pair {pair}: config / buffer = {ratio} ({expected:.6g} against {found:.6g}); code that loads the buffer "
        "rotates by it"
    )


def tolerance(expected: Array, dtype: str, relative: float = _RELATIVE) -> Array:
    """How far a stored frequency may lie from ``expected`` by rounding alone, and by ``relative`` at least."""
    if dtype == "F16":
        step = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
    elif dtype == "BF16":
        step = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64) * 65536
    else:
        step = np.zeros_like(expected)
    allowed: Array = np.maximum(relative * np.abs(expected), 2 * step)
    return allowed


def edits(dialect: Opened, before: RopeProfile, after: RopeProfile) -> tuple[list[Edit], list[str]]:
    """The edits that leave no stale buffer behind, and notes on those that cannot be rewritten.

    A buffer is rewritten when its group changes; a length-dependent method leaves what it has at the trained length.
    """
    notes: list[str] = []
    made = rewrite(find(dialect.root, notes), before, after, notes)
    if made:
        files = ", ".join(sorted({edit.file for edit in made})[:3])
        notes.append(f"{len(made)} stored frequency buffers are rewritten in {files}")
    return made, notes


def rewrite(buffers: Sequence[Buffer], before: RopeProfile, after: RopeProfile, notes: list[str]) -> list[Edit]:
    """The edits that bring ``buffers`` from the frequencies of ``before`` to those of ``after``."""
    made = []
    for buffer in buffers:
        name, dtype = buffer.tensor.name, buffer.tensor.dtype
        group = group_of(after, name)
        if group == group_of(before, name):
            continue
        wanted = group_frequencies(group).inv_freq
        if wanted.shape != buffer.values.shape:
            notes.append(f"{buffer.file}: {name} has another width than the config and is left as it is")
            continue
        stored = decode(encode(wanted, dtype), dtype)
        if np.any((stored == 0) & (wanted > 0)):
            notes.append(f"{buffer.file}: {name} is {dtype}, too narrow for its slowest pairs: they stop")
        if not np.array_equal(stored, buffer.values):
            old, new = (Value(values.tolist(), dtype, buffer.tensor.shape) for values in (buffer.values, stored))
            made.append(Edit(buffer.file, "tensor", (name,), old, new))
    return made


def group_of(profile: RopeProfile, name: str) -> RopeGroup:
    """The rope group that a buffer serves: by its layer's number, else by a word in its name, else the main one."""
    groups = profile.groups
    layer = _LAYER.search(name)
    if layer:
        for group in groups.values():
            if group.layers is not None and int(layer.group(1)) in group.layers:
                return group
    if re.search(r"local|sliding|swa", name) and "sliding_attention" in groups:
        return groups["sliding_attention"]
    for key in ("full_attention", "default"):
        if key in groups:
            return groups[key]
    return next(iter(groups.values()))


def find(root: Path, notes: list[str]) -> list[Buffer]:
    """Every rope buffer of the safetensors files in ``root``; what could not be looked into is noted.

    Raises:
        InputError: the index names files outside the folder, or the buffers are more than any model has.
    """
    found: list[Buffer] = []
    for name in _shards(root, notes):
        try:
            header = safetensors.scan(root / name)
        except InputError as error:
            notes.append(f"{error}; it was not searched for stored frequencies")
            continue
        found += _in_file(header, name, notes)
        if len(found) > _MAX_BUFFERS:
            raise InputError(f"more than {_MAX_BUFFERS} tensors are named like frequency buffers", where=str(root))
    return found


def in_header(header: safetensors.Header, notes: list[str]) -> list[Buffer]:
    """The rope buffers of one opened file."""
    return list(_in_file(header, header.path.name, notes))


def _in_file(header: safetensors.Header, name: str, notes: list[str]) -> Iterator[Buffer]:
    wanted = [tensor for key, tensor in header.tensors.items() if is_rope_buffer(key)]
    if not wanted:
        return
    with open(header.path, "rb", buffering=0) as file:
        for tensor in wanted:
            pairs = math.prod(tensor.shape)
            if not 0 < pairs <= _MAX_PAIRS or max(tensor.shape, default=1) != pairs:
                notes.append(f"{name}: {tensor.name} has the shape {tensor.shape}, which no frequencies have")
                continue
            data = os.pread(file.fileno(), tensor.end - tensor.start, tensor.start)
            try:
                values = decode(data, tensor.dtype)
            except KeyError:
                notes.append(f"{name}: {tensor.name} is {tensor.dtype}; such a buffer is neither read nor rewritten")
                continue
            if np.isfinite(values).all():
                yield Buffer(name, tensor, values)
            else:
                notes.append(f"{name}: {tensor.name} holds infinite numbers or none; it is left as it is")


def _shards(root: Path, notes: list[str]) -> list[str]:
    """The safetensors files that may hold buffers: by the index where there is one, else all of the folder."""
    index = root / INDEX
    if not index.is_file():
        names = sorted(entry.name for entry in root.glob("*.safetensors") if entry.is_file())
        if len(names) > _MAX_SHARDS:
            raise InputError(f"holds {len(names)} safetensors files (limit {_MAX_SHARDS})", where=str(root))
        return names
    names = shards_in_index(index)
    present = []
    for name in names[:_MAX_SHARDS]:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"names {name!r:.60}, which is no file beside it", where=str(index))
        if (root / name).is_file():
            present.append(name)
        else:
            notes.append(f"{name} holds stored frequencies by the index and is not here: it cannot be checked")
    return present


def shards_in_index(index: Path) -> list[str]:
    """The files that hold rope buffers, as the index names them."""
    return sorted({str(file) for tensor, file in _weight_map(index).items() if is_rope_buffer(tensor)})


def _weight_map(index: Path) -> Mapping[str, object]:
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise InputError(f"is larger than {_MAX_INDEX} bytes", where=str(index))
        data = index.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(index)) from None
    if b"inv_freq" not in data and b"rope.freqs" not in data:
        return {}
    try:
        found = json_text.parse(data.decode("utf-8"), str(index)).get("weight_map")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at offset {error.start}", where=str(index)) from None
    return found if isinstance(found, Mapping) else {}
