"""What a length costs: key-value cache, weights, prefill work, cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ropepatch.errors import UsageError
from ropepatch.planner.gpus import CARDS, GPUS, USABLE
from ropepatch.planner.layers import Layer
from ropepatch.planner.shape import ModelShape

#: bytes an element of the cache takes: half floats, and ggml's blocks of 32 with one half float of scale each
CACHE_TYPES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
MAX_BATCH = 1 << 20


@dataclass(frozen=True)
class Fit:
    """A kind of card.

    Attributes:
        name: the card.
        memory_bytes: what one has.
        cards: the fewest of 1, 2, 4 and 8 that hold the weights and one sequence in f16; None when 8 do not.
        sequences: how many sequences fit on that many cards, else on 8, by cache type.
    """

    name: str
    memory_bytes: int
    cards: int | None
    sequences: Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """What a length costs.

    Attributes:
        length: tokens of one sequence.
        batch: sequences at once.
        kv_elements: cached elements of one sequence.
        kv_bytes: the cache of one sequence, by cache type.
        kv_batch_bytes: the cache of the batch.
        kv_bytes_before: the cache of one sequence at the starting context, None where that is unknown.
        full_layers: layers whose cache grows with the length.
        sliding_layers: layers whose cache stops at a window.
        other_layers: layers that keep nothing that grows, or share another's cache.
        latent: whether it is a latent cache.
        weight_bytes: the weights; None where unknown.
        weight_source: what says so.
        parameters: all weights.
        active_parameters: weights that a token passes through, without embeddings.
        prefill_flops: operations for reading one sequence.
        attention_share: the part of it that is attention over the length.
        prefill_growth: prefill against the starting context.
        gpus: the cards; empty where the weights are unknown.
        notes: what was assumed.
    """

    length: int
    batch: int
    kv_elements: int
    kv_bytes: Mapping[str, int]
    kv_batch_bytes: Mapping[str, int]
    kv_bytes_before: Mapping[str, int] | None
    full_layers: int
    sliding_layers: int
    other_layers: int
    latent: bool
    weight_bytes: int | None
    weight_source: str
    parameters: int | None
    active_parameters: int | None
    prefill_flops: int | None
    attention_share: float | None
    prefill_growth: float | None
    gpus: tuple[Fit, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "gpus": [asdict(fit) for fit in self.gpus], "notes": list(self.notes)}


def cost(shape: ModelShape, length: int, before: int | None = None, batch: int = 1) -> Cost:
    """What ``length`` tokens cost on a model of ``shape``.

    Args:
        shape: the model's size.
        length: tokens of one sequence.
        before: the context that growth is counted from.
        batch: sequences at once.

    Raises:
        UsageError: the batch is not a number of sequences.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise UsageError(f"a batch is 1 to {MAX_BATCH} sequences, not {batch}")
    kv = kv_bytes(shape, length)
    flops = prefill_flops(shape, length)
    growth = None
    if flops is not None and before and (start := prefill_flops(shape, before)):
        growth = flops / start
    growing = [layer for layer in shape.layers if layer.cached]
    sliding = sum(layer.window is not None for layer in growing)
    return Cost(
        length=length,
        batch=batch,
        kv_elements=sum(layer.cached * _kept(layer, length) for layer in growing),
        kv_bytes=kv,
        kv_batch_bytes={kind: batch * size for kind, size in kv.items()},
        kv_bytes_before=kv_bytes(shape, before) if before else None,
        full_layers=len(growing) - sliding,
        sliding_layers=sliding,
        other_layers=len(shape.layers) - len(growing),
        latent=shape.latent,
        weight_bytes=shape.weight_bytes,
        weight_source=shape.weight_source,
        parameters=shape.parameters,
        active_parameters=shape.active,
        prefill_flops=flops,
        attention_share=attention_flops(shape, length) / flops if flops else None,
        prefill_growth=growth,
        gpus=fits(shape, kv),
        notes=(*shape.notes, *_notes(shape)),
    )


def _notes(shape: ModelShape) -> list[str]:
    notes = []
    if shape.latent:
        notes.append(
            "a latent cache is what vLLM, SGLang and llama.cpp keep; transformers keeps every head's keys and values"
        )
    if any(layer.window for layer in shape.layers if layer.cached):
        notes.append("sliding layers are counted up to their window; an engine that keeps all of them needs more")
    return notes


def _kept(layer: Layer, length: int) -> int:
    return min(length, layer.window) if layer.window else length


def kv_bytes(shape: ModelShape, length: int) -> dict[str, int]:
    """``Σ over layers: cached elements · min(L, window) · bytes``, by cache type."""
    elements = sum(layer.cached * _kept(layer, length) for layer in shape.layers)
    return {kind: round(elements * each) for kind, each in CACHE_TYPES.items()}


def attention_flops(shape: ModelShape, length: int) -> int:
    """``Σ over layers: 2 heads (d_k + d_v) · pairs of query and key`` under a causal mask, windows respected."""
    total = 0
    for layer in shape.layers:
        near = min(length, layer.window or length)
        pairs = near * (near + 1) // 2 + (length - near) * near
        total += 2 * layer.work * pairs
    return total


def prefill_flops(shape: ModelShape, length: int) -> int | None:
    """``2 · active weights · L`` and attention; None where the weights are not known."""
    if shape.active is None:
        return None
    return 2 * shape.active * length + attention_flops(shape, length)


def fits(shape: ModelShape, kv: Mapping[str, int]) -> tuple[Fit, ...]:
    """Every card of the table with what fits on it; weights and cache are split evenly, heads only whole."""
    if shape.weight_bytes is None:
        return ()
    shards = min((layer.shards for layer in shape.layers if layer.cached), default=1)
    found = []
    for gpu in GPUS:
        memory = gpu.mib << 20
        by_cards = {n: _sequences(memory, n, shape.weight_bytes, kv, shards) for n in CARDS}
        cards = next((n for n, held in by_cards.items() if held["f16"]), None)
        found.append(Fit(gpu.name, memory, cards, by_cards[cards or CARDS[-1]]))
    return tuple(found)


def _sequences(memory: int, cards: int, weights: int, kv: Mapping[str, int], shards: int) -> dict[str, int]:
    free = USABLE * memory - weights / cards
    split = min(cards, shards)
    return {kind: max(0, int(free * split / size)) if size else 0 for kind, size in kv.items()}
