"""The built-in decoder attending by Self-Extend."""

from __future__ import annotations

from typing import Any

from ropepatch.runtime_methods import SelfExtend, attend
from ropepatch.verify.decoder import Decoder


class GroupedDecoder(Decoder):
    """A decoder whose layers without a window attend by Self-Extend; ``how`` says with which numbers."""

    how: SelfExtend
    _layer = 0

    def queries_and_keys(self, y: Any, layer: int, positions: Any) -> tuple[Any, Any, Any]:
        """As the decoder makes them; remembers the layer, whose frequencies the attention needs."""
        self._layer = layer
        return super().queries_and_keys(y, layer, positions)

    def _attention(self, q: Any, k: Any, v: Any, at: Any, of: Any, window: int | None) -> Any:
        inv_freq = self.inv_freq[self._layer]
        if window is not None or not inv_freq.shape[0]:
            return super()._attention(q, k, v, at, of, window)
        shared = self.shape.heads // self.shape.kv_heads
        if shared > 1:
            k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
        layout, scale = self.ropes[self._layer].layout, float(self.shape.head_dim) ** -0.5
        return attend(q, k, v, at, of, self.how, inv_freq, scale, layout=layout)
