"""What llama.cpp computes from a GGUF's keys, written down a second time from its C sources.

`ggml_rope_cache_init` and `rope_yarn` (ggml-cpu), `ggml_rope_yarn_corr_dims` (ggml.c) and the constructor of
`llama_context`. Reads the file with the gguf library; shares nothing with the package. tests/conformance holds the same
files against the engine itself.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader


def keys_of(path: str | Path) -> dict[str, Any]:
    """Scalar and array values by key."""
    reader = GGUFReader(path)
    return {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}


def types_of(path: str | Path) -> dict[str, str]:
    """The names of the value types by key."""
    reader = GGUFReader(path)
    return {name: f.types[0].name for name, f in reader.fields.items() if not name.startswith("GGUF.")}


def tensors_of(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors, copied."""
    return {t.name: np.array(t.data) for t in GGUFReader(path).tensors}


def computed(path: str | Path, n_ctx: int | None = None) -> tuple[np.ndarray[Any, Any], float]:
    """`inv_freq` per pair and the magnitude on cos and sin, of full-attention layers, for an allocated context."""
    keys, tensors = keys_of(path), tensors_of(path)
    arch = keys["general.architecture"]

    def get(name: str, default: Any = None) -> Any:
        return keys.get(f"{arch}.{name}", default)

    dims = get("rope.dimension_count") or get("attention.key_length")
    base = get("rope.freq_base", 10000.0)
    kind = get("rope.scaling.type", "linear")
    factor = get("rope.scaling.factor", 0.0) or get("rope.scale_linear", 0.0) or 1.0
    scale = 1.0 if kind == "none" else 1.0 / factor
    original = get("rope.scaling.original_context_length", get("context_length"))
    ext = 1.0 if kind == "yarn" else 0.0
    attn = get("rope.scaling.attn_factor", 1.0)
    if ext:
        usual = 1.0 if 1 / scale <= 1 else 1 + 0.1 * math.log(1 / scale)
        attn *= usual / (1 + 0.1 * math.log(1 / scale))
    magnitude = attn * (1 + 0.1 * math.log(1 / scale)) if ext else attn

    factors = np.ones(dims // 2)
    if "rope_freqs.weight" in tensors:
        factors = tensors["rope_freqs.weight"].astype(np.float64)
    elif "rope_factors_long.weight" in tensors:
        name = "long" if (n_ctx or get("context_length")) > original else "short"
        factors = tensors[f"rope_factors_{name}.weight"].astype(np.float64)

    def corr(beta: float) -> float:
        return dims * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(corr(32))), min(dims - 1, math.ceil(corr(1)))
    result = []
    for i in range(dims // 2):
        free = base ** (-2 * i / dims) / factors[i]
        keep = ext * (1 - min(1.0, max(0.0, (i - low) / max(0.001, high - low))))
        result.append(scale * free * (1 - keep) + free * keep)
    return np.array(result), magnitude
