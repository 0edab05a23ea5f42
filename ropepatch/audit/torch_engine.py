"""Cells in process, on the built-in decoder: what texts have in common is run once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropepatch.audit.engine import Answers, OutOfMemory
from ropepatch.audit.tasks import ANSWER, Texts
from ropepatch.errors import InputError
from ropepatch.verify import engines, memory, shape, weights
from ropepatch.verify.cache import Cache
from ropepatch.verify.decoder import Decoder
from ropepatch.verify.shape import LayerRope

if TYPE_CHECKING:
    from ropepatch.audit.variants import Variant
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.methods.base import Frequencies
    from ropepatch.profile import RopeProfile
    from ropepatch.runtime_methods import SelfExtend

#: depth, hits and log-probabilities of some texts
Scores = tuple[float, list[bool], list[float]]
#: tokens of a prompt that are run at once, by device: bounds the attention matrix, of which the upper half is wasted
CHUNK = {"cpu": 512, "cuda": 2048}


class Model:
    """One checkpoint's weights, held once, rotating in any way.

    Raises:
        InputError: the model has experts, which the decoder leaves out, or is of another family.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: Any) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self.sizes = shape.read(checkpoint)
        self.weights = weights.open_weights(checkpoint)
        self.first = self.decoder(self.ropes(checkpoint.profile, None))
        if self.first.stops_at_attention:
            raise InputError(
                "has experts, which the built-in decoder leaves out: it cannot be audited with it",
                where=checkpoint.ref,
                hint="--engine transformers or --engine llama.cpp runs it",
            )
        self.vocabulary = self.first.vocabulary

    def ropes(self, profile: RopeProfile, length: int | None) -> list[LayerRope]:
        """How the layers rotate by a profile, in a context of ``length`` tokens."""
        return shape.ropes(profile, self.sizes, self.sizes.layers, length)

    def rotating(self, frequencies: Mapping[str, Frequencies]) -> list[LayerRope]:
        """How the layers rotate when groups have these frequencies; the others keep the checkpoint's own."""
        found = []
        for rope in self.ropes(self.checkpoint.profile, None):
            new = frequencies.get(rope.group) if rope.inv_freq.size else None
            if new is not None:
                rope = dataclasses.replace(rope, inv_freq=new.inv_freq, attention_scale=float(new.attention_scale))
            found.append(rope)
        return found

    def decoder(self, ropes: list[LayerRope], how: SelfExtend | None = None) -> Decoder:
        """The whole model, attending by Self-Extend where ``how`` says so; all decoders of it share its weights."""
        options: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "keep": True}
        if how is None:
            made = Decoder(self.weights, self.sizes, ropes, **options)
        else:
            from ropepatch.verify.grouped import GroupedDecoder

            made = GroupedDecoder(self.weights, self.sizes, ropes, **options)
            made.how = how
        if hasattr(self, "first"):
            made.share(self.first)
        return made

    @property
    def held(self) -> int:
        """Bytes of the weights that have been read so far."""
        return self.first._held.taken

    def estimate(self, length: int, rows: int, *, grouped: bool = False) -> dict[str, int]:
        """Bytes that a cell takes: weights, key-value cache, attention (of Self-Extend where ``grouped``), logits."""
        size, item = self.sizes, 4 if "32" in str(self.dtype) else 2
        held = sum(_product(self.weights.shape(name)) for name in self.weights.names()) * item
        per_token = 2 * size.layers * size.kv_heads * size.head_dim * item
        chunk = min(length, CHUNK[self.device])
        parts = {
            "weights": held,
            "keys_and_values": rows * length * per_token,
            "attention": self._matrices(length, rows, chunk, item, grouped),
            "activations": rows * chunk * 12 * size.hidden * item,
            "logits": rows * ANSWER * self.vocabulary * 12,
        }
        return {"total": sum(parts.values()), **parts}

    def _matrices(self, length: int, rows: int, chunk: int, item: int, grouped: bool) -> int:
        """Bytes of masks, and of matrices of every query by every key where they are made."""
        heads, windows = self.sizes.heads, [rope.window for rope in self.first.ropes]
        if grouped:
            return 4 * rows * heads * chunk * length * 4
        if self.device == "cuda":
            return rows * heads * chunk * length * item + chunk * length * 5
        widest = max((min(length, chunk + window) for window in windows if window is not None), default=0)
        return chunk * widest * 5 + 3 * rows * heads * chunk * self.sizes.head_dim * item

    def answers(
        self, ropes: list[LayerRope], texts: Texts, rows: int, how: SelfExtend | None = None
    ) -> dict[float, Answers]:
        """Answer every question of ``texts``; see :class:`ropepatch.audit.engine.Engine`.

        Raises:
            OutOfMemory: not even a single text could be run.
        """
        decoder, chunk = self.decoder(ropes, how), CHUNK[self.device]
        return in_batches(texts, rows, lambda part: _batch(decoder, part, chunk))


class TorchEngine:
    """Variants on the built-in decoder; one set of weights a checkpoint.

    Raises:
        UsageError: torch is not installed, or there is no such device.
    """

    needs_words = False

    def __init__(self, chosen: Sequence[Variant], device: str, dtype: str) -> None:
        with engines.needs("torch", "torch"):
            import torch
        self._device, self._dtype = engines.device_of(device), getattr(torch, dtype)
        self.environment = {"engine": f"torch {torch.__version__}", "device": self._device, "dtype": dtype}
        self._models: dict[str, Model] = {}
        self.vocabulary = min(self._model(variant.checkpoint).vocabulary for variant in chosen)

    def _model(self, checkpoint: Checkpoint) -> Model:
        if checkpoint.ref not in self._models:
            self._models[checkpoint.ref] = Model(checkpoint, self._device, self._dtype)
        return self._models[checkpoint.ref]

    def estimate(self, variant: Variant, length: int, rows: int) -> dict[str, int]:
        """Of the model that the variant is of."""
        return self._model(variant.checkpoint).estimate(length, rows, grouped=variant.runtime is not None)

    def free(self) -> int | None:
        """What is available, and what the weights take already."""
        import torch

        if self._device == "cuda":
            return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_allocated())
        free = memory.available()
        return None if free is None else free + sum(model.held for model in self._models.values())

    def answers(self, variant: Variant, texts: Texts, rows: int) -> dict[float, Answers]:
        """On the decoder, rotating as the variant does in a context of the texts' length."""
        model = self._model(variant.checkpoint)
        return model.answers(model.ropes(variant.profile, texts.length), texts, rows, variant.runtime)

    def close(self) -> None:
        """Let the weights go."""
        self._models.clear()


def in_batches(texts: Texts, rows: int, run: Callable[[Texts], Iterable[Scores]]) -> dict[float, Answers]:
    """Run at most ``rows`` texts at once, and half as many whenever memory runs out.

    Raises:
        OutOfMemory: not even a single text could be run.
    """
    import torch

    found: dict[float, tuple[list[bool], list[float]]] = {depth: ([], []) for depth in texts.blocks}
    at = 0
    while at < texts.samples:
        try:
            with torch.inference_mode():
                made = list(run(texts.part(at, at + rows)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise OutOfMemory(" ".join(str(error).split())[:160]) from None
            rows = max(1, rows // 2)
            continue
        for depth, hits, numbers in made:
            found[depth][0].extend(hits)
            found[depth][1].extend(numbers)
        at += rows
    tokens = texts.samples * (texts.length - ANSWER)
    return {depth: Answers(tuple(hits), tuple(numbers), tokens) for depth, (hits, numbers) in found.items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch says so; on a CPU it has no class of its own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate" in text


def _batch(decoder: Decoder, texts: Texts, chunk: int) -> Iterator[Scores]:
    """All questions of some texts: hits and log-probabilities by depth."""
    import torch

    trunk = torch.from_numpy(texts.trunk)
    starts = texts.starts
    shared = int(trunk.shape[1]) if starts is None else max(starts[depth] for depth in texts.blocks)
    _, prefix = prefill(decoder, trunk[:, :shared], 0, Cache(room=texts.length), chunk, 0)
    # Deepest block first: each is written over what the one before wrote behind its start.
    for depth in sorted(texts.blocks, reverse=True):
        start = shared if starts is None else starts[depth]
        tokens = torch.from_numpy(texts.at(depth)[:, start:-1])
        states, _ = prefill(decoder, tokens, start, prefix.cut(start), chunk, ANSWER)
        numbers = decoder.log_probabilities(states)
        yield depth, *scored(numbers, torch.from_numpy(texts.blocks[depth][:, 1:]).to(numbers.device))


def prefill(decoder: Decoder, tokens: Any, start: int, cache: Cache, chunk: int, asked: int) -> tuple[Any, Cache]:
    """Chunk by chunk; the states of the last ``asked`` tokens, and the cache."""
    import torch

    length = int(tokens.shape[1])
    cuts = list(range(0, length, chunk)) or [0]
    if len(cuts) > 1 and length - cuts[-1] < asked:
        cuts.pop()  # the answer's states lie in one chunk
    states: Any = None
    for at, end in zip(cuts, [*cuts[1:], length], strict=True):
        few = asked if end == length else 0
        states, cache = decoder.states(tokens[:, at:end], torch.arange(start + at, start + end), cache, asked=few)
    return states, cache


def scored(numbers: Any, wanted: Any) -> tuple[list[bool], list[float]]:
    """Greedy decoding says the answer exactly when each token is the best one behind the true ones before it.

    Args:
        numbers: (rows, ANSWER, vocabulary) log-probabilities.
        wanted: (rows, ANSWER) the answers.
    """
    hits = (numbers.argmax(-1) == wanted).all(-1)
    sums = numbers.gather(-1, wanted[..., None])[..., 0].sum(-1)
    return [bool(hit) for hit in hits.tolist()], [float(value) for value in sums.tolist()]


def _product(sizes: tuple[int, ...] | None) -> int:
    result = 1
    for size in sizes or (0,):
        result *= size
    return result
