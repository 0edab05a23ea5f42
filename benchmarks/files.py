"""The files that are measured: a GGUF of any size, a sparse one of 400 GB, a folder of 1,000 shards."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MIB = 1 << 20
ALIGNMENT = 32
VOCABULARY, MERGES = 152_000, 151_000
SPARSE = 400 * 10**9
SHARDS = 1000
#: a model of 400 GB has about as many tensors as this many layers
SPARSE_LAYERS = 120

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALARS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
TYPE_F32, TYPE_F16 = 0, 1
ITEM_SIZE = {TYPE_F32: 4, TYPE_F16: 2}


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(key: str, kind: int, value: Any) -> bytes:
    body = string(value) if kind == STRING else struct.pack(SCALARS[kind], value)
    return string(key) + struct.pack("<I", kind) + body


def array(key: str, kind: int, values: list[Any]) -> bytes:
    head = string(key) + struct.pack("<IIQ", ARRAY, kind, len(values))
    if kind == STRING:
        return head + b"".join(map(string, values))
    return head + struct.pack(f"<{len(values)}{SCALARS[kind][1:]}", *values)


def words(count: int) -> list[str]:
    """Distinct tokens of the lengths and alphabets that byte-level BPE vocabularies have: most start with a space (Ġ),
    some are written in other scripts, some are code and digits."""
    draw = random.Random(4)
    others = ("абвгдежзиклмнопрстуфхцчшыя", "的一是不了人我在有他这中大来上国", "_(){}=.,;:/-<>0123456789")
    alphabets = ("etaoinshrdlucmfwypvbgkjqxz",) * 12 + others
    seen: dict[str, None] = {}
    while len(seen) < count:
        alphabet = draw.choice(alphabets)
        letters = "".join(draw.choices(alphabet, k=min(24, 1 + int(draw.gammavariate(3.0, 1.8)))))
        seen[("Ġ" if draw.random() < 0.55 else "") + letters] = None
    return list(seen)


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama whose float16 tensors come to a wanted number of bytes (or up to a block more)."""

    hidden: int
    feed_forward: int
    layers: int

    @classmethod
    def for_bytes(cls, wanted: int) -> Shape:
        hidden = next((h for h in (2048, 1024, 512, 256) if VOCABULARY * h * 2 * 2 <= wanted), 128)
        one = sum(rows * columns * 2 for _, rows, columns in cls(hidden, hidden * 3, 1).block(0))
        layers = max(1, round((wanted - VOCABULARY * hidden * 2) / one))
        return cls(hidden, hidden * 3, layers)

    def block(self, layer: int) -> list[tuple[str, int, int]]:
        h, f, prefix = self.hidden, self.feed_forward, f"blk.{layer}."
        matrices = [("attn_q", h, h), ("attn_k", h // 2, h), ("attn_v", h // 2, h), ("attn_output", h, h)]
        matrices += [("ffn_gate", f, h), ("ffn_up", f, h), ("ffn_down", h, f)]
        return [(f"{prefix}{name}.weight", rows, columns) for name, rows, columns in matrices]

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """(name, dimensions as GGUF orders them, type)"""
        yield "token_embd.weight", (self.hidden, VOCABULARY), TYPE_F16
        yield "output_norm.weight", (self.hidden,), TYPE_F32
        for layer in range(self.layers):
            yield f"blk.{layer}.attn_norm.weight", (self.hidden,), TYPE_F32
            yield f"blk.{layer}.ffn_norm.weight", (self.hidden,), TYPE_F32
            for name, rows, columns in self.block(layer):
                yield name, (columns, rows), TYPE_F16


def metadata(shape: Shape) -> list[bytes]:
    heads = shape.hidden // 64
    tokens = words(VOCABULARY)
    merges = [f"{token[: len(token) // 2 or 1]} {token[len(token) // 2 or 1 :] or 'e'}" for token in tokens[:MERGES]]
    return [
        scalar("general.architecture", STRING, "llama"),
        scalar("general.name", STRING, "benchmark"),
        scalar("general.file_type", UINT32, 1),
        scalar("general.alignment", UINT32, ALIGNMENT),
        scalar("llama.vocab_size", UINT32, VOCABULARY),
        scalar("llama.context_length", UINT32, 32768),
        scalar("llama.embedding_length", UINT32, shape.hidden),
        scalar("llama.block_count", UINT32, shape.layers),
        scalar("llama.feed_forward_length", UINT32, shape.feed_forward),
        scalar("llama.attention.head_count", UINT32, heads),
        scalar("llama.attention.head_count_kv", UINT32, heads // 2),
        scalar("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        scalar("llama.rope.dimension_count", UINT32, 64),
        scalar("llama.rope.freq_base", FLOAT32, 1000000.0),
        scalar("tokenizer.ggml.model", STRING, "gpt2"),
        scalar("tokenizer.ggml.pre", STRING, "qwen2"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.scores", FLOAT32, [-float(rank) for rank in range(VOCABULARY)]),
        array("tokenizer.ggml.token_type", INT32, [1] * (VOCABULARY - 64) + [3] * 64),
        array("tokenizer.ggml.merges", STRING, merges),
        scalar("tokenizer.ggml.bos_token_id", UINT32, VOCABULARY - 2),
        scalar("tokenizer.ggml.eos_token_id", UINT32, VOCABULARY - 1),
        scalar("tokenizer.ggml.add_bos_token", BOOL, False),
    ]


def write_data(stream: BinaryIO, size: int) -> None:
    """Random blocks: one of 16 MiB, begun elsewhere each time, so that no two parts of the file are alike or sparse."""
    block = os.urandom(16 * MIB)
    turn = 0
    while size > 0:
        turn += 1
        start = (turn * 7919 * 64) % len(block)
        for part in (block[start:], block[:start]):
            stream.write(part[:size])
            size -= min(size, len(part))


def make_file(path: Path, size: int) -> None:
    shape = Shape.for_bytes(size)
    pairs = metadata(shape)
    infos, offset = [], 0
    for name, dimensions, kind in shape.tensors():
        infos.append(string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset))
        length = ITEM_SIZE[kind]
        for dimension in dimensions:
            length *= dimension
        offset += -(-length // ALIGNMENT) * ALIGNMENT
    header = b"".join([struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(pairs)), *pairs, *infos])
    with path.open("wb") as stream:
        stream.write(header + bytes(-len(header) % ALIGNMENT))
        write_data(stream, offset)


def make_sparse(path: Path) -> None:
    """A GGUF whose header declares 400 GB of tensors, and which holds no more than that header."""
    shape = Shape.for_bytes(10**9)
    infos, offset = [], 0
    rows = SPARSE // (SPARSE_LAYERS * 9 * 2 * shape.hidden)
    for layer in range(SPARSE_LAYERS):
        for part in range(9):
            name = f"blk.{layer}.part_{part}.weight"
            infos.append(string(name) + struct.pack("<IQQIQ", 2, shape.hidden, rows, 1, offset))
            offset += -(-rows * shape.hidden * 2 // 32) * 32
    pairs = metadata(shape)
    header = b"".join([struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(pairs)), *pairs, *infos])
    with path.open("wb") as file:
        file.write(header)
        file.truncate(-(-len(header) // 32) * 32 + offset)


def make_shards(folder: Path) -> None:
    """A Hugging Face folder with 1,000 safetensors files of one small tensor each."""
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096}
    config |= {"num_attention_heads": 32, "num_hidden_layers": SHARDS, "max_position_embeddings": 8192}
    config |= {"rope_theta": 500000.0, "num_key_value_heads": 8, "vocab_size": 128256, "intermediate_size": 14336}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    places = {}
    for number in range(SHARDS):
        name, tensor = (
            f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors",
            f"model.layers.{number}.mlp.up_proj.weight",
        )
        text = json.dumps({tensor: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
        places[tensor] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
