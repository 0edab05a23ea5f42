"""What the factors come to on texts that the search never saw, beside the methods that need no search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch import methods
from ropepatch.audit import statistics
from ropepatch.audit.engine import Answers
from ropepatch.audit.tasks import Alphabet, IntArray
from ropepatch.methods.base import Method, ParameterError, Target
from ropepatch.methods.longrope import LongRope
from ropepatch.profile import RopeProfile
from ropepatch.search.result import Search

#: the audit's hardest task where the text has room for it
TASK, ROOM, DEPTHS = "multikey", 128, (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
SEARCHED, LONG_ONLY = "searched", "searched, long list"


@dataclass(frozen=True)
class Work:
    """What is measured at one length: needles, or windows of a text.

    Attributes:
        length: tokens of a text.
        samples: needles at each depth.
        seed: of the needles.
        alphabet: their token ids; None for windows.
        windows: (windows, length) token ids.
    """

    length: int
    samples: int
    seed: int
    alphabet: Alphabet | None = None
    windows: IntArray | None = None


def variants(found: Search, base: RopeProfile, names: Sequence[str]) -> dict[str, RopeProfile]:
    """The unscaled model, the closed forms and the searched lists, by name; base is the unscaled profile."""
    made = {"none": base}
    spectrum = base.groups[found.group].spectrum()
    for name in names:
        try:
            method = methods.extend(name, Target(found.factor, found.trained, spectrum), {})
        except ParameterError:
            continue
        made[f"{name} {found.factor:g}x"] = scaled(base, found.group, method, found.length)
    if found.long_factor is None:
        return made
    short = found.short_factor or (1.0,) * len(found.long_factor)
    both = LongRope(short, found.long_factor, found.trained, found.factor, found.attention_factor)
    made[SEARCHED] = scaled(base, found.group, both, found.length)
    if short != found.long_factor:
        alone = dataclasses.replace(both, short_factor=found.long_factor)
        made[LONG_ONLY] = scaled(base, found.group, alone, found.length)
    return made


def scaled(base: RopeProfile, group: str, method: Method, length: int) -> RopeProfile:
    """A profile with one group extended."""
    groups = {**base.groups, group: dataclasses.replace(base.groups[group], scaling=method, factors=None)}
    return dataclasses.replace(base, groups=groups, declared_context=length)


def retrieval(found: Mapping[float, Answers]) -> dict[str, Any]:
    """Right answers of all depths with their interval, and by depth."""
    hits = [hit for answers in found.values() for hit in answers.hits]
    numbers = [number for answers in found.values() for number in answers.log_probabilities or ()]
    k, n = sum(hits), len(hits)
    return {
        "k": k,
        "n": n,
        "interval": list(statistics.clopper_pearson(k, n)),
        "log_probability": min(sum(numbers) / n, 0.0),
        "by_depth": {f"{depth:g}": sum(answers.hits) for depth, answers in sorted(found.items())},
    }


def perplexity(score: float, windows: IntArray) -> dict[str, Any]:
    """From the mean log-probability of a token."""
    return {"perplexity": math.exp(min(-score, 700.0)), "tokens": int(windows.size)}


def task_of(length: int) -> str:
    """The task that a text of this length has room for."""
    return TASK if length >= ROOM else "passkey"
