"""Self-Extend: the switched model against the paper's formula, worked out position by position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

import ropepatch
from ropepatch.errors import UsageError
from ropepatch.runtime_methods import SelfExtend, advised, self_extend
from tests.support.command import ROOT
from tests.support.command import ropepatch as command


def tiny(kind: str = "llama", **more: Any) -> Any:
    """A random model with attention that picks positions out."""
    import transformers

    torch.manual_seed(2)
    settings = {
        "vocab_size": 61, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
        "bos_token_id": None, "eos_token_id": None, **more,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **settings)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def states_of(model: Any, tokens: Any, group: int, window: int) -> Any:
    """The logits of a text by the paper's formula: one query and one key at a time, each rotated to where it counts."""
    config, core = model.config, model.model
    inv_freq = core.rotary_emb.inv_freq.double().numpy()
    m = float(core.rotary_emb.attention_scaling)
    head_dim = config.hidden_size // config.num_attention_heads

    def placed(x: Any, position: float) -> Any:
        angle = position * inv_freq
        half = len(inv_freq)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        cos, sin = np.cos(angle) * m, np.sin(angle) * m
        return np.concatenate((a * cos - b * sin, b * cos + a * sin, rest), -1)

    x = core.embed_tokens(tokens)[0].detach()
    length = x.shape[0]
    for layer in core.layers:
        y, own = layer.input_layernorm(x), layer.self_attn
        q, k, v = (
            f(y).detach().double().numpy().reshape(length, -1, head_dim) for f in (own.q_proj, own.k_proj, own.v_proj)
        )
        out = np.zeros((length, config.num_attention_heads, head_dim))
        for i in range(length):
            for head in range(config.num_attention_heads):
                kv = head // (config.num_attention_heads // config.num_key_value_heads)
                scores = []
                for j in range(i + 1):
                    if i - j < window:
                        a, b = placed(q[i, head], i), placed(k[j, kv], j)
                    else:
                        a = placed(q[i, head], i // group + window - window // group)
                        b = placed(k[j, kv], j // group)
                    scores.append(float(a @ b) / math.sqrt(head_dim))
                weights = np.exp(np.array(scores) - max(scores))
                out[i, head] = (weights / weights.sum()) @ v[: i + 1, kv]
        x = x + own.o_proj(torch.from_numpy(out.reshape(length, -1)).float()).detach()
        x = x + layer.mlp(layer.post_attention_layernorm(x)).detach()
    return model.lm_head(core.norm(x)).detach()


@pytest.mark.parametrize(
    ("group", "window", "more"),
    [(4, 8, {}), (3, 10, {}), (7, 5, {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 100.0,
                                                          "original_max_position_embeddings": 32}})],
)  # fmt: skip
def test_the_papers_formula(group: int, window: int, more: dict[str, Any]) -> None:
    """Every logit of a text beyond the trained length is the formula's, and far from plain attention's."""
    model = tiny(**more)
    tokens = torch.randint(1, 61, (1, 60), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        plain = model(tokens).logits[0]
        with self_extend(model, group=group, window=window):
            switched = model(tokens).logits[0]
        after = model(tokens).logits[0]
        wanted = states_of(model, tokens, group, window)
    np.testing.assert_allclose(switched, wanted, atol=3e-4)  # 6e-05 as measured
    assert float((switched[window:] - plain[window:]).abs().max()) > 0.5
    torch.testing.assert_close(switched[:window], plain[:window], atol=1e-4, rtol=0)
    torch.testing.assert_close(after, plain)


def test_a_cache_changes_nothing() -> None:
    """Token by token, with cached keys at their true positions, the logits are the whole text's; padded as well."""
    model = tiny("qwen2")
    tokens = torch.randint(1, 61, (1, 70), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode(), self_extend(model, group=3, window=8):
        whole = model(tokens).logits[0, -1]
        begun = model(tokens[:, :60], use_cache=True)
        for index in range(60, 70):
            begun = model(tokens[:, index : index + 1], past_key_values=begun.past_key_values, use_cache=True)
        padded = torch.cat((torch.zeros(1, 6, dtype=torch.long), tokens), 1)
        mask = (padded != 0).long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        left = model(padded, attention_mask=mask, position_ids=positions).logits[0, -1]
    torch.testing.assert_close(begun.logits[0, -1], whole, atol=5e-5, rtol=0)  # 9e-06 as measured
    torch.testing.assert_close(left, whole, atol=5e-5, rtol=0)


def test_a_group_of_one_is_plain_attention() -> None:
    """With one position a group nothing changes, whatever the window; nor with a window beyond the text."""
    model = tiny("phi3", partial_rotary_factor=0.5)
    tokens = torch.randint(1, 61, (2, 50), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        plain = model(tokens).logits
        for group, window in ((1, 4), (5, 50)):
            with self_extend(model, group=group, window=window):
                torch.testing.assert_close(model(tokens).logits, plain, atol=1e-4, rtol=0)  # 1.2e-05 as measured
        with self_extend(model, group=5, window=4):
            assert float((model(tokens).logits - plain).abs().max()) > 0.1


def test_reach() -> None:
    """The paper's Llama 2 example: a window of 1024 and groups of 6 take 4,096 tokens past 16,000."""
    assert SelfExtend(6, 1024).reach(4096) == 19456
    assert advised(256, 1024).reach(256) >= 1024
    assert advised(4096, 16384).window == 1024


@pytest.mark.parametrize(
    ("kind", "more", "numbers", "told"),
    [("llama", {}, {"group": 0, "window": 4}, "group must be"),
     ("llama", {}, {"group": 2, "window": 1.5}, "window must"),
     ("gpt_neox", {"num_key_value_heads": 4}, {"group": 2, "window": 4}, "knows llama"),
     ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
      {"group": 2, "window": 4}, "frequencies change")],
)  # fmt: skip
def test_what_cannot_be_switched(kind: str, more: dict[str, Any], numbers: dict[str, Any], told: str) -> None:
    """Impossible numbers, other model types and scalings that follow the length are refused, and nothing is changed."""
    model = tiny(kind, **more)
    with pytest.raises(UsageError, match=told):
        self_extend(model, **numbers)
    assert model.config._attn_implementation != "ropepatch_self_extend"


def test_the_audit_compares_it_with_methods_of_files() -> None:
    """On the fixture at 4x it finds what plain attention does not, the same in both engines; others refuse it."""
    fixture = ROOT / "fixtures" / "tiny-retriever"
    grouped = "self-extend group=8 window=64"
    found = [
        ropepatch.audit(
            fixture, variant=("yarn:4", "self-extend:group=8,window=64"), lengths=(256, 1024), samples=4,
            depths=(0.0, 0.5), engine=engine, alphabet="bos=0,filler=1-40,key=41-72,value=73-136", device="cpu",
        )
        for engine in ("torch", "transformers")
    ]  # fmt: skip
    for cells in ([(c["variant"], c["length"], c["hits"]) for c in result.cells] for result in found):
        assert cells == [(c["variant"], c["length"], c["hits"]) for c in found[0].cells]
    ours, theirs = ([c["log_probability"] for c in r.cells if c["variant"] == grouped] for r in found)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)  # 3e-05 as measured
    assert found[0].score(grouped, "passkey", 1024) >= 0.75
    assert found[0].score("none", "passkey", 1024) <= 0.25
    for told, options in (("cannot run", {"engine": "llama.cpp"}), ("group=4,window=64", {})):
        wanted = "self-extend:group=8,window=64" if options else "self-extend:8"
        with pytest.raises(UsageError, match=told):
            ropepatch.audit(fixture, variant=(wanted,), lengths=(256,), **options)


def test_verify_runs_it_too() -> None:
    """On the fixture transformers and the built-in decoder agree; near tokens stay, far ones change."""
    found = ropepatch.verify(
        ROOT / "fixtures" / "tiny-retriever", engine="transformers", device="cpu", self_extend=SelfExtend(4, 64)
    )
    check = next(check for check in found.checks if check.name == "self-extend")
    assert check.result == "PASSED"
    assert check.numbers["far"] > 0.05
    assert check.numbers["transformers"] < 1e-3
    broken = ropepatch.verify(
        ROOT / "fixtures" / "tiny-retriever.gguf", engine="torch", device="cpu", self_extend=SelfExtend(1, 64)
    )
    assert next(c for c in broken.checks if c.name == "self-extend").numbers["far"] < 1e-3
    assert command("verify", ROOT / "fixtures" / "tiny-retriever", "--self-extend", "four").code == 2
