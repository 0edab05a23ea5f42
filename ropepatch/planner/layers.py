"""What each layer of a model keeps and computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.errors import InputError

#: more layers than any model has; beyond it a file is broken or hostile
MAX_LAYERS = 1 << 12


@dataclass(frozen=True)
class Layer:
    """What one layer keeps and computes.

    Attributes:
        cached: elements kept a token; 0 where nothing grows with the length.
        window: the sliding window in tokens, None for full attention.
        shards: over how many cards the cache can be split: the key-value heads, 1 for a latent cache.
        work: multiply-adds a pair of query and key: ``heads (d_k + d_v)``.
    """

    cached: int
    window: int | None
    shards: int
    work: int


def of_kinds(facts: Mapping[str, Any], kinds: Sequence[str], window: int | None, where: str) -> tuple[Layer, ...]:
    """One :class:`Layer` for each entry of ``kinds``: ``full``, ``sliding`` or ``none``.

    Raises:
        InputError: heads or widths are missing.
    """
    heads, hidden = facts.get("heads"), facts.get("hidden")
    if not kinds or not heads or len(kinds) > MAX_LAYERS:
        raise InputError("does not say how many layers and heads there are", where=where)
    last = len(kinds) - facts.get("kv_shared", 0)  # later layers use the cache of an earlier one
    found = []
    for index, kind in enumerate(kinds):
        own = _at(heads, index) or 0
        kv = _at(facts.get("kv_heads", heads), index)
        key = facts.get("head_dim") or (hidden // own if hidden and own else 0)
        if kind == "full":
            key, kv = facts.get("global_head") or key, facts.get("global_kv") or kv
        value = facts.get("v_head_dim") or key
        if facts.get("global_head"):
            value = key
        cached = kv * (key + value)
        if latent := facts.get("latent"):
            rope = facts.get("rope_dim", 0)
            key, kv, cached = facts.get("nope_dim", 0) + rope, 1, latent + rope
        if not key:
            raise InputError("says neither head_dim nor hidden_size", where=where)
        grows = kind != "none" and kv > 0
        found.append(
            Layer(
                cached if grows and index < last else 0,
                window if kind == "sliding" else None,
                max(kv, 1),
                own * (key + value) if grows else 0,
            )
        )
    return tuple(found)


def _at(value: Any, index: int) -> int:
    """The entry for a layer, of a number that holds for all or a list."""
    if isinstance(value, list):
        return int(value[index]) if index < len(value) else 0
    return int(value)
