"""Checkpoints for the test Hub: small ones with real weights, and one of 40 GB that is mostly a hole."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np

from tests.support import raw_gguf as raw

#: what Llama 3.1 8B says of itself
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
}  # fmt: skip


#: tokens and merges of published models
VOCABULARIES = {"llama-3": (128_256, 280_147), "gpt-oss": (201_088, 446_189), "gemma": (262_144, 514_906)}


def sparse_gguf(path: Path, *, size: int = 40 << 30, vocabulary: str = "llama-3", factors: bool = True) -> int:
    """A llama with a vocabulary as a real model has and `rope_freqs`, whose one large tensor is a hole.

    Returns:
        The length of its header.
    """
    tokens, merges = VOCABULARIES[vocabulary]
    draw = random.Random(1)
    counts = {"context_length": 8192, "embedding_length": 4096, "block_count": 32, "attention.head_count": 32,
              "attention.head_count_kv": 8, "rope.dimension_count": 128}  # fmt: skip
    words = {"tokens": (_text(draw, n / tokens) for n in range(tokens)),
             "merges": (_text(draw, n / merges) + b" ab" for n in range(merges))}  # fmt: skip
    lists = {name: raw.array(raw.STRING, n, b"".join(map(raw.text, words[name])))
             for name, n in (("tokens", tokens), ("merges", merges))}  # fmt: skip
    keys = [
        raw.key("general.architecture", raw.STRING, raw.text("llama")),
        *(raw.key(f"llama.{name}", raw.U32, raw.u32(value)) for name, value in counts.items()),
        raw.key("llama.rope.freq_base", raw.F32, struct.pack("<f", 500000.0)),
        raw.key("tokenizer.ggml.model", raw.STRING, raw.text("gpt2")),
        raw.key("tokenizer.ggml.tokens", raw.ARRAY, lists["tokens"]),
        raw.key("tokenizer.ggml.scores", raw.ARRAY, raw.array(raw.F32, tokens, bytes(4 * tokens))),
        raw.key("tokenizer.ggml.token_type", raw.ARRAY, raw.array(raw.I32, tokens, b"\1\0\0\0" * tokens)),
        raw.key("tokenizer.ggml.merges", raw.ARRAY, lists["merges"]),
        raw.key("tokenizer.ggml.bos_token_id", raw.U32, raw.u32(0)),
        raw.key("tokenizer.chat_template", raw.STRING, raw.text("{{ messages }}" * 1000)),
    ]
    rows = (size - (32 << 20)) // 2 // 4096
    tensors = [raw.tensor("rope_freqs.weight", (64,))] if factors else []
    tensors.append(raw.tensor("token_embd.weight", (4096, rows), 1, 256 * factors))
    data = np.linspace(1, 4, 64, dtype=np.float32).tobytes() if factors else b""
    head = raw.Parts(keys, tensors).build()
    with open(path, "wb") as file:
        file.write(head + data)
        file.truncate(len(head) + len(data) + rows * 4096 * 2)
    return len(head)


def _text(draw: random.Random, place: float) -> bytes:
    """A token, by how far down in a vocabulary it stands.

    Real ones begin with short texts and soon come to long ones: of DeepSeek's 102,400 tokens the first eighth has 6.3
    bytes in the mean, the second 8.0, the last 10.6. And there are runs of one sign.
    """
    chance = draw.random()
    length = 128 if chance < 1e-4 else 3 + int(7 * place**0.4) + int(5 * chance)
    return b"%c" % (97 + int(chance * 1e6) % 16) * (length - 1) + b"t"


def sparse_safetensors(folder: Path, *, shards: int = 8, size: int = 5 << 30) -> None:
    """A config, an index, and shards that are holes behind their headers."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    weight_map = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
        text = json.dumps({f"model.layers.{number}.mlp.up_proj.weight": entry}).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + size)
        weight_map[f"model.layers.{number}.mlp.up_proj.weight"] = name
    index = {"metadata": {"total_size": shards * size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def random_gguf(path: Path, megabytes: int = 64) -> None:
    """A llama of that size whose weights repeat nowhere."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(4096)
    writer.add_block_count(1)
    writer.add_head_count(32)
    writer.add_rope_dimension_count(128)
    writer.add_rope_freq_base(10000.0)
    draw = np.random.default_rng(7)
    rows = megabytes * 32
    for number in range(4):
        weights = draw.integers(0, 1 << 16, (rows, 4096), dtype=np.uint16)
        writer.add_tensor(f"blk.0.part{number}.weight", weights.view(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
