"""Token-level retrieval: blocks "key value value value" in filler, and a key at the end. No tokenizer is needed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
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
    "needle": "one block, and 4 with other keys",
    "multikey": "one block, and 11 with other keys",
    "absent": "a control: 4 blocks, and a key that is not there is asked for; its values must not be said",
}
#: tasks whose blocks stand in one text, and are all asked for
ASKED_TOGETHER = ("needle", "multikey")
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pools:
    """Token ids by what they are for.

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


@dataclass(frozen=True)
class Alphabet(Pools):
    """The pools of an audit: they do not overlap, and are large enough for every task."""

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
    def drawn(cls, vocabulary: int, bos: int | None, seed: int = 0, among: Sequence[int] | None = None) -> Alphabet:
        """Pools drawn from the middle of a vocabulary, where its ordinary words are, or from ``among``.

        Raises:
            UsageError: it is too small for that.
        """
        first, last = vocabulary // 16, vocabulary - vocabulary // 16
        pool = np.arange(first, last) if among is None else np.array([i for i in among if i < vocabulary], np.int64)
        ids = np.random.default_rng(seed).permutation(pool)[:512]
        if ids.size < 128:
            raise UsageError(
                f"a vocabulary of {vocabulary} tokens needs an --alphabet",
                hint="which ids to use, for example bos=0,filler=1-40,key=41-72,value=73-136",
            )
        part = ids.size // 4
        pools = [tuple(int(i) for i in ids[a : a + part]) for a in (0, part, 2 * part)]
        return cls(bos, *pools)

    def to_json(self) -> Mapping[str, object]:
        """Plain JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Texts:
    """Texts that have everything up to their questions in common, and one question for each depth.

    Attributes:
        trunk: (samples, length - BLOCK) filler and blocks.
        blocks: by depth, (samples, BLOCK): the key that is asked at the end of the text, and the values to be said.
        starts: by depth, where its block replaces filler, for its question only; None where the trunk is the same for
            all questions.
    """

    trunk: IntArray
    blocks: Mapping[float, IntArray]
    starts: Mapping[float, int] | None = None

    @property
    def length(self) -> int:
        """Tokens of a text with its question and answer."""
        return int(self.trunk.shape[1]) + BLOCK

    @property
    def samples(self) -> int:
        """How many texts there are."""
        return int(self.trunk.shape[0])

    def part(self, first: int, last: int) -> Texts:
        """Some of the texts."""
        blocks = {depth: block[first:last] for depth, block in self.blocks.items()}
        return Texts(self.trunk[first:last], blocks, self.starts)

    def only(self, depths: Collection[float]) -> Texts:
        """Some of the questions."""
        return Texts(self.trunk, {depth: block for depth, block in self.blocks.items() if depth in depths}, self.starts)

    def at(self, depth: float) -> IntArray:
        """The texts of a depth, question and answer at the end; (samples, length)."""
        tokens = np.concatenate((self.trunk, self.blocks[depth]), 1)
        if self.starts is not None:
            start = self.starts[depth]
            tokens[:, start : start + BLOCK] = self.blocks[depth]
        return tokens


def start_of(depth: float, length: int) -> int:
    """Where the block begins: depth 0 right behind the first token, depth 1 touching the query."""
    return 1 + round(depth * (length - 1 - 2 * BLOCK))


def texts(
    alphabet: Alphabet, task: str, length: int, depths: Sequence[float], samples: int, seed: int
) -> tuple[Texts, ...]:
    """Draw the texts of a task at a length. All values of a text differ, so that a value says which block it is of.

    Where a task has several blocks, they stand at the depths that are asked about, and at random places beyond those:
    each is the needle of its own question and a distractor in the others', and the text before the question is the
    same. Depths that have no place in one text are asked in further ones. ``absent`` has the distractors of ``needle``
    and asks for blocks that are not there: what it scores is guessing.

    Raises:
        UsageError: the length has no room for the blocks.
    """
    groups = _groups(depths, length, 1 + DISTRACTORS[task]) if task in ASKED_TOGETHER else [list(depths)]
    order = list(TASKS).index(task)
    return tuple(
        _drawn(alphabet, task, length, group, samples, np.random.default_rng((seed, length, order, index)))
        for index, group in enumerate(groups)
    )


def _groups(depths: Sequence[float], length: int, most: int) -> list[list[float]]:
    """Depths dealt to as few texts as hold them, blocks apart; neighbours go to different texts."""
    for count in range(-(-len(depths) // most), len(depths) + 1):
        groups = [sorted(depths)[index::count] for index in range(count)]
        if all(
            start_of(b, length) - start_of(a, length) >= BLOCK for group in groups for a, b in itertools.pairwise(group)
        ):
            return groups
    raise UsageError(f"{length} tokens have no room for {len(depths)} depths")


def _drawn(
    alphabet: Alphabet, task: str, length: int, depths: list[float], samples: int, draw: np.random.Generator
) -> Texts:
    starts = {depth: start_of(depth, length) for depth in depths}
    inside = list(starts.values()) if task in ASKED_TOGETHER else []
    count = DISTRACTORS[task] + bool(inside)
    trunk = draw.choice(alphabet.filler, (samples, length - BLOCK)).astype(np.int64)
    if alphabet.bos is not None:
        trunk[:, 0] = alphabet.bos
    blocks = {depth: np.empty((samples, BLOCK), np.int64) for depth in depths}
    for row in range(samples):
        pool = _pool(alphabet, draw)
        places = [*inside, *_free_places(draw, length, count - len(inside), inside)]
        for start, block in zip(places, pool[:count], strict=True):
            trunk[row, start : start + BLOCK] = block
        asked, each = (pool, 1) if inside else (pool[count:], int(task == "absent"))
        for index, depth in enumerate(depths):
            blocks[depth][row] = asked[each * index % len(asked)]
    return Texts(trunk, blocks, starts if task == "passkey" else None)


def _pool(alphabet: Alphabet, draw: np.random.Generator) -> IntArray:
    """Blocks without a key or a value in common; (blocks, BLOCK)."""
    most = min(len(alphabet.key), len(alphabet.value) // ANSWER)
    keys = draw.permutation(alphabet.key)[:most, None]
    values = draw.permutation(alphabet.value)[: most * ANSWER].reshape(most, ANSWER)
    return np.concatenate((keys, values), 1).astype(np.int64)


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
