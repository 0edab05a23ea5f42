"""Whole GGUF headers and configs whose containers are in order, and whose values are not."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from tests.support import raw_gguf as raw
from tests.support.raw_gguf import Parts

_U64 = struct.Struct("<Q").pack
_F32 = struct.Struct("<f").pack

Keys = dict[str, tuple[int, bytes]]

#: key -> (type, value) of a small llama
_LLAMA: Keys = {
    "general.architecture": (raw.STRING, raw.text("llama")),
    "llama.context_length": (raw.U32, raw.u32(2048)),
    "llama.embedding_length": (raw.U32, raw.u32(64)),
    "llama.block_count": (raw.U32, raw.u32(2)),
    "llama.attention.head_count": (raw.U32, raw.u32(2)),
    "llama.rope.dimension_count": (raw.U32, raw.u32(32)),
    "llama.rope.freq_base": (raw.F32, _F32(10000.0)),
}

NUMBERS: Keys = {
    "0": (raw.U32, raw.u32(0)),
    "2^31": (raw.U32, raw.u32(1 << 31)),
    "2^32-1": (raw.U32, raw.u32(2**32 - 1)),
    "2^64-1": (raw.U64, _U64(2**64 - 1)),
    "-1": (raw.I32, struct.pack("<i", -1)),
    "nan": (raw.F32, _F32(float("nan"))),
    "infinity": (raw.F32, _F32(float("inf"))),
    "a text": (raw.STRING, raw.text("\x1b[31m12\x07")),
    "an array": (raw.ARRAY, raw.array(raw.U32, 2, raw.u32(1) + raw.u32(2))),
    "an array of a million": (raw.ARRAY, raw.array(raw.U32, 1_000_000, raw.u32(3) * 1_000_000)),
}


WINDOW = (raw.U32, raw.u32(48))
#: numbers that some architectures have, under their own name
NAMES = (
    "context_length", "embedding_length", "block_count", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.key_length_swa", "attention.kv_lora_rank", "attention.sliding_window",
    "attention.sliding_window_pattern", "rope.dimension_count", "rope.dimension_count_swa", "rope.dimension_sections",
    "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear", "rope.scaling.factor", "rope.scaling.attn_factor",
    "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_log_multiplier",
)  # fmt: skip


def gguf(changes: Keys, architecture: str = "llama") -> bytes:
    """A small model with keys changed; names without an architecture get this one."""
    named = {name.replace("llama.", f"{architecture}.", 1): value for name, value in _LLAMA.items()}
    named["general.architecture"] = (raw.STRING, raw.text(architecture))
    known = ("general.", "llama.")
    named |= {name if name.startswith(known) else f"{architecture}.{name}": value for name, value in changes.items()}
    keys = [raw.key(name, kind, payload) for name, (kind, payload) in named.items()]
    return Parts(keys, [raw.tensor("token_embd.weight", [8])], bytes(32)).build()


def gguf_files() -> Iterator[tuple[str, bytes]]:
    """By name."""
    yield "as it should be", gguf({})
    for key in list(_LLAMA)[1:]:
        for name, value in NUMBERS.items():
            yield f"{key} is {name}", gguf({key: value})
    yield "an architecture of control characters", gguf({"general.architecture": (8, raw.text("\x1b]0;x\x07\n"))})
    scaling = {"llama.rope.scaling.type": (raw.STRING, raw.text("yarn"))}
    for name in ("0", "nan", "infinity", "-1", "a text", "an array", "2^32-1"):
        for key in ("factor", "original_context_length", "yarn_beta_fast"):
            yield f"{key} is {name}", gguf({**scaling, f"llama.rope.scaling.{key}": NUMBERS[name]})
    for name in NAMES:  # laguna's sliding layers have keys of their own
        for value in ("0", "2^31", "2^32-1", "nan"):
            window = {"attention.sliding_window": WINDOW}
            yield f"laguna's {name} is {value}", gguf({**window, name: NUMBERS[value]}, "laguna")
    yield "a scaling type of a megabyte", gguf({"llama.rope.scaling.type": (raw.STRING, raw.text("x" * (1 << 20)))})


_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "head_dim": 32,
    "partial_rotary_factor": 1.0,
}
_ODD = (0, -1, 10**9, 10**30, 1e308, 1e-320, True, None, "\x1b[31m12", [], [1, 2], {}, {"rope_type": {}})


def configs() -> Iterator[tuple[str, bytes]]:
    """By name: a `config.json` each."""
    yield "as it should be", json.dumps(_CONFIG).encode()
    for key in _CONFIG:
        for value in _ODD:
            yield f"{key} is {json.dumps(value)}", json.dumps({**_CONFIG, key: value}).encode()
    for key in (
        "rope_type",
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "short_factor",
        "attention_factor",
    ):
        for value in _ODD:
            section = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, key: value}
            yield (
                f"rope_scaling.{key} is {json.dumps(value)}",
                json.dumps({**_CONFIG, "rope_scaling": section}).encode(),
            )
    million = {**_CONFIG, "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 400_000}}
    yield "a factor list of 400,000", json.dumps(million).encode()
    yield (
        "a hundred thousand layer types",
        json.dumps({**_CONFIG, "layer_types": ["full_attention"] * 100_000}).encode(),
    )
    yield "nested 100,000 deep", b'{"model_type":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "five million empty lists", b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"
    yield "16 MB of one text with one wide character", '{{"a":"{}\U0001f600"}}'.format("x" * (15 << 20)).encode()
    yield "a number with 5,000 digits", b'{"model_type":"llama","head_dim":' + b"9" * 5000 + b"}"
    yield (
        "a template that would write a file",
        json.dumps(
            {**_CONFIG, "chat_template": "{{ cycler.__init__.__globals__.os.system('touch rendered') }}"}
        ).encode(),
    )
