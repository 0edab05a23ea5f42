"""Token-level retrieval: blocks "key value value value" in filler, and a key at the end. No tokenizer is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ropepatch.errors import UsageError

ANSWER = 3
BLOCK = 1 + ANSWER
#: blocks with other keys that stand in the filler
DISTRACTORS = {"passkey": 0, "needle": 4, "multikey": 11, "absent": 4}
TASKS = {
    "passkey": "one block in plain filler",
    "needle": "one block among 4 with other keys",
    "multikey": "one block among 11 with other keys",
    "absent": "the control: the block is not there, its values must not be said",
}
#: the shortest context that all of a task's blocks fit into with filler between them
SHORTEST = 8 * BLOCK * (1 + max(DISTRACTORS.values())) // 4
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Alphabet:
    """Token ids by what they are for; the pools do not overlap.

    Attributes:
        bos: the first token of every text, None for none.
        filler: what the haystack is of.
        key: what blocks begin with.
        value: what is to be found.
    """

    bos: int | None
    filler: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]

    def __post_init__(self) -> None:
        most = 1 + max(DISTRACTORS.values())
        if not self.filler or len(self.key) < most or len(self.value) < ANSWER * most:
            raise UsageError(f"an alphabet needs a filler, {most} keys and {ANSWER * most} values")
        pools = [*self.filler, *self.key, *self.value]
        if len(set(pools)) != len(pools):
            raise UsageError("an alphabet's filler, key and value overlap")

    @classmethod
    def parse(cls, text: str, vocabulary: int) -> Alphabet:
        """``bos=0,filler=1-40,key=41-72,value=73-136``.

        Raises:
            UsageError: it is written otherwise, or names tokens that there are not.
        """
        ranges: dict[str, tuple[int, ...]] = {}
        for part in text.split(","):
            name, sign, span = part.partition("=")
            first, _, last = span.partition("-")
            try:
                ids = tuple(range(int(first), int(last or first) + 1))
            except ValueError:
                ids = ()
            if not sign or name not in ("bos", "filler", "key", "value") or not ids or ids[-1] >= vocabulary:
                raise UsageError(
                    f"the alphabet's {part!r:.40} is no part of bos=0,filler=1-40,key=41-72,value=73-136",
                    hint=f"ids run from 0 to {vocabulary - 1}",
                )
            ranges[name] = ids
        if missing := {"filler", "key", "value"} - set(ranges):
            raise UsageError(f"the alphabet has no {', '.join(sorted(missing))}")
        return cls(ranges["bos"][0] if "bos" in ranges else None, ranges["filler"], ranges["key"], ranges["value"])

    @classmethod
    def drawn(cls, vocabulary: int, bos: int | None, seed: int = 0) -> Alphabet:
        """Pools drawn from the middle of a vocabulary, where its ordinary words are.

        Raises:
            UsageError: it is too small for that.
        """
        first, last = vocabulary // 16, vocabulary - vocabulary // 16
        ids = np.random.default_rng(seed).permutation(np.arange(first, last))[:512]
        if ids.size < 128:
            raise UsageError(f"a vocabulary of {vocabulary} tokens needs an --alphabet")
        part = ids.size // 4
        pools = [tuple(int(i) for i in ids[a : a + part]) for a in (0, part, 2 * part)]
        return cls(bos, *pools)

    def to_json(self) -> Mapping[str, object]:
        """Plain JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Texts:
    """The texts of one length, all depths: ``rows`` samples each.

    Attributes:
        haystack: (samples, length) filler, distractors and the asked key at the end, followed by its values.
        needle: (samples, BLOCK) the block to be put in.
        starts: where it goes, by depth.
    """

    haystack: IntArray
    needle: IntArray
    starts: Mapping[float, int]

    def at(self, depth: float, *, absent: bool = False) -> IntArray:
        """The texts with the block at a depth; (samples, length)."""
        tokens = self.haystack.copy()
        if not absent:
            start = self.starts[depth]
            tokens[:, start : start + BLOCK] = self.needle
        return tokens


def start_of(depth: float, length: int) -> int:
    """Where the block begins: depth 0 right behind the first token, depth 1 touching the query."""
    return 1 + round(depth * (length - 1 - 2 * BLOCK))


def texts(alphabet: Alphabet, task: str, length: int, depths: tuple[float, ...], samples: int, seed: int) -> Texts:
    """Draw the texts of a task at a length. All values of a text differ, so that a value says which block it is of.

    ``absent`` has the texts of ``needle``, without the needle: what it scores is guessing.
    """
    drawn = "needle" if task == "absent" else task
    draw = np.random.default_rng((seed, length, sorted(DISTRACTORS).index(drawn)))
    starts = {depth: start_of(depth, length) for depth in depths}
    count = DISTRACTORS[task]
    haystack = draw.choice(alphabet.filler, (samples, length)).astype(np.int64)
    if alphabet.bos is not None:
        haystack[:, 0] = alphabet.bos
    needle = np.empty((samples, BLOCK), np.int64)
    for row in range(samples):
        keys = draw.permutation(alphabet.key)[: count + 1]
        values = draw.permutation(alphabet.value)[: (count + 1) * ANSWER].reshape(count + 1, ANSWER)
        blocks = np.concatenate((keys[:, None], values), 1)
        needle[row] = blocks[0]
        for block, start in zip(blocks[1:], _free_places(draw, length, count, list(starts.values())), strict=True):
            haystack[row, start : start + BLOCK] = block
    haystack[:, -BLOCK:] = needle
    return Texts(haystack, needle, starts)


def _free_places(draw: np.random.Generator, length: int, count: int, taken: list[int]) -> list[int]:
    """Starts of ``count`` blocks that touch neither each other, nor any depth's block, nor the query."""
    if not count:
        return []
    slots = [
        start for start in range(1, length - 2 * BLOCK, BLOCK) if all(abs(start - other) >= BLOCK for other in taken)
    ]
    if len(slots) < count:
        raise UsageError(f"{length} tokens have no room for {count} blocks beside {len(taken)} depths")
    return sorted(int(start) for start in draw.permutation(slots)[:count])
