"""Cells on disk, one line each as soon as they are measured, so that nothing is measured twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropepatch.errors import InputError, WouldOverwrite

SCHEMA = "ropepatch.audit-journal/1"
_LINE = 1 << 20


class Journal:
    """A JSON Lines file: a line that says what is measured, then one a cell.

    Args:
        path: the file; None keeps the cells in memory only.
        plan: what decides the numbers: checkpoint, seed, samples, alphabet, variants. Another plan is another journal.
        resume: go on with an existing file.

    Raises:
        WouldOverwrite: the file exists and ``resume`` is false.
        InputError: it is of another plan.
    """

    def __init__(self, path: Path | None, plan: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path is None:
            return
        if path.exists():
            if not resume:
                raise WouldOverwrite("exists already", where=str(path), hint="--resume goes on with it")
            self._read(path, plan)
        else:
            path.write_text(json.dumps({"schema": SCHEMA, "plan": dict(plan)}) + "\n", encoding="utf-8")

    def _read(self, path: Path, plan: Mapping[str, Any]) -> None:
        whole = 0
        with open(path, "rb") as file:
            first = _parsed(file.readline(_LINE))
            if first.get("schema") != SCHEMA:
                raise InputError("is no journal of an audit", where=str(path))
            if first.get("plan") != json.loads(json.dumps(dict(plan))):
                raise InputError("is the journal of another audit", where=str(path), hint="give another --journal")
            whole = file.tell()
            while line := file.readline(_LINE):
                cell = _parsed(line)
                if not line.endswith(b"\n") or "variant" not in cell:
                    break  # the run ended while it wrote this line
                whole = file.tell()
                if cell.get("status") == "measured":
                    self.cells[key(cell)] = cell
        with open(path, "r+b") as file:
            file.truncate(whole)

    def add(self, cell: dict[str, Any]) -> None:
        """Keep a cell, and write it where there is a file."""
        self.cells[key(cell)] = cell
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")


def key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a cell is of."""
    return tuple(cell[name] for name in ("variant", "task", "length", "depth"))


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
