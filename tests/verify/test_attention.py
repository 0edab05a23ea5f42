"""Causal attention behind a cache, in two parts, against a mask."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from ropepatch.verify import attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "heads", "kv_heads", "queries", "keys"), [
    (1, 2, 2, 1, 40), (3, 4, 2, 7, 50), (2, 6, 1, 33, 300), (2, 8, 8, 5, 5), (3, 1, 1, 3, 70),
])  # fmt: skip
def test_two_parts_are_the_whole(
    dtype: torch.dtype, rows: int, heads: int, kv_heads: int, queries: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of queries at the end of any number of keys, and heads that share them, come to softmax by hand."""
    draw = torch.Generator().manual_seed(keys)
    q, k, v = (
        torch.randn(rows, count, length, 16, generator=draw).to(dtype)
        for count, length in ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    )
    every = (x.double().repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    by_hand = _softmax(q.double(), *every, keys - queries)
    limit = 1e-5 if dtype == torch.float32 else 0.01  # bfloat16 has 8 bits

    torch.testing.assert_close(attention.causal(q, k, v).double(), by_hand, atol=limit, rtol=limit)
    monkeypatch.setattr(attention, "_ON_CPU", "no_such_function")
    torch.testing.assert_close(attention.causal(q, k, v).double(), by_hand, atol=limit, rtol=limit)


def _softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, past: int) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(past + 1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
