"""What is measured inside the attention: the range of its logits by distance, and whether a shift changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.verify.decoder import Decoder

#: far logits may leave the near ones' range by this share of it: the sample is of a few hundred tokens
OVERSHOOT = 0.10
#: of the scores' range; float32 products of float32 tables from exact angles
SHIFT_LIMIT = 1e-5


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest attention logit between tokens nearer than the trained context, and farther apart."""

    near: tuple[float, float]
    far: tuple[float, float]

    @property
    def overshoot(self) -> float:
        """How far the far ones leave the near ones' range, as a share of it."""
        width = max(self.near[1] - self.near[0], 1e-9)
        return max(0.0, self.far[1] - self.near[1], self.near[0] - self.far[0]) / width

    def to_json(self) -> dict[str, Any]:
        """``{"near", "far", "overshoot"}``."""
        return {"near": list(self.near), "far": list(self.far), "overshoot": self.overshoot}


def score_range(decoder: Decoder, tokens: Sequence[int], positions: Sequence[int], trained: int) -> Ranges:
    """Attention logits of the layers whose far ones leave the range most, before the softmax.

    Args:
        decoder: the model.
        tokens: ids.
        positions: theirs, ascending.
        trained: distances from here on count as far.
    """
    import torch

    at = torch.tensor(list(positions), device=decoder.device)
    distance = at[:, None] - at[None, :]
    near, far = (distance >= 0) & (distance < trained), distance >= trained
    layers: list[Ranges] = []

    def observe(layer: int, q: Any, k: Any) -> None:
        if decoder.ropes[layer].window is not None or not decoder.ropes[layer].inv_freq.size:
            return
        scores = decoder.scores(q, k)[0]
        limits = [(float(part.min()), float(part.max())) for part in (scores[:, near], scores[:, far]) if part.numel()]
        if len(limits) == 2:
            layers.append(Ranges(*limits))

    with torch.inference_mode():
        decoder.states(torch.tensor([list(tokens)]), at, observe=observe)
    if not layers:
        return Ranges((0.0, 0.0), (0.0, 0.0))
    return max(layers, key=lambda item: item.overshoot)


def shift(decoder: Decoder, tokens: Sequence[int], offset: int) -> dict[str, float]:
    """How the first layer's attention logits change when all positions are shifted, as a share of their range.

    Three times: angles computed exactly, as float32 position times float32 frequency, and with positions rounded to
    bfloat16, as a runtime that keeps position ids in the model's dtype has them (above 256 neighbours coincide).
    """
    import torch

    places = torch.arange(len(tokens), device=decoder.device)
    ids = torch.tensor([list(tokens)])
    found = {}
    before = decoder.positions_dtype
    try:
        with torch.inference_mode():
            for name, dtype in (("exact", None), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
                decoder.positions_dtype = dtype
                still, moved = (_first_scores(decoder, ids, places + by) for by in (0, offset))
                width = max(float(still.max() - still.min()), 1e-9)
                found[name] = float((still - moved).abs().max()) / width
    finally:
        decoder.positions_dtype = before
    return found


def _first_scores(decoder: Decoder, tokens: Any, positions: Any) -> Any:
    y = decoder.first_norm(decoder.embed(tokens))
    q, k, _ = decoder.queries_and_keys(y, 0, positions)
    return decoder.scores(q, k)
