"""Scores on disk, one line a candidate, so that none is computed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropepatch.storage.lines import Lines


class Journal(Lines):
    """The scores of a search.

    The evolution is deterministic, so that a search that goes on asks for the same candidates again and finds their
    scores here.
    """

    kind = "search"

    def __init__(self, path: Path | None, plan: Mapping[str, Any], resume: bool) -> None:
        self.scores: dict[tuple[str, tuple[float, ...]], float] = {}
        super().__init__(path, plan, resume)

    def take(self, line: Mapping[str, Any]) -> bool:
        if not {"stage", "factors", "score"} <= set(line):
            return False
        self.scores[line["stage"], tuple(map(float, line["factors"]))] = float(line["score"])
        return True

    def add(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Keep a candidate's line; it has ``factors`` and ``score``."""
        self.scores[stage, tuple(entry["factors"])] = float(entry["score"])
        self.append({"stage": stage, **entry})

    def known(self, stage: str, factors: Sequence[float]) -> float | None:
        """The score of a candidate that was scored before."""
        return self.scores.get((stage, tuple(factors)))
