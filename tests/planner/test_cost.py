"""What a length costs: published cache sizes, transformers' own parameter counts, llama.cpp's block types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch.errors import InputError
from ropepatch.planner import cost, shape
from tests.support.tiny import ModelSpec, write_gguf

GIB = 1 << 30
LLAMA2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
    "rope_theta": 10000.0, "torch_dtype": "float16",
}  # fmt: skip
LLAMA3_8B = {
    **LLAMA2_7B, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280, "max_position_embeddings": 4096,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3, "rope_theta": 10000.0,
}  # fmt: skip
GEMMA3 = {
    "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
    "max_position_embeddings": 32768, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 512,
    "sliding_window_pattern": 6,
}  # fmt: skip


def shaped(folder: Path, config: dict[str, Any]) -> shape.ModelShape:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return shape.of(ropepatch.open(folder))


def test_cache_of_published_models(tmp_path: Path) -> None:
    """Llama 2 7B keeps half a MiB a token, Llama 3 8B a quarter of it, DeepSeek V3 576 elements a layer."""
    llama2, llama3 = shaped(tmp_path / "a", LLAMA2_7B), shaped(tmp_path / "b", LLAMA3_8B)
    latent = shaped(tmp_path / "c", DEEPSEEK_V3)

    assert cost.kv_bytes(llama2, 4096)["f16"] == 2 * GIB
    assert cost.kv_bytes(llama3, 131072)["f16"] == 16 * GIB
    assert cost.kv_bytes(latent, 1)["f16"] == 61 * 576 * 2
    assert latent.latent


def test_sliding_layers_stop_at_their_window(tmp_path: Path) -> None:
    """Of Gemma 3's 26 layers four keep everything, the others their window."""
    found = cost.cost(shaped(tmp_path / "a", GEMMA3), 32768)

    assert (found.full_layers, found.sliding_layers) == (4, 22)
    assert found.kv_elements == 512 * (4 * 32768 + 22 * 512)


def test_cache_types_are_ggml_blocks() -> None:
    """The bytes of an element are those of ggml's block types."""
    import gguf

    for name, kind in (("q8_0", gguf.GGMLQuantizationType.Q8_0), ("q4_0", gguf.GGMLQuantizationType.Q4_0)):
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        assert cost.CACHE_TYPES[name] == size / elements


@pytest.mark.parametrize(
    ("config", "billions", "active"),
    [(LLAMA2_7B, 6.738, 6.476), (LLAMA3_8B, 8.030, 6.979), (DEEPSEEK_V3, 671.0, 35.7)],
)
def test_parameters_of_published_models(config: dict[str, Any], billions: float, active: float, tmp_path: Path) -> None:
    """Published numbers of parameters follow from the widths."""
    found = shaped(tmp_path / "a", config)

    assert found.parameters is not None
    assert found.active is not None
    assert found.parameters / 1e9 == pytest.approx(billions, rel=1e-3)
    assert found.active / 1e9 == pytest.approx(active, rel=3e-3)


_SMALL = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1000, "pad_token_id": 0, "num_local_experts": 8, "num_experts": 8,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
}  # fmt: skip
_LATENT = {
    "kv_lora_rank": 128, "q_lora_rank": 192, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
    "num_key_value_heads": 8, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["llama", "mixtral", "qwen2_moe", "qwen3_moe", "gemma2", "gemma3_text", "phi", "falcon", "starcoder2", "cohere",
     "deepseek_v3", "gpt_oss", "nemotron", "olmo2"],
)  # fmt: skip
def test_parameters_are_those_that_transformers_makes(kind: str, tmp_path: Path) -> None:
    """The count agrees with the model that transformers builds, but for norms and biases."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    wanted = {**_SMALL, **(_LATENT if kind == "deepseek_v3" else {})}
    blank = AutoConfig.for_model(kind)
    named = getattr(blank, "attribute_map", {})
    config = AutoConfig.for_model(kind, **{k: v for k, v in wanted.items() if hasattr(blank, k) or k in named})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)

    found = shape.of(ropepatch.open(tmp_path))
    assert found.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=3e-3)


def test_gguf_counts_its_tensors(tmp_path: Path) -> None:
    """The weights of a GGUF are its tensors, whatever their types; the embeddings are not active."""
    path = tmp_path / "model.gguf"
    write_gguf(path, ModelSpec())
    model = ropepatch.open(path)
    found = shape.of(model)
    header = model.dialect.header  # type: ignore[attr-defined]

    assert found.weight_bytes == sum(info.size for info in header.tensors.values())
    assert found.parameters is not None
    assert found.active is not None
    assert 0 < found.active < found.parameters
    assert cost.kv_bytes(found, 10)["f16"] == 2 * 10 * 2 * 2 * (32 + 32)


def test_prefill_by_counting_pairs(tmp_path: Path) -> None:
    """Attention's work is that of every query with every key that it sees, counted one by one."""
    found = shaped(tmp_path / "a", {**GEMMA3, "num_hidden_layers": 6, "sliding_window": 5})
    length = 23
    seen = {None: length * (length + 1) // 2, 5: sum(min(i + 1, 5) for i in range(length))}
    work = 2 * 4 * (256 + 256)

    assert cost.attention_flops(found, length) == work * (5 * seen[5] + seen[None])
    assert found.active is not None
    assert cost.prefill_flops(found, length) == 2 * found.active * length + cost.attention_flops(found, length)


def test_cards_hold_what_they_say(tmp_path: Path) -> None:
    """Weights and the sequences that fit stay below the usable memory, and one sequence more does not."""
    found = cost.cost(shaped(tmp_path / "a", LLAMA3_8B), 131072)
    assert found.weight_bytes is not None
    for fit in found.gpus:
        cards = fit.cards or 8
        each = found.kv_bytes["f16"] / min(cards, 8)
        room = 0.9 * fit.memory_bytes - found.weight_bytes / cards
        assert fit.sequences["f16"] * each <= max(room, 0)
        assert (fit.sequences["f16"] + 1) * each > room
        assert bool(fit.cards) == (fit.sequences["f16"] > 0)


def test_latent_cache_is_not_split(tmp_path: Path) -> None:
    """More cards leave more room for the latent cache beside the weights, but each holds all of it."""
    found = shaped(tmp_path / "a", DEEPSEEK_V3)

    assert {layer.shards for layer in found.layers} == {1}


def test_compressed_cache_is_refused(tmp_path: Path) -> None:
    """A model that compresses its cache along the sequence gets no number."""
    config = {**DEEPSEEK_V3, "model_type": "deepseek_v4"}
    with pytest.raises(InputError, match="compresses"):
        shaped(tmp_path / "a", config)


def test_hostile_numbers_are_refused(tmp_path: Path) -> None:
    """A layer count beyond any model is refused before anything is allocated."""
    with pytest.raises(InputError, match="layers"):
        shaped(tmp_path / "a", {**LLAMA2_7B, "num_hidden_layers": 60000})


def test_a_single_key_head_is_on_every_card() -> None:
    """Heads are split whole: what one head's cache holds does not grow with the cards, what eight heads' hold does."""
    size = 1 << 30
    whole, split = (cost._sequences(80 << 30, 8, 80 << 30, {"f16": size}, heads)["f16"] for heads in (1, 8))
    assert 0 < whole * size + (10 << 30) <= 80 << 30
    assert 8 * whole <= split < 8 * (whole + 1)
