"""What is measured inside the attention: its logits at distances beyond the trained ones, and under a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.verify.decoder import Decoder

#: Far logits may leave the trained range by this share of it, on the mean over pairs of tokens: a sum of waves reaches
#: a little farther the longer it runs, even where each of them has turned many times in the trained context.
OVERSHOOT = 0.20
#: of the scores' range; float32 products of float32 tables from exact angles
SHIFT_LIMIT = 1e-5
#: pairs of a query and a key that are put at other distances, and at how many
_PAIRS, _DISTANCES = 64, 512
_SEED = 7


@dataclass(frozen=True)
class Reach:
    """Logits of the same queries and keys, put at other distances.

    Attributes:
        near: smallest and largest one at trained distances, with the base's frequencies.
        far: the same beyond them, by whose frequencies (``base``, ``patched``) they are rotated.
        overshoot: by how much the far ones leave a pair's own near range, as a share of it: mean over the pairs of a
            layer, most over layers.
        pairs: how many pairs were measured.
    """

    near: tuple[float, float]
    far: dict[str, tuple[float, float]]
    overshoot: dict[str, float]
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """``{"near", "far", "overshoot", "pairs"}``."""
        far = {name: list(limits) for name, limits in self.far.items()}
        return {"near": list(self.near), "far": far, "overshoot": self.overshoot, "pairs": self.pairs}

    @classmethod
    def of(cls, layers: Sequence[Reach]) -> Reach:
        """Several layers in one."""
        lows, highs = zip(*(layer.near for layer in layers), strict=True)
        far = {}
        for name in layers[0].far:
            low, high = zip(*(layer.far[name] for layer in layers), strict=True)
            far[name] = (min(low), max(high))
        most = {name: max(layer.overshoot[name] for layer in layers) for name in far}
        return cls((min(lows), max(highs)), far, most, sum(layer.pairs for layer in layers))


def reach(base: Decoder, patched: Decoder, tokens: Sequence[int], trained: int, length: int) -> Reach | None:
    """Attention logits before the softmax at distances below ``trained``, and from there to ``length``.

    The base reads ``tokens`` at their own, trained positions. Then the rotation of its queries and keys is replaced:
    what is in the tokens stays, only the distance and the frequencies change. The factor on cos and sin is left out.

    Args:
        base: the model as it was trained.
        patched: the same rotating as the patched one does.
        tokens: ids, not more than ``trained``.
        trained: distances from here on count as far.
        length: the new context.

    Returns:
        None where no layer attends beyond a window and rotates.
    """
    import torch

    places = torch.arange(len(tokens), device=base.device)
    near = _spread(0, trained - 1, base.device)
    far = _spread(trained, length - 1, base.device)
    draw = torch.Generator().manual_seed(_SEED)
    at, of = torch.sort(torch.randint(0, len(tokens), (2, _PAIRS), generator=draw), 0, descending=True).values
    found: list[Reach] = []

    def observe(layer: int, q: Any, k: Any) -> None:
        rope, other = base.ropes[layer], patched.ropes[layer]
        if rope.window is not None or not rope.inv_freq.size or rope.inv_freq.shape != other.inv_freq.shape:
            return
        k = k.repeat_interleave(base.shape.heads // base.shape.kv_heads, 1)
        waves = _Waves(base, layer, q[0, :, at.to(q.device)], k[0, :, of.to(k.device)], (at - of).to(q.device))
        known, inside = waves.at(near, base), {}
        low, high = known.amin(-1), known.amax(-1)
        limits: dict[str, tuple[float, float]] = {}
        for name, decoder in (("base", base), ("patched", patched)):
            beyond = waves.at(far, decoder)
            over = torch.maximum(beyond.amax(-1) - high, low - beyond.amin(-1)).clamp_min(0)
            inside[name] = float((over / (high - low).clamp_min(1e-9)).mean())
            limits[name] = (float(beyond.min()), float(beyond.max()))
        found.append(Reach((float(low.min()), float(high.max())), limits, inside, int(low.numel())))

    with torch.inference_mode():
        base.states(torch.tensor([list(tokens)]), places, observe=observe)
    return Reach.of(found) if found else None


def _spread(first: int, last: int, device: Any) -> Any:
    import torch

    return torch.linspace(first, last, min(_DISTANCES, last - first + 1), dtype=torch.float64, device=device).round()


class _Waves:
    """The logit of each pair of a query and a key as a sum of waves over their distance, in float64."""

    def __init__(self, decoder: Decoder, layer: int, q: Any, k: Any, distance: Any) -> None:
        import torch

        self.layer, self.head_dim = layer, decoder.shape.head_dim
        rope = decoder.ropes[layer]
        pairs, scale = rope.inv_freq.size, decoder.attention_scale[layer]

        def planes(x: Any) -> Any:
            turned = x[..., : 2 * pairs].double() / scale
            if rope.layout == "interleaved":
                return torch.complex(turned[..., 0::2].contiguous(), turned[..., 1::2].contiguous())
            return torch.complex(turned[..., :pairs].contiguous(), turned[..., pairs:].contiguous())

        turns = torch.outer(distance.double(), decoder.inv_freq[layer].double())
        self.amplitudes = planes(q) * planes(k).conj() * torch.polar(torch.ones_like(turns), -turns)
        self.still = (q[..., 2 * pairs :].double() * k[..., 2 * pairs :].double()).sum(-1, keepdim=True)

    def at(self, distances: Any, decoder: Decoder) -> Any:
        """Logits at ``distances`` with the frequencies of ``decoder``; (heads, pairs of tokens, distances)."""
        import torch

        angles = torch.outer(decoder.inv_freq[self.layer].double(), distances)
        waves = self.amplitudes @ torch.polar(torch.ones_like(angles), angles)
        return (waves.real + self.still) / self.head_dim**0.5


def shift(decoder: Decoder, tokens: Sequence[int], offset: int) -> dict[str, float]:
    """How the first layer's attention logits change when all positions are shifted, as a share of their range.

    Four times: angles computed exactly; as float32 position times float32 frequency; with cos and sin rounded to
    bfloat16, as a model in that type has them; and with the positions rounded to it, as a runtime that keeps position
    ids in the model's type has them (above 256 neighbours coincide).
    """
    import torch

    places = torch.arange(len(tokens), device=decoder.device)
    ids = torch.tensor([list(tokens)])
    found = {}
    before = decoder.positions_dtype, decoder.tables_dtype
    ways = (
        ("exact",            None,           None),
        ("float32",          torch.float32,  None),
        ("bfloat16_tables",  None,           torch.bfloat16),
        ("bfloat16",         torch.bfloat16, None),
    )  # fmt: skip
    try:
        with torch.inference_mode():
            y = decoder.first_norm(decoder.embed(ids))
            for name, positions, tables in ways:
                decoder.positions_dtype, decoder.tables_dtype = positions, tables
                still, moved = (_first_scores(decoder, y, places + by) for by in (0, offset))
                width = max(float(still.max() - still.min()), 1e-9)
                found[name] = float((still - moved).abs().max()) / width
    finally:
        decoder.positions_dtype, decoder.tables_dtype = before
    found["bfloat16_distinct"] = int(torch.unique((places + offset).to(torch.bfloat16)).numel())
    return found


def shift_limits(dtype: str, length: int) -> dict[str, float]:
    """What a shift may change: rounding of the products, and in float32 that of angles which grow with the position."""
    exact = SHIFT_LIMIT if dtype == "float32" else 0.05
    return {"exact": exact, "float32": exact + length * 2.0**-23}


def _first_scores(decoder: Decoder, y: Any, positions: Any) -> Any:
    q, k, _ = decoder.queries_and_keys(y, 0, positions)
    return decoder.scores(q, k)
