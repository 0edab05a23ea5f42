"""A checkpoint's tensors by what they are for, read in slices of rows; safetensors or GGUF, quantised or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ropepatch.containers import gguf, safetensors
from ropepatch.containers.ggml_types import TYPES
from ropepatch.errors import InputError

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

#: role -> (name in a Hugging Face llama below "model.", name in a GGUF)
MODEL_ROLES = {
    "embed":      ("embed_tokens.weight", "token_embd.weight"),
    "final_norm": ("norm.weight",         "output_norm.weight"),
}  # fmt: skip
HEAD = ("lm_head.weight", "output.weight")
#: role -> (name below "model.layers.N.", name below "blk.N.")
LAYER_ROLES = {
    "attn_norm": ("input_layernorm.weight",          "attn_norm.weight"),
    "q":         ("self_attn.q_proj.weight",         "attn_q.weight"),
    "k":         ("self_attn.k_proj.weight",         "attn_k.weight"),
    "v":         ("self_attn.v_proj.weight",         "attn_v.weight"),
    "qkv":       ("self_attn.qkv_proj.weight",       "attn_qkv.weight"),
    "o":         ("self_attn.o_proj.weight",         "attn_output.weight"),
    "q_bias":    ("self_attn.q_proj.bias",           "attn_q.bias"),
    "k_bias":    ("self_attn.k_proj.bias",           "attn_k.bias"),
    "v_bias":    ("self_attn.v_proj.bias",           "attn_v.bias"),
    "o_bias":    ("self_attn.o_proj.bias",           "attn_output.bias"),
    "q_norm":    ("self_attn.q_norm.weight",         "attn_q_norm.weight"),
    "k_norm":    ("self_attn.k_norm.weight",         "attn_k_norm.weight"),
    "ffn_norm":  ("post_attention_layernorm.weight", "ffn_norm.weight"),
    "gate":      ("mlp.gate_proj.weight",            "ffn_gate.weight"),
    "up":        ("mlp.up_proj.weight",              "ffn_up.weight"),
    "down":      ("mlp.down_proj.weight",            "ffn_down.weight"),
    "gate_up":   ("mlp.gate_up_proj.weight",         "ffn_gate_up.weight"),
    "gate_bias": ("mlp.gate_proj.bias",              "ffn_gate.bias"),
    "up_bias":   ("mlp.up_proj.bias",                "ffn_up.bias"),
    "down_bias": ("mlp.down_proj.bias",              "ffn_down.bias"),
}  # fmt: skip
_MAX_SHARDS = 4096
#: types of safetensors -> torch's
_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class Weights(Protocol):
    """Tensors by their names in the file."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """(rows, columns) or (size,); None when there is no such tensor."""

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Rows ``start`` to ``stop`` as a float32 torch tensor on the CPU."""

    def role(self, role: str, layer: int | None = None) -> str:
        """The name of what ``role`` means."""

    def names(self) -> Iterable[str]:
        """All tensors that there are."""

    def quantised(self, name: str) -> bool:
        """Whether a tensor is stored in blocks."""


@dataclass
class SafetensorsWeights:
    """Tensors of one or more safetensors files; only the rows asked for are read."""

    files: tuple[Path, ...]

    def __post_init__(self) -> None:
        self._where = {
            name: (path, tensor) for path in self.files for name, tensor in safetensors.scan(path).tensors.items()
        }
        embeds = [name for name in self._where if name.endswith(MODEL_ROLES["embed"][0])]
        self._prefix = min(embeds, key=len).removesuffix(MODEL_ROLES["embed"][0]) if embeds else "model."

    def names(self) -> Iterable[str]:
        """All tensors that there are."""
        return self._where

    def quantised(self, name: str) -> bool:
        """Never: such checkpoints have other tensors, which the decoder does not find."""
        return False

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape in the header."""
        found = self._where.get(name)
        return None if found is None else found[1].shape

    def role(self, role: str, layer: int | None = None) -> str:
        """The name below whatever prefix the embedding has."""
        if role == "head":
            return HEAD[0]
        if layer is None:
            return self._prefix + MODEL_ROLES[role][0]
        return f"{self._prefix}layers.{layer}.{LAYER_ROLES[role][0]}"

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Read from where the header says; mapping a shard would take address space for all of it.

        Raises:
            InputError: there is no such tensor, its type is not one of torch's, or the file is cut short.
        """
        import torch

        if name not in self._where:
            raise InputError(f"there is no tensor {name}", where=str(self.files[0].parent))
        path, tensor = self._where[name]
        kind = getattr(torch, _TORCH.get(tensor.dtype, ""), None)
        if kind is None:
            raise InputError(f"tensor {name} is {tensor.dtype}, which torch does not read", where=str(path))
        count = tensor.shape[0] if tensor.shape else 0
        stop = count if stop is None else min(stop, count)
        width = (tensor.end - tensor.start) // count if count else 0
        data = bytearray((stop - start) * width)
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(tensor.start + start * width)
                have = _read_into(file, data)
        except OSError as error:
            raise InputError(f"tensor {name} cannot be read: {error.strerror}", where=str(path)) from None
        if have != len(data):
            raise InputError(f"tensor {name} is cut short", where=str(path))
        values = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
        return values.reshape((stop - start, *tensor.shape[1:])).to(torch.float32)


def _read_into(file: Any, data: bytearray) -> int:
    """Fill ``data`` as far as the file goes; one call reads 2 GiB at most."""
    view, at = memoryview(data), 0
    while at < len(data) and (count := file.readinto(view[at:])):
        at += count
    return at


@dataclass
class GgufWeights:
    """Tensors of a GGUF file, or of the shards of one; quantised blocks are dequantised by the gguf library."""

    files: tuple[Path, ...]

    def __post_init__(self) -> None:
        headers = [gguf.scan(path) for path in self.files]
        self._where = {name: (header, info) for header in headers for name, info in header.tensors.items()}

    def names(self) -> Iterable[str]:
        """All tensors that there are."""
        return self._where

    def quantised(self, name: str) -> bool:
        """Whether its type has blocks of more than one element."""
        return name in self._where and TYPES[self._where[name][1].type][1] > 1

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape in numpy order: rows first (GGUF counts from the fastest dimension)."""
        found = self._where.get(name)
        return None if found is None else tuple(reversed(found[1].shape))

    def role(self, role: str, layer: int | None = None) -> str:
        """The name that gguf gives it."""
        if role == "head":
            return HEAD[1]
        return MODEL_ROLES[role][1] if layer is None else f"blk.{layer}.{LAYER_ROLES[role][1]}"

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Read the bytes of the rows and dequantise them.

        Raises:
            InputError: there is no such tensor, or its type is not one that the library dequantises.
        """
        import numpy as np
        import torch

        if name not in self._where:
            raise InputError(f"there is no tensor {name}", where=str(self.files[0]))
        header, info = self._where[name]
        shape = tuple(reversed(info.shape))
        count = shape[0]
        stop = count if stop is None else min(stop, count)
        width = info.size // count if count else 0  # bytes of a row: blocks never cross rows
        with open(header.path, "rb") as file:
            file.seek(header.data_offset + info.offset + start * width)
            data = file.read((stop - start) * width)
        if len(data) != (stop - start) * width:
            raise InputError(f"tensor {name} is cut short", where=str(header.path))
        raw = np.frombuffer(data, np.uint8)
        values = _dequantised(raw.reshape(stop - start, width), info.type, header.endian, name, str(header.path))
        return torch.from_numpy(np.ascontiguousarray(values).reshape((stop - start, *shape[1:])))


def _dequantised(raw: Any, kind: int, endian: str, name: str, where: str) -> Any:
    import numpy as np
    from gguf import quants
    from gguf.constants import GGMLQuantizationType

    if endian == ">" and TYPES[kind][0] not in ("F32", "F16"):
        raise InputError(f"tensor {name}: quantised blocks of a big-endian file cannot be read here", where=where)
    if TYPES[kind][0] in ("F32", "F16"):
        return raw.view(f"{endian}f{TYPES[kind][2]}").astype(np.float32)
    try:
        return quants.dequantize(raw, GGMLQuantizationType(kind)).astype(np.float32, copy=False)
    except (NotImplementedError, ValueError) as error:
        raise InputError(
            f"tensor {name}: the gguf library does not dequantise {TYPES[kind][0]} ({error or 'not implemented'})",
            where=where,
            hint="--engine llama.cpp runs it as it is",
        ) from None


def open_weights(checkpoint: Checkpoint) -> Weights:
    """The tensors of a checkpoint.

    Raises:
        InputError: it holds no weights in a format that can be read here.
    """
    kind = checkpoint.profile.source.format
    if kind == "gguf":
        from ropepatch.bundle import bundle_of

        bundle = bundle_of(Path(checkpoint.ref))
        return GgufWeights(tuple(bundle.path(name) for name in bundle.names))
    root = checkpoint.dialect.root
    if kind == "hf":
        files = sorted(root.glob("*.safetensors"))[:_MAX_SHARDS]
        if files:
            return SafetensorsWeights(tuple(files))
        raise InputError(
            "has no .safetensors beside its config", where=str(root), hint="a forward pass needs the weights"
        )
    raise InputError(
        f"a forward pass reads Hugging Face folders and GGUF files, not {kind}",
        where=checkpoint.ref,
        hint="give the folder that holds config.json, or the .gguf",
    )


def gguf_header(checkpoint: Checkpoint) -> gguf.Header:
    """The header of a GGUF checkpoint, that of the first shard where it is split."""
    from ropepatch.bundle import bundle_of

    return gguf.scan(bundle_of(Path(checkpoint.ref)).anchor)
