"""Checkpoints for the test Hub: small ones with real weights, and one of 40 GB that is mostly a hole."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np

#: what Llama 3.1 8B says of itself
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
}  # fmt: skip


def sparse_gguf(path: Path, *, size: int = 40 << 30, tokens: int = 128_256, merges: int = 280_147) -> int:
    """A llama with a real model's vocabulary and `rope_freqs`, whose one large tensor is a hole.

    Returns:
        The length of its header.
    """
    from gguf import GGUFWriter

    draw = random.Random(1)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(4096)
    writer.add_block_count(32)
    writer.add_head_count(32)
    writer.add_head_count_kv(8)
    writer.add_rope_dimension_count(128)
    writer.add_rope_freq_base(500000.0)
    writer.add_tokenizer_model("gpt2")
    # real vocabularies begin with short texts and end with long ones
    writer.add_token_list(["t" * (2 + 8 * n // tokens + draw.randrange(4)) for n in range(tokens)])
    writer.add_token_types([1] * tokens)
    writer.add_token_merges(["m" * (3 + 11 * n // merges + draw.randrange(4)) for n in range(merges)])
    rows = (size - (16 << 20)) // 2 // 4096
    writer.add_tensor("rope_freqs.weight", np.linspace(1, 4, 64, dtype=np.float32))
    writer.add_tensor_info("token_embd.weight", (rows, 4096), np.dtype(np.float16), rows * 4096 * 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.fout[0].flush()
    header = -(-path.stat().st_size // 32) * 32
    writer.close()
    with open(path, "r+b") as file:
        file.seek(header)
        file.write(np.linspace(1, 4, 64, dtype=np.float32).tobytes())
        file.truncate(header + 256 + rows * 4096 * 2)
    return header


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
