"""Cells on disk, one line each, so that none is measured twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropepatch.storage.lines import Lines


class Journal(Lines):
    """The cells of an audit."""

    kind = "audit"

    def __init__(self, path: Path | None, plan: Mapping[str, Any], resume: bool) -> None:
        self.cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        super().__init__(path, plan, resume)

    def take(self, line: Mapping[str, Any]) -> bool:
        if "variant" not in line:
            return False
        if line.get("status") == "measured":
            self.cells[key(line)] = dict(line)
        return True

    def add(self, cell: dict[str, Any]) -> None:
        """Keep a cell, and write it where there is a file."""
        self.cells[key(cell)] = cell
        self.append(cell)


def key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a cell is of."""
    return tuple(cell[name] for name in ("variant", "task", "length", "depth"))
