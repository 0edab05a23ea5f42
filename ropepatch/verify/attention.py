"""Causal attention of the last tokens of a text on all of it, without a matrix of every query by every key."""

from __future__ import annotations

from typing import Any


def causal(q: Any, k: Any, v: Any, scale: float | None = None) -> Any:
    """Each query on the keys up to its own; the last query is the last key's.

    Args:
        q: (rows, heads, queries, head_dim).
        k: (rows, kv_heads, keys, head_dim), ``keys >= queries``; heads share them in turn.
        v: likewise.
        scale: factor on the scores; default that of ``head_dim``.

    Returns:
        (rows, heads, queries, head_dim).
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    past = int(k.shape[2] - q.shape[2])
    if past and parts_are_quicker(q):
        return _in_two(*_alike(q, k, v), past, scale).reshape(q.shape)
    if past:
        order = torch.arange(k.shape[2], device=q.device)
        return masked(q, k, v, order[None, :] <= order[past:, None], scale)
    return scaled_dot_product_attention(*_alike(q, k, v), is_causal=True, scale=scale).reshape(q.shape)


def masked(q: Any, k: Any, v: Any, allowed: Any, scale: float | None = None) -> Any:
    """Each query on the keys that ``allowed`` (queries, keys) names."""
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(*_alike(q, k, v), attn_mask=allowed, scale=scale).reshape(q.shape)


def parts_are_quicker(q: Any) -> bool:
    """Whether :func:`causal` does without a mask behind a prefix."""
    import torch

    return bool(q.device.type == "cpu" and hasattr(torch.ops.aten, _ON_CPU))


#: attention that also tells the logarithm of the sum that it divided by; public functions do not
_ON_CPU = "_scaled_dot_product_flash_attention_for_cpu"


def _in_two(q: Any, k: Any, v: Any, past: int, scale: float | None) -> Any:
    """On what all queries see, without a mask, and on their own keys: the parts weigh as their sums do.

    A mask costs half as much again as the attention itself, and the half that it hides is computed all the same.
    """
    import torch

    attend = getattr(torch.ops.aten, _ON_CPU)
    own, its_sum = attend(q, k[:, :, past:], v[:, :, past:], 0.0, True, scale=scale)
    before, their_sum = attend(q, k[:, :, :past], v[:, :, :past], 0.0, False, scale=scale)
    share = torch.sigmoid(its_sum - their_sum)
    if share.shape != q.shape[:3]:
        share = share.transpose(1, 2)
    return torch.lerp(before, own, share[..., None].to(own.dtype))


def _alike(q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
    """As many heads of keys as of queries; on a CPU none is copied: heads that share keys become a row of their own."""
    shared = q.shape[1] // k.shape[1]
    if shared == 1:
        return q, k, v
    if q.device.type != "cpu":  # kernels there are choosier about strides
        return q, k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    k, v = (x.flatten(0, 1)[:, None].expand(-1, shared, -1, -1) for x in (k, v))
    return q.unflatten(1, (-1, shared)).flatten(0, 1), k, v
