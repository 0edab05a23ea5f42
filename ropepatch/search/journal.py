"""Scores on disk, one line a candidate, so that none is computed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropepatch.errors import InputError, WouldOverwrite

SCHEMA = "ropepatch.search-journal/1"
_LINE = 1 << 20


class Journal:
    """A JSON Lines file: what is searched, then a line for each candidate. Each line is on the disk when it counts.

    The evolution is deterministic, so that a search that goes on asks for the same candidates again and finds their
    scores here.

    Args:
        path: the file; None keeps the scores in memory only.
        plan: what decides the scores. Another plan is another journal.
        resume: go on with an existing file.

    Raises:
        WouldOverwrite: the file exists and ``resume`` is false.
        InputError: it is of another search.
    """

    def __init__(self, path: Path | None, plan: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.scores: dict[tuple[str, tuple[float, ...]], float] = {}
        if path is None:
            return
        plan = json.loads(json.dumps(dict(plan)))
        if not path.exists():
            self._append({"schema": SCHEMA, "plan": plan})
            return
        if not resume:
            raise WouldOverwrite("exists already", where=str(path), hint="--resume goes on with it")
        lines = path.read_bytes().splitlines(keepends=True) if path.stat().st_size < 1 << 30 else []
        first = _parsed(lines[0]) if lines else {}
        if first.get("schema") != SCHEMA:
            raise InputError("is no journal of a search", where=str(path))
        if first.get("plan") != plan:
            raise InputError(
                f"is the journal of another search ({_differing(first.get('plan'), plan)})",
                where=str(path),
                hint="give another --journal",
            )
        whole = len(lines[0])
        for line in lines[1:]:
            entry = _parsed(line)
            if not line.endswith(b"\n") or not {"stage", "factors", "score"} <= set(entry):
                break  # the search ended while it wrote this line
            self.scores[entry["stage"], tuple(map(float, entry["factors"]))] = float(entry["score"])
            whole += len(line)
        os.truncate(path, whole)

    def add(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Keep a candidate's line; it has ``factors`` and ``score``."""
        self.scores[stage, tuple(entry["factors"])] = float(entry["score"])
        self._append({"stage": stage, **entry})

    def known(self, stage: str, factors: Sequence[float]) -> float | None:
        """The score of a candidate that was scored before."""
        return self.scores.get((stage, tuple(factors)))

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(self.path)) from None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line) if len(line) <= _LINE else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def _differing(old: Any, new: Mapping[str, Any]) -> str:
    """The names of what is not the same."""
    if not isinstance(old, dict):
        return "without a plan"
    return "other " + ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
