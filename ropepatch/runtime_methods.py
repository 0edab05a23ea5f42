"""Methods that no file can hold: they change how attention is computed, in a model that is loaded.

Self-Extend (arXiv 2401.01325): a query sees the keys of its neighbourhood at their true distance, and those beyond it
at a distance that is divided by the group; both kinds of score go through one softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ropepatch.errors import UsageError

#: model types whose attention goes through transformers' interface, rotates pairs in halves, and is held against the
#: plain formula
HF_TYPES = ("llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
#: rope types whose frequencies change with the length, so that a cached key cannot be turned to another position
_CHANGING = ("dynamic", "longrope")
_NAME = "ropepatch_self_extend"
#: queries that are run at once: bounds the two matrices of scores
_QUERIES = 512


@dataclass(frozen=True)
class SelfExtend:
    """What Self-Extend is set to.

    Attributes:
        group: positions that share one position beyond the window.
        window: tokens nearer than this keep their distance.

    Raises:
        UsageError: a number is impossible.
    """

    group: int
    window: int

    def __post_init__(self) -> None:
        for name, value in (("group", self.group), ("window", self.window)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
                raise UsageError(f"self-extend's {name} must be a whole number of at least 1, not {value!r}")

    def reach(self, trained: int) -> int:
        """The longest context whose distances stay below ``trained`` tokens: ``(T - W) G + W``."""
        return max(trained, (trained - self.window) * self.group + self.window)

    def queries(self, positions: Any) -> Any:
        """Where queries stand for the keys beyond the window: ``⌊p/G⌋ + W - ⌊W/G⌋`` (eq. 4 of the paper)."""
        return positions // self.group + self.window - self.window // self.group

    def keys(self, positions: Any) -> Any:
        """Where keys stand beyond the window: ``⌊p/G⌋``."""
        return positions // self.group


def advised(trained: int, length: int) -> SelfExtend:
    """A window of a quarter of the trained context, and the smallest group that keeps distances below two thirds of it.

    The authors' rule: ``W + (N - W)/G`` below half to two thirds of the trained context.
    """
    window = max(1, trained // 4)
    room = max(1.0, 2 * trained / 3 - window)
    return SelfExtend(max(1, math.ceil((length - window) / room)), window)


# ---- the formula, on keys and queries that are rotated already -------------------------------------------------------


def turned(x: Any, by: Any, inv_freq: Any, layout: str = "half") -> Any:
    """Rotated vectors, rotated on: rotations add up, whatever factor they carry.

    Args:
        x: (rows, heads, length, head_dim).
        by: positions to go on by, negative for back; (length,) or (rows, length).
        inv_freq: radians per position, (pairs,).
        layout: ``half`` or ``interleaved``.
    """
    import torch

    by = by if by.ndim == 2 else by[None]
    angles = by[:, None, :, None].double() * inv_freq.to(by.device).double()
    cos, sin = (f(angles).to(torch.float32) for f in (torch.cos, torch.sin))
    pairs = int(inv_freq.shape[0])
    part, rest = x[..., : 2 * pairs].float(), x[..., 2 * pairs :]
    if layout == "interleaved":
        a, b = part[..., 0::2], part[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = part[..., :pairs], part[..., pairs:]
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((out.to(x.dtype), rest), -1)


def attend(
    q: Any, k: Any, v: Any, at: Any, of: Any, how: SelfExtend, inv_freq: Any, scale: float,
    *, layout: str = "half", mask: Any = None,
) -> Any:  # fmt: skip
    """Self-Extend's attention.

    Args:
        q: queries rotated to their positions, (rows, heads, queries, head_dim).
        k: keys rotated to theirs, (rows, heads, keys, head_dim).
        v: values, (rows, heads, keys, head_dim).
        at: the queries' positions, (queries,) or (rows, queries).
        of: the keys' positions, (keys,) or (rows, keys).
        how: group and window.
        inv_freq: what they are rotated by, (pairs,).
        scale: factor on the scores.
        layout: how pairs lie.
        mask: added to the scores, (rows or 1, 1, queries, keys); None is causal.

    Returns:
        (rows, heads, queries, head_dim).
    """
    import torch

    at, of = (x if x.ndim == 2 else x[None] for x in (at, of))
    far_k = turned(k, how.keys(of) - of, inv_freq, layout)
    parts = []
    for a, b in _spans(int(q.shape[2])):
        here = at[:, a:b]
        far_q = turned(q[:, :, a:b], how.queries(here) - here, inv_freq, layout)
        distance = (here[:, :, None] - of[:, None, :])[:, None]
        near = q[:, :, a:b] @ k.transpose(-1, -2)
        scores = torch.where(distance < how.window, near, far_q @ far_k.transpose(-1, -2)).float() * scale
        if mask is None:
            scores = scores.masked_fill(distance < 0, -math.inf)
        else:
            scores = scores + mask[:, :, a:b, : k.shape[2]]
        parts.append(torch.softmax(scores, -1).to(v.dtype) @ v)
    return torch.cat(parts, 2)


def _spans(length: int) -> Iterator[tuple[int, int]]:
    for a in range(0, length, _QUERIES):
        yield a, min(a + _QUERIES, length)


# ---- transformers ----------------------------------------------------------------------------------------------------


class Switched:
    """A model that attends by Self-Extend; as a context manager, only inside the block.

    Attributes:
        model: the model.
        how: group and window.
    """

    def __init__(self, model: Any, how: SelfExtend, before: str) -> None:
        self.model, self.how, self._before = model, how, before

    def restore(self) -> None:
        """Let the model attend as it did before."""
        self.model.set_attn_implementation(self._before)
        for module in _attentions(self.model):
            module.__dict__.pop("_self_extend", None)

    def __enter__(self) -> Switched:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def self_extend(model: Any, *, group: int, window: int) -> Switched:
    """Let a loaded transformers model attend by Self-Extend, through its attention interface.

    Nothing is written and no weight changes. ``generate`` works as before, with its cache: keys are kept at their true
    positions and turned on when they are read. Layers with a sliding window stay as they are. Scores are kept as whole
    matrices of up to 512 queries: this is for measuring, not for serving.

    Args:
        model: a causal language model of transformers 5, of a type in ``HF_TYPES``.
        group: positions that share one position beyond the window; 1 changes nothing.
        window: tokens nearer than this keep their distance.

    Returns:
        What undoes it: ``restore()``, or a ``with`` block.

    Raises:
        UsageError: the model's type, or its scaling, cannot be switched; or a number is impossible.
    """
    how = SelfExtend(group, window)
    config = model.config.get_text_config()
    if config.model_type not in HF_TYPES:
        raise UsageError(f"self_extend knows {', '.join(HF_TYPES)}, not {config.model_type}")
    rotary = next((m for _, m in model.named_modules() if hasattr(m, "inv_freq") and hasattr(m, "rope_type")), None)
    if rotary is None or rotary.rope_type in _CHANGING:
        kind = "no rotary module" if rotary is None else f"rope type {rotary.rope_type}, whose frequencies change"
        raise UsageError(f"self_extend cannot turn this model's keys: {kind}")
    _register()
    before = config._attn_implementation
    for module in _attentions(model):
        module._self_extend = (how, rotary.inv_freq)
    model.set_attn_implementation(_NAME)
    if before == _NAME:
        before = "sdpa"  # it was switched already; the settings are the new ones
    return Switched(model, how, before)


def _attentions(model: Any) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(module, "q_proj") or hasattr(module, "qkv_proj"):
            yield module


def _register() -> None:
    from ropepatch.verify.engines import needs

    with needs("transformers", "transformers"):
        from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_NAME, _interface)
    AttentionMaskInterface.register(_NAME, eager_mask)


def _interface(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """What transformers calls in place of its own attention: (rows, queries, heads, head_dim)."""
    import torch

    how, inv_freq = module._self_extend
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = (x.repeat_interleave(shared, 1) for x in (key, value))
    positions = more.get("position_ids")
    keys, queries = int(key.shape[2]), int(query.shape[2])
    if positions is None:
        positions = torch.arange(keys - queries, keys, device=query.device)[None]
    of = positions[:, -1:] - torch.arange(keys - 1, -1, -1, device=query.device)
    if getattr(module, "sliding_window", None):
        how = SelfExtend(1, how.window)
    scale = scaling if scaling is not None else float(query.shape[-1]) ** -0.5
    out = attend(query, key, value, positions, of, how, inv_freq, scale, mask=attention_mask)
    return out.transpose(1, 2).contiguous(), None
