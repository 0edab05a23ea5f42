"""Safetensors files of our own with frequency buffers in them, in any dtype, whole or in shards."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
}


def plain(theta: float = 10000.0, dims: int = 32) -> Any:
    """Frequencies as old modelling code makes them: float32 throughout."""
    exponent = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return (np.float32(1) / np.float32(theta) ** exponent).astype(np.float32)


def stored(values: Any, dtype: str) -> bytes:
    """``values`` in a safetensors dtype; BF16 by torch-like rounding of the bits to nearest even."""
    if dtype != "BF16":
        return np.asarray(values).astype({"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4"}[dtype]).tobytes()
    kept = []
    for (bits,) in struct.iter_unpack("<I", np.asarray(values, "<f4").tobytes()):
        low, high = bits & 0xFFFF, bits >> 16
        kept.append(high + (low > 0x8000 or (low == 0x8000 and high & 1)))
    return np.asarray(kept, "<u2").tobytes()


def write(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a safetensors file by hand: ``{name: (dtype, shape, bytes)}`` in the given order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))
    return path


def weight(seed: int, count: int = 64) -> tuple[str, tuple[int, ...], bytes]:
    """Something that is no buffer and must not change."""
    return "F32", (count,), np.random.default_rng(seed).standard_normal(count).astype("<f4").tobytes()


def buffer(values: Any, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    """A buffer with these frequencies."""
    return dtype, (len(values),), stored(values, dtype)


def folder(
    root: Path, config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], *, index: bool = False
) -> Path:
    """A folder with a config, safetensors files, and an index of them when wanted."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name, tensors in files.items():
        write(root / name, tensors, {"format": "pt"})
    if index:
        places = {tensor: name for name, tensors in files.items() for tensor in tensors}
        text = json.dumps({"metadata": {}, "weight_map": places})
        (root / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return root


def values(path: Path, name: str) -> Any:
    """A tensor of a file as float64, read by the safetensors library (bfloat16 through torch)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        return handle.get_tensor(name).double().numpy()
