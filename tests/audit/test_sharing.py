"""What is run once for several texts, and what is left out, changes no log-probability: against a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

import ropepatch
from ropepatch.audit import hf_attention, tasks, torch_engine
from ropepatch.audit.engine import opened
from ropepatch.audit.variants import resolve

LETTERS = tasks.Alphabet.parse("bos=0,filler=1-40,key=41-72,value=73-136", 137)
DEPTHS = (0.0, 0.3, 0.6, 1.0)
COMMON: dict[str, Any] = {
    "vocab_size": 137, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: model type -> what makes its attention another, and whether its chunks attend in two parts
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "llama": ({}, True),
    "qwen3": ({}, True),
    "mistral": ({"sliding_window": 50}, False),
    "gemma3_text": ({"sliding_window": 50, "layer_types": ["sliding_attention", "full_attention",
                     "full_attention"], "query_pre_attn_scalar": 5}, True),
}  # fmt: skip


def plain(model: Any, texts: tasks.Texts) -> dict[float, list[float]]:
    """The answers' log-probabilities, one forward pass a text."""
    found = {}
    for depth, block in texts.blocks.items():
        with torch.inference_mode():
            numbers = model(torch.from_numpy(texts.at(depth)[:, :-1]), use_cache=False).logits[:, -3:].log_softmax(-1)
        found[depth] = numbers.gather(-1, torch.from_numpy(block[:, 1:, None]))[..., 0].sum(-1).tolist()
    return found


@pytest.mark.parametrize("task", ["passkey", "multikey"])
@pytest.mark.parametrize("kind", MODELS)
def test_prefixes_change_nothing(kind: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines say, chunk by chunk behind shared prefixes, what transformers says of each text by itself."""
    torch.manual_seed(0)
    settings, in_parts = MODELS[kind]
    made = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **{**COMMON, **settings})
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    made.save_pretrained(tmp_path / "m")
    monkeypatch.setitem(torch_engine.CHUNK, "cpu", 64)
    ended, parts = [], []
    monkeypatch.setattr(hf_attention.Enough, "__init__", lambda self: ended.append(1))
    causal = hf_attention.attention.causal
    monkeypatch.setattr(hf_attention.attention, "causal", lambda *given: parts.append(1) or causal(*given))
    (texts,) = tasks.texts(LETTERS, task, 200, DEPTHS, 3, 5)
    (variant,) = resolve(ropepatch.open(tmp_path / "m"))
    expected = plain(made.eval(), texts)

    for name in ("transformers",) if kind == "gemma3_text" else ("transformers", "torch"):
        engine = opened(name, [variant], device="cpu")
        for depth, answers in engine.answers(variant, texts, 2).items():
            assert answers.log_probabilities == pytest.approx(expected[depth], abs=1e-4), (name, depth)
        if name == "transformers":
            assert len(ended) > 3
            assert bool(parts) == in_parts
    assert max(abs(a - b) for a, b in zip(expected[0.0], expected[0.6], strict=True)) > 0.01
