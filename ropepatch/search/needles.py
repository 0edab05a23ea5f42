"""The needles that candidates are scored by: drawn otherwise than those that the result is measured with."""

from __future__ import annotations

import dataclasses

import numpy as np

from ropepatch.audit.tasks import ANSWER, BLOCK, Alphabet, IntArray, Pools, start_of
from ropepatch.errors import UsageError

#: the share of keys and values that training needles are drawn from; held-out needles are drawn from the rest
_SHARE = 3 / 8
#: what the audit's tasks need of what is left
_KEYS, _VALUES = 12, 12 * ANSWER
#: blocks with other keys, as far as the pools have them
OTHERS = 7
_STREAM = 7919  # apart from the audit's random numbers


def divided(alphabet: Alphabet) -> tuple[Pools, Alphabet]:
    """Keys and values to train with, few as they are, and others for what is measured afterwards; one filler.

    Raises:
        UsageError: there are too few.
    """
    keys = min(round(len(alphabet.key) * _SHARE), len(alphabet.key) - _KEYS)
    values = min(round(len(alphabet.value) * _SHARE), len(alphabet.value) - _VALUES)
    if keys < 1 or values < ANSWER:
        raise UsageError(
            f"the search needs {_KEYS + 1} keys and {_VALUES + ANSWER} values, a part of them to train with: "
            f"the alphabet has {len(alphabet.key)} and {len(alphabet.value)}"
        )
    training = Pools(alphabet.bos, alphabet.filler, alphabet.key[:keys], alphabet.value[:values])
    return training, dataclasses.replace(alphabet, key=alphabet.key[keys:], value=alphabet.value[values:])


def draw(pools: Pools, length: int, samples: int, seed: int) -> IntArray:
    """Blocks with different keys and values in plain filler; the asked one at the very start in every other text.

    LongRoPE2 asks at the end for what stands at the start (arXiv 2502.20082, section 3.3): that is where a longer
    context fails first. A list that only serves the start may lose what stands nearer, so that the asked block of
    the other texts is spread over the text.

    Returns:
        (samples, length) token ids, each text ending with the asked key and its values.

    Raises:
        UsageError: the length has no room for the blocks.
    """
    generator = np.random.default_rng((seed, length, _STREAM))
    others = min(OTHERS, len(pools.key) - 1, len(pools.value) // ANSWER - 1)
    if length < 2 * BLOCK * (others + 3):
        raise UsageError(f"{length} tokens have no room for {others + 1} blocks and a question")
    tokens = generator.choice(pools.filler, (samples, length)).astype(np.int64)
    if pools.bos is not None:
        tokens[:, 0] = pools.bos
    for row in range(samples):
        asked = 1 if row % 2 == 0 else start_of((row + generator.random()) / samples, length - BLOCK)
        keys = generator.permutation(pools.key)[: others + 1]
        values = generator.permutation(pools.value)[: (others + 1) * ANSWER].reshape(-1, ANSWER)
        blocks = np.concatenate((keys[:, None], values), 1)
        places = [p for p in range(1, length - 2 * BLOCK, BLOCK) if abs(p - asked) >= BLOCK]
        starts = [asked, *generator.permutation(places)[:others]]
        for block, start in zip(blocks, starts, strict=True):
            tokens[row, start : start + BLOCK] = block
        tokens[row, -BLOCK:] = blocks[0]
    return tokens
