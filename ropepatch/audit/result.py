"""What an audit found: cells by variant, task, length and depth, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropepatch.audit import statistics

SCHEMA = "ropepatch.audit/1"
CAVEAT = (
    "This is lexical retrieval of tokens: necessary for using a context, not sufficient. It says nothing about "
    "reasoning or natural language."
)
#: depths between which a block is in the middle
MIDDLE = (0.25, 0.75)


@dataclass
class Audit:
    """The result; :meth:`to_json` is what ``schemas/audit.schema.json`` describes."""

    ref: str
    trained: int
    samples: int
    seed: int
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    tasks: tuple[str, ...]
    described: tuple[Mapping[str, Any], ...]
    environment: dict[str, Any]
    cells: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(str(item["name"]) for item in self.described)

    @property
    def baseline(self) -> str | None:
        """What the others are held against; None where no server has it."""
        return next((str(item["name"]) for item in self.described if item["baseline"]), None)

    def score(self, variant: str, task: str, length: int) -> float | None:
        """The share of right answers over all depths; None where a depth was not measured."""
        found = self._measured(variant, task, length)
        if len(found) < len(self.depths):
            return None
        return float(sum(cell["k"] for cell in found) / sum(cell["n"] for cell in found))

    def _measured(self, variant: str, task: str, length: int) -> list[dict[str, Any]]:
        return [
            cell
            for cell in self.cells
            if (cell["variant"], cell["task"], cell["length"], cell["status"]) == (variant, task, length, "measured")
        ]

    def summary(self, variant: str, task: str) -> dict[str, Any]:
        """Scores by length, effective lengths, the weakest depth, and the comparison with the baseline."""
        scores = {length: score for length in self.lengths if (score := self.score(variant, task, length)) is not None}
        own = scores.get(self.trained)
        measurable, why = self._gate(variant, task)
        depths = {length: self._depths(variant, task, length) for length in scores}
        usable = measurable and own is not None and own >= statistics.GATE
        relative = statistics.effective_length(scores, statistics.RELATIVE * own) if usable and own else None
        return {
            "variant": variant,
            "task": task,
            "scores": {str(length): score for length, score in scores.items()},
            "weakest_depth": {str(length): min(found.values()) for length, found in depths.items()},
            "depth_gap": {str(length): max(found.values()) - min(found.values()) for length, found in depths.items()},
            "middle_gap": {str(n): gap for n, found in depths.items() if (gap := _middle_gap(found)) is not None},
            "measurable": measurable,
            "why": why,
            "effective_length_relative": relative,
            "effective_length_ruler": statistics.effective_length(scores, statistics.RULER) if measurable else None,
            "paired_short": self._paired(variant, task),
        }

    def _gate(self, variant: str, task: str) -> tuple[bool, str | None]:
        """Whether the baseline (where there is none: the variant) can do the task at all within its context."""
        if task == "absent":
            return False, "a control: nothing is there to be found"
        judge = self.baseline or variant
        score = self.score(judge, task, self.trained)
        if score is None:
            return False, f"{judge!r} was not measured at {self.trained} tokens"
        if score < statistics.GATE:
            return False, f"{judge!r} finds {score:.0%} at {self.trained} tokens: it cannot do the task"
        return True, None

    def _depths(self, variant: str, task: str, length: int) -> dict[float, float]:
        return {cell["depth"]: cell["k"] / cell["n"] for cell in self._measured(variant, task, length)}

    def _paired(self, variant: str, task: str) -> dict[str, float] | None:
        """The same texts at all lengths up to the trained one, against the baseline."""
        if self.baseline is None or variant == self.baseline:
            return None
        pairs: list[tuple[bool, bool]] = []
        for length in (length for length in self.lengths if length <= self.trained):
            mine = {cell["depth"]: cell["hits"] for cell in self._measured(variant, task, length)}
            for cell in self._measured(self.baseline, task, length):
                if cell["depth"] in mine:
                    pairs += zip(map(bool, cell["hits"]), map(bool, mine[cell["depth"]]), strict=True)
        if len(pairs) < 2:
            return None
        mean, error = statistics.paired([a for a, _ in pairs], [b for _, b in pairs])
        return {"difference": mean, "plus_minus": error, "n": len(pairs)}

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of all prompts by the time that their answers took; what is run once for several counts for each."""
        done = [cell for cell in self.cells if cell["status"] == "measured" and cell["seconds"]]
        seconds = sum(cell["seconds"] for cell in done)
        return sum(cell["prompt_tokens"] for cell in done) / seconds if seconds else None

    def to_json(self) -> dict[str, Any]:
        """The whole result."""
        return {
            "schema": SCHEMA,
            "ref": self.ref,
            "trained_context": self.trained,
            "samples": self.samples,
            "seed": self.seed,
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "tasks": list(self.tasks),
            "variants": [dict(item) for item in self.described],
            "environment": dict(self.environment),
            "cells": self.cells,
            "summaries": [self.summary(variant, task) for variant in self.variants for task in self.tasks],
            "tokens_per_second": self.tokens_per_second,
            "interrupted": self.interrupted,
            "caveat": CAVEAT,
        }


def _middle_gap(scores: Mapping[float, float]) -> float | None:
    """By how much the ends are better than the middle; None where one of the two was not tested."""
    ends = [score for depth, score in scores.items() if depth in (min(scores), max(scores))]
    middle = [score for depth, score in scores.items() if MIDDLE[0] <= depth <= MIDDLE[1]]
    if len(ends) < 2 or not middle or min(scores) >= MIDDLE[0] or max(scores) <= MIDDLE[1]:
        return None
    return sum(ends) / len(ends) - sum(middle) / len(middle)
