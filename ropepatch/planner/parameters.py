"""How many weights a model has, from its widths or from its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: model types whose feed-forward layer has two matrices instead of three
_UNGATED = frozenset(
    {
        "apertus",
        "arcee",
        "codegen",
        "falcon",
        "gpt_bigcode",
        "gpt_neox",
        "gptj",
        "nemotron",
        "persimmon",
        "phi",
        "starcoder2",
    }
)
#: model types with weights beside attention and feed-forward that the formula does not have
_OTHERS = frozenset(
    {
        "bamba", "doge", "ernie4_5_moe", "falcon_h1", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "helium",
        "jamba", "jetmoe", "kimi_linear", "lfm2", "llama4_text", "longcat_flash", "minimax", "minimax_m3",
        "mllama_text_model", "recurrent_gemma", "zamba2",
    }
)  # fmt: skip
#: bytes an element, by the spelling of ``dtype``
_BYTES = {"float32": 4.0, "float": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0}
#: the same for quantised checkpoints whose config gives no ``bits``
_QUANTISED = {"fp8": 1.0, "mxfp4": 0.53, "bitsandbytes": 0.5}


def count(facts: Mapping[str, Any], model_type: str, *, tied: bool) -> tuple[int, int] | None:
    """All weights, and those that a token passes through without the embeddings; norms and biases are left out.

    Args:
        facts: widths under the names of :mod:`ropepatch.planner.shape`.
        model_type: transformers' name of the architecture.
        tied: whether the output matrix is the embedding.

    Returns:
        None where the widths do not determine the number.
    """
    needed = [facts.get(name) for name in ("layers", "hidden", "heads", "vocab")]
    if model_type in _OTHERS or not all(isinstance(value, int) and value for value in needed):
        return None
    layers, hidden, _, vocab = (int(value or 0) for value in needed)
    if any(isinstance(value, list) for value in facts.values()):
        return None  # widths that differ between the layers
    attention = _attention(facts)
    inner = facts.get("intermediate") or (4 * hidden if model_type in _UNGATED else 0)
    if attention is None or not (inner or facts.get("expert_width")):
        return None
    matrices = 2 if model_type in _UNGATED else 3
    dense, total, used = matrices * hidden * inner, 0, 0
    first = min(facts.get("dense", 0), layers)
    whole, active = _experts(facts, hidden, inner, matrices) if facts.get("experts") else (dense, dense)
    if not facts.get("experts"):
        first = 0
    total = layers * attention + first * dense + (layers - first) * whole
    used = layers * attention + first * dense + (layers - first) * active
    return total + hidden * vocab * (1 if tied else 2), used


def _attention(facts: Mapping[str, Any]) -> int | None:
    """The four projections of a layer, or those by way of the latent vectors."""
    hidden, heads = facts["hidden"], facts["heads"]
    kv = facts.get("kv_heads", heads)
    if facts.get("global_head"):
        return None
    if latent := facts.get("latent"):
        rope, nope, value = facts.get("rope_dim", 0), facts.get("nope_dim", 0), facts.get("v_head_dim", 0)
        query = heads * (rope + nope)
        asking = facts.get("q_latent") or 0
        queries = hidden * asking + asking * query if asking else hidden * query
        return int(queries + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden)
    key = facts.get("head_dim") or hidden // heads
    value = facts.get("v_head_dim") or key
    return int(hidden * heads * key + hidden * kv * (key + value) + heads * value * hidden)


def _experts(facts: Mapping[str, Any], hidden: int, inner: int, matrices: int) -> tuple[int, int]:
    """All weights of a layer of experts, and those that a token uses."""
    width = facts.get("expert_width") or inner
    each = matrices * hidden * width
    shared = matrices * hidden * facts["shared_width"] if facts.get("shared_width") else facts.get("shared", 0) * each
    router = hidden * facts["experts"]
    return facts["experts"] * each + shared + router, facts.get("used", 1) * each + shared + router


def of_tensors(elements: Mapping[str, int], facts: Mapping[str, Any]) -> tuple[int, int]:
    """The same from a GGUF's tensors: ``elements`` by name, stacked experts counted by the share that is used."""
    total = active = 0
    share = facts.get("used", 1) / facts["experts"] if facts.get("experts") else 1.0
    for name, size in elements.items():
        total += size
        if name.startswith(("token_embd", "output.", "rope_")):
            continue
        active += round(size * share) if "_exps" in name else size
    return total, active


def width(config: Mapping[str, Any], section: Mapping[str, Any]) -> tuple[float, str]:
    """Bytes a weight takes and what says so: the quantisation, else ``dtype``, else bfloat16."""
    quantised = section.get("quantization_config") or config.get("quantization_config")
    if isinstance(quantised, Mapping):
        method, bits = str(quantised.get("quant_method", "a quantised type")), quantised.get("bits")
        if isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 16:
            return bits / 8, f"{method} of {bits} bits"
        if method in _QUANTISED:
            return _QUANTISED[method], method
    for source in (section, config):
        for key in ("dtype", "torch_dtype"):
            if source.get(key) in _BYTES:
                return _BYTES[source[key]], str(source[key])
    return 2.0, "bfloat16 (assumed)"
