"""The cells of one variant and length, in process: one pass over the haystack serves all depths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch.audit.tasks import ANSWER, BLOCK, Texts
from ropepatch.errors import InputError
from ropepatch.verify import memory, shape, weights
from ropepatch.verify.decoder import Cache, Decoder

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.profile import RopeProfile

#: tokens of a prompt that are run at once; bounds the attention matrix
CHUNK = 2048


@dataclass(frozen=True)
class Answers:
    """What came of one cell: which texts were answered, and the log-probability of each answer's tokens together."""

    hits: tuple[bool, ...]
    log_probabilities: tuple[float, ...]


class OutOfMemory(Exception):
    """A cell did not fit although the estimate said so."""


class Model:
    """One checkpoint's weights, held once, rotating as any profile says.

    Raises:
        InputError: the model has experts, which the decoder leaves out, or is of another family.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: Any) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self.sizes = shape.read(checkpoint)
        self.weights = weights.open_weights(checkpoint)
        self._first: Decoder | None = None
        probe = self.decoder(checkpoint.profile, None)
        if probe.stops_at_attention:
            raise InputError(
                "has experts, which the built-in decoder leaves out: it cannot be audited with it", where=checkpoint.ref
            )
        self.vocabulary = probe.vocabulary

    def decoder(self, profile: RopeProfile, length: int | None) -> Decoder:
        """The whole model, in a context of ``length`` tokens."""
        ropes = shape.ropes(profile, self.sizes, self.sizes.layers, length)
        made = Decoder(self.weights, self.sizes, ropes, device=self.device, dtype=self.dtype, keep=True)
        if self._first is None:
            self._first = made
        else:
            made.share(self._first)
        return made

    def estimate(self, length: int, rows: int) -> dict[str, int]:
        """Bytes that a cell takes: weights, key-value cache twice (one continues the other), attention, logits."""
        size, item = self.sizes, 4 if "32" in str(self.dtype) else 2
        held = sum(_product(self.weights.shape(name)) for name in self.weights.names()) * item
        per_token = 2 * size.layers * size.kv_heads * size.head_dim * item
        chunk = min(length, CHUNK)
        parts = {
            "weights": held,
            "keys_and_values": 2 * rows * length * per_token,
            "attention": rows * size.heads * chunk * length * item + chunk * length * 5,
            "activations": rows * chunk * 12 * size.hidden * item,
            "logits": rows * ANSWER * self.vocabulary * 12,
        }
        return {"total": sum(parts.values()), **parts}

    def rows_that_fit(self, length: int, rows: int, limit: int | None) -> int:
        """As many rows at once as ``limit`` bytes hold; 0 when not even one."""
        free = limit if limit is not None else memory.available()
        while rows and free is not None and self.estimate(length, rows)["total"] > free:
            rows //= 2
        return rows

    def answers(
        self, profile: RopeProfile, length: int, texts: Texts, depths: list[float], *, absent: bool, rows: int
    ) -> dict[float, Answers]:
        """The answers at each depth.

        Args:
            profile: how to rotate.
            length: tokens of a text.
            texts: the texts.
            depths: which depths to run.
            absent: leave the needle out.
            rows: texts to run at once; fewer are taken when memory runs out.

        Raises:
            OutOfMemory: not even a single text could be run.
        """
        import torch

        decoder = self.decoder(profile, length)
        found: dict[float, tuple[list[bool], list[float]]] = {depth: ([], []) for depth in depths}
        at, total = 0, len(texts.haystack)
        while at < total:
            part = Texts(texts.haystack[at : at + rows], texts.needle[at : at + rows], texts.starts)
            try:
                with torch.inference_mode():
                    made = _batch(decoder, part, depths, absent=absent)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows == 1:
                    raise OutOfMemory(" ".join(str(error).split())[:160]) from None
                rows = max(1, rows // 2)
                continue
            for depth, answers in made.items():
                found[depth][0].extend(answers.hits)
                found[depth][1].extend(answers.log_probabilities)
            at += rows
        return {depth: Answers(tuple(hits), tuple(numbers)) for depth, (hits, numbers) in found.items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of the process or of the device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate" in text


def _batch(decoder: Decoder, texts: Texts, depths: list[float], *, absent: bool) -> dict[float, Answers]:
    """All depths of some texts. What stands before the block is the same at every depth: it is run once."""
    import torch

    if absent:
        states = _run(decoder, torch.from_numpy(texts.haystack), 0, Cache())
        same = _scored(decoder, states, texts)
        return dict.fromkeys(depths, same)
    last = max(texts.starts[depth] for depth in depths)
    _, prefix = _prefill(decoder, torch.from_numpy(texts.haystack[:, :last]), 0, Cache())
    found = {}
    for depth in depths:
        start = texts.starts[depth]
        tokens = torch.from_numpy(texts.at(depth)[:, start:])
        found[depth] = _scored(decoder, _run(decoder, tokens, start, prefix.cut(start)), texts)
    return found


def _run(decoder: Decoder, tokens: Any, start: int, cache: Cache) -> Any:
    """States of the tokens before each of the answer's; the texts end with the answer."""
    states, _ = _prefill(decoder, tokens, start, cache)
    return states[:, -BLOCK:-1]


def _prefill(decoder: Decoder, tokens: Any, start: int, cache: Cache) -> tuple[Any, Cache]:
    """Chunk by chunk; the states of the last chunk that holds the answer, and the cache."""
    import torch

    length = int(tokens.shape[1])
    cuts = list(range(0, length, CHUNK)) or [0]
    if len(cuts) > 1 and length - cuts[-1] < BLOCK:
        cuts.pop()  # the answer's states lie in one chunk
    states: Any = None
    for at, end in zip(cuts, [*cuts[1:], length], strict=True):
        states, cache = decoder.states(tokens[:, at:end], torch.arange(start + at, start + end), cache)
    return states, cache


def _scored(decoder: Decoder, states: Any, texts: Texts) -> Answers:
    """Greedy decoding says the answer exactly when each token is the best one behind the true ones before it."""
    import torch

    wanted = torch.from_numpy(texts.needle[:, 1:]).to(states.device)
    numbers = decoder.log_probabilities(states)
    hits = (numbers.argmax(-1) == wanted).all(-1)
    sums = numbers.gather(-1, wanted[..., None])[..., 0].sum(-1)
    return Answers(tuple(map(bool, hits.tolist())), tuple(float(x) for x in sums.tolist()))


def _product(sizes: tuple[int, ...] | None) -> int:
    result = 1
    for size in sizes or (0,):
        result *= size
    return result
