"""A GGUF in shards, as llama-gguf-split lays them down: only the first has the model's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def split(path: str | Path, count: int, *, bare_head: bool = False) -> list[Path]:
    """Write `path` as `count` shards beside it, named after it; returns them in order.

    With `bare_head` the first shard has metadata and no tensor.
    """
    path = Path(path)
    reader = gguf.GGUFReader(path)
    held = count - 1 if bare_head else count
    parts: list[list[Any]] = [list(part) for part in np.array_split(np.arange(len(reader.tensors)), held)]
    shards = []
    for number, part in enumerate([[], *parts] if bare_head else parts):
        shard = path.with_name(f"{path.stem}-{number + 1:05d}-of-{count:05d}.gguf")
        writer = gguf.GGUFWriter(shard, _text(reader, "general.architecture"))
        if number:
            del writer.kv_data[0]["general.architecture"]
        else:
            _copy_keys(reader, writer)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for index in part:
            tensor = reader.tensors[index]
            writer.add_tensor(tensor.name, np.ascontiguousarray(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shards.append(shard)
    return shards


def _text(reader: gguf.GGUFReader, name: str) -> str:
    field = reader.get_field(name)
    assert field is not None
    return str(field.contents())


def _copy_keys(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=element)
