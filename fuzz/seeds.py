"""What fuzzing starts from: the corpus of malformed files, absurd values, configs, and every crash found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.attacks import absurd_values, gguf_cases, safetensors_cases

ROOT = Path(__file__).parents[1]
#: inputs that once brought out something else than an answer: TARGET-DIGEST
REGRESSIONS = ROOT / "tests" / "attacks" / "regressions"
_LIMIT = 64 << 10

_V5 = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
_COMPOSITE = {
    "model_type": "qwen2_vl",
    "text_config": {
        "model_type": "qwen2_vl_text",
        "hidden_size": 64,
        "num_attention_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    },
}
_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [4.0] * 16, "factor": 4.0}
_LONGROPE = {
    "model_type": "phi3",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "max_position_embeddings": 16384,
    "original_max_position_embeddings": 4096,
    "rope_scaling": _LONG,
}
_MISTRAL = {"dim": 64, "n_layers": 2, "n_heads": 2, "head_dim": 32, "rope_theta": 1e6, "max_seq_len": 4096}
_MISTRAL |= {"yarn": {"original_max_position_embeddings": 1024, "factor": 4, "beta": 32, "alpha": 1}}
_META = {"dim": 64, "n_layers": 2, "n_heads": 2, "rope_theta": 500000.0, "use_scaled_rope": True}


def of(target: str) -> Iterator[bytes]:
    """The seeds of one target; none is longer than 64 KiB."""
    for data in _of(target):
        if len(data) <= _LIMIT:
            yield data
    for path in sorted(REGRESSIONS.glob(f"{target}-*")):
        yield path.read_bytes()


def _of(target: str) -> Iterator[bytes]:
    if target == "gguf":
        yield from (data for _, data in gguf_cases.every())
        yield from (data for _, data in absurd_values.gguf_files())
    elif target == "safetensors":
        yield from (data for _, data in safetensors_cases.every())
        yield safetensors_cases.tensors(
            safetensors_cases.entry(), __metadata__={"config": json.dumps({"model_type": "llama", "hidden_size": 64})}
        )
    elif target == "config":
        yield (ROOT / "fixtures" / "tiny-llama" / "config.json").read_bytes()
        yield from (json.dumps(config).encode() for config in (_V5, _COMPOSITE, _LONGROPE))
        yield from (data for _, data in absurd_values.configs())
    else:
        yield from (json.dumps(config).encode() for config in (_MISTRAL, _META))
