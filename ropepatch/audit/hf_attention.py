"""What transformers' attention need not compute when a text is run in chunks behind a cache.

Registered through transformers' own attention interface. Everything that is no plain causal attention (windows, biases,
caps, sinks) is handed on to its function for ``sdpa``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ropepatch.verify import attention

_NAME = "ropepatch_chunks"
_CAUSAL_ONLY = ("position_bias", "softcap", "s_aux", "cache")


class Enough(Exception):
    """The last layer has its keys and values: what the forward pass would still compute nobody reads."""


@dataclass
class Chunks:
    """What the attention of one model has to know.

    Attributes:
        unread: nobody reads what comes of the tokens that are run: the pass ends by :class:`Enough` as soon as the last
            layer's keys and values are in the cache.
        last: the mask that was looked at last, and whether it is the plain causal one.
    """

    unread: bool = False
    last: tuple[Any, bool] = (None, False)

    def plain(self, mask: Any, queries: int) -> bool:
        """Whether a mask hides from the last ``queries`` tokens only what stands behind them."""
        import torch

        if mask is not self.last[0]:
            order = torch.arange(mask.shape[-1], device=mask.device)
            causal = order[None, :] <= order[mask.shape[-1] - queries :, None]
            alike = mask.dtype == torch.bool and mask.shape[-2] == queries and all(
                torch.equal(row[0], causal) for row in (mask[:1] if mask.stride(0) == 0 else mask)
            ) and mask.shape[1] == 1  # fmt: skip
            self.last = (mask, alike)
        return self.last[1]


def quicken(model: Any) -> Chunks:
    """Let a loaded model that attends by ``sdpa`` on a CPU leave out what is not needed; others stay as they are."""
    found = Chunks()
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or model.device.type != "cpu":
        return found
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _interface)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    last = re.compile(rf"(^|\.)(layers|h)\.{config.num_hidden_layers - 1}\.")
    for name, module in model.named_modules():
        if hasattr(module, "layer_idx"):
            # A module that several layers share goes by the name of the first, and is none of the last layer.
            module._chunks = (found, bool(last.search(name)))
    model.set_attn_implementation(_NAME)
    return found


def _interface(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, Any]:
    """What transformers calls in place of its own attention: (rows, queries, heads, head_dim).

    Raises:
        Enough: it is the last layer's, and nobody reads what it would give.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    chunks, last = getattr(module, "_chunks", (None, False))
    queries = int(query.shape[2])
    if chunks is not None and last and chunks.unread:
        raise Enough
    if (
        chunks is not None
        and attention_mask is not None
        and not any(more.get(name) is not None for name in _CAUSAL_ONLY)
        and not more.get("dropout")
        and query.shape[-1] == value.shape[-1]
        and attention.parts_are_quicker(query)
        and chunks.plain(attention_mask, queries)
    ):
        return attention.causal(query, key, value, scaling).transpose(1, 2).contiguous(), None
    out, weights = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    return out, weights
