"""What a search is to do, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ropepatch.search.evolution import Result
from ropepatch.search.space import Candidate, to_json

SCHEMA = "ropepatch.search/1"
CAVEAT = (
    "Found on synthetic texts of one kind and measured on others of the same family: it says nothing about natural "
    "language. Held-out needles have other keys and values than those of the search."
)


@dataclass(frozen=True)
class Stage:
    """One list of factors that is searched.

    Attributes:
        name: ``long`` or ``short``.
        length: tokens of a text.
        factor: the extension that bounds the space.
        budget: candidates to score.
        facts: what bounds the space: what, value, source.
        starts: where it begins.
        flops: of all candidates together.
        bytes: that a candidate takes.
    """

    name: str
    length: int
    factor: float
    budget: int
    facts: tuple[tuple[str, str, str], ...]
    starts: tuple[str, ...]
    flops: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "name": self.name, "length": self.length, "factor": self.factor, "budget": self.budget,
            "space": [{"name": what, "value": value, "source": source} for what, value, source in self.facts],
            "starts": list(self.starts), "flops": self.flops, "bytes": self.bytes,
        }  # fmt: skip


@dataclass
class Search:
    """The plan and, unless it was only planned, the result; :meth:`to_json` is what ``search.schema.json`` describes.

    The JSON is also what ``apply --method longrope --factors`` reads.
    """

    ref: str
    group: str
    factor: float
    trained: int
    length: int
    space: str
    objective: str
    seed: int
    samples: int
    attention_factor: float
    short: str
    settings: list[dict[str, Any]]
    stages: tuple[Stage, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    finals: dict[str, list[tuple[Candidate, float]]] = field(default_factory=dict)
    long_factor: tuple[float, ...] | None = None
    short_factor: tuple[float, ...] | None = None
    held_out: dict[str, Any] | None = None
    interrupted: bool = False

    def best(self, stage: str) -> tuple[Candidate, float] | None:
        """The best candidate of a stage and its score: that of the final where there was one, None before any."""
        if finals := self.finals.get(stage):
            return max(finals, key=lambda pair: pair[1])
        result = self.results.get(stage)
        return result.best if result and result.tried else None

    @property
    def complete(self) -> bool:
        """Whether there are factors to be written."""
        return self.long_factor is not None and not self.interrupted

    def to_json(self) -> dict[str, Any]:
        """The whole result; the lists of factors only where there are any."""
        lists = {
            name: list(values)
            for name, values in (("long_factor", self.long_factor), ("short_factor", self.short_factor))
            if values is not None
        }
        return {
            "schema": SCHEMA,
            **lists,
            "factor": self.factor,
            "attention_factor": self.attention_factor,
            "original_max_position_embeddings": self.trained,
            "ref": self.ref,
            "group": self.group,
            "length": self.length,
            "space": self.space,
            "objective": self.objective,
            "short": self.short,
            "seed": self.seed,
            "samples": self.samples,
            "settings": self.settings,
            "stages": [self._stage(stage) for stage in self.stages],
            "held_out": self.held_out,
            "environment": dict(self.environment),
            "interrupted": self.interrupted,
            "caveat": CAVEAT,
        }

    def _stage(self, stage: Stage) -> dict[str, Any]:
        result, best = self.results.get(stage.name), self.best(stage.name)
        if result is None or best is None:
            return stage.to_json()
        return {
            **stage.to_json(),
            "scored": len(result.tried),
            "generations": result.generations,
            "start_scores": dict(result.starts),
            "best": {**to_json(best[0]), "score": dict(result.tried)[best[0]]},
            "finals": [{**to_json(candidate), "score": score} for candidate, score in self.finals.get(stage.name, ())],
            "curve": [[number, score] for number, score in result.curve()],
        }
