"""What the search is set to, and which paper or program each number comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropepatch.errors import UsageError
from ropepatch.methods.base import ParameterError, coerce

_PAPER = "LongRoPE, arXiv 2402.13753"
_PAPER2 = "LongRoPE2, arXiv 2502.20082"
_CODE = "LongRoPE's released code"
_OWN = "ropepatch"
#: name: (least, most, what it is, source)
KNOWN: dict[str, tuple[float, float, str, str]] = {
    "population":  (2, 4096, "candidates of the first generation",
                    f"64 in {_PAPER}; an eighth of a budget below 512 ({_OWN})"),
    "parents":     (1, 4096, "the best that are kept and have children", f"half the population: 32 in {_PAPER}"),
    "mutations":   (0, 4096, "children of one parent in a generation", f"a quarter of the population: 16 in {_PAPER}"),
    "crossovers":  (0, 4096, "children of two parents in a generation",
                    f"a quarter of the population: 16 in {_PAPER}"),
    "probability": (0, 1, "that a mutation draws a pair's factor again", f"0.3: {_PAPER} and {_PAPER2}"),
    "swap":        (0, 1, "that a crossover takes a pair's factor from the second parent",
                    f"half of 0.3: {_CODE}"),
    "tries":       (1, 1000, "crossovers that break the order before a mutation takes their place", f"20: {_CODE}"),
    "step":        (1e-6, 1, "grid of the factors", f"0.01: {_PAPER}"),
    "reach":       (1, 100, "largest factor, in multiples of the extension",
                    f"longrope 1.25: {_PAPER} (its code reaches 1 + s); longrope2 2: {_PAPER2}"),
    "finalists":   (1, 4096, "the best that are scored again, on other texts; the best start is always among them",
                    f"8: {_OWN}; the papers take the best as it was scored"),
    "final_texts": (1, 1000, "texts of the final, in multiples of those of the search", f"4: {_OWN}"),
}  # fmt: skip
#: the budget from which on the papers' own population is used
_FULL = 512
_REACH = {"longrope": 1.25, "longrope2": 2.0}


@dataclass(frozen=True)
class Settings:
    """Numbers of the evolution; see :func:`describe` for what each is and where it is from."""

    population: int
    parents: int
    mutations: int
    crossovers: int
    reach: float
    probability: float = 0.3
    swap: float = 0.15
    tries: int = 20
    step: float = 0.01
    finalists: int = 8
    final_texts: int = 4

    @classmethod
    def of(cls, space: str, budget: int, given: Mapping[str, Any]) -> Settings:
        """The papers' settings, made smaller for a small budget, with what the person sets.

        Raises:
            UsageError: a name is unknown, or a value impossible.
        """
        hints = {field.name: int if field.type == "int" else float for field in dataclasses.fields(cls)}
        asked: dict[str, Any] = {}
        for name, value in given.items():
            if name not in hints:
                raise UsageError(f"the search has no setting {name!r}; it has: {', '.join(hints)}")
            try:
                asked[name] = coerce(f"the search's {name}", value, hints[name])
            except ParameterError as error:
                raise UsageError(str(error)) from None
        population = asked.get("population", max(4, min(budget, _FULL) // 8))
        usual = {"population": population, "parents": max(1, population // 2), "mutations": max(1, population // 4),
                 "crossovers": max(1, population // 4), "reach": _REACH[space]}  # fmt: skip
        made = cls(**{**usual, **asked})
        for name, (least, most, *_) in KNOWN.items():
            if not least <= getattr(made, name) <= most:
                raise UsageError(f"the search's {name} runs from {least:g} to {most:g}")
        if made.mutations + made.crossovers < 1:
            raise UsageError("a generation needs a mutation or a crossover")
        return made

    def describe(self) -> list[dict[str, Any]]:
        """Name, value, meaning and source of each."""
        return [
            {"name": name, "value": getattr(self, name), "meaning": meaning, "source": source}
            for name, (_, _, meaning, source) in KNOWN.items()
        ]
