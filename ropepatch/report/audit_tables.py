"""An audit on the terminal: a heat map a task, variants one below the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ropepatch.report.tables import heading_table, plain

if TYPE_CHECKING:
    from ropepatch.audit.result import Audit

#: background from bad to good; readable on dark and light terminals, and told apart without red and green
_SHADES = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")
_DARK = 5
_UNMEASURED = {"does not fit": "no fit", "out of memory": "memory"}


def heat_maps(result: Audit) -> list[Any]:
    """One table a task."""
    cells = {(c["variant"], c["task"], c["length"], c["depth"]): c for c in result.cells}
    return [item for task in result.tasks for item in (_heat_map(result, task, cells), Text())]


def _heat_map(result: Audit, task: str, cells: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Table:
    table = Table(title=plain(f"{task}: right answers of {result.samples} by depth"), title_justify="left", box=None)
    table.add_column(plain("variant"), no_wrap=True)
    for heading in ("tokens", *(f"{depth:.2g}" for depth in result.depths), "all", "log p"):
        table.add_column(plain(heading), justify="right", no_wrap=True)
    for variant in result.variants:
        first = True
        for length in result.lengths:
            row = [cells.get((variant, task, length, depth)) for depth in result.depths]
            if not any(row):
                continue
            score = result.score(variant, task, length)
            known = [cell["log_probability"] for cell in row if cell and cell["status"] == "measured"]
            table.add_row(
                plain(variant if first else "", "bold"),
                plain(f"{length:,}"),
                *map(_cell, row),
                plain("" if score is None else f"{score:.3f}"),
                plain(f"{sum(known) / len(known):.1f}" if known else ""),
            )
            first = False
        table.add_section()
    return table


def _cell(cell: Mapping[str, Any] | None) -> Text:
    if cell is None:
        return Text("")
    if cell["status"] != "measured":
        return plain(_UNMEASURED.get(cell["status"], "?"), "dim")
    shade = min(int(cell["k"] / cell["n"] * len(_SHADES)), len(_SHADES) - 1)
    return Text(f" {cell['k']:>2} ", style=f"{'black' if shade >= _DARK else 'white'} on {_SHADES[shade]}")


def summary_table(result: Audit) -> Table:
    """Effective lengths by both rules, and the comparison in short texts."""
    table = heading_table("variant", "task")
    for heading in (">= 0.85 of own", ">= 0.856", "short texts against none"):
        table.add_column(plain(heading), justify="right")
    for variant in result.variants:
        for task in result.tasks:
            found = result.summary(variant, task)
            if task == "absent":
                continue
            lengths = [found["effective_length_relative"], found["effective_length_ruler"]]
            if not found["measurable"]:
                shown = [plain("not measurable", "dim")] * 2
            else:
                shown = [plain(f"{length:,}" if length else "none") for length in lengths]
            pair = found["paired_short"]
            told = f"{pair['difference']:+.3f} ± {pair['plus_minus']:.3f}" if pair else ""
            table.add_row(plain(variant), plain(task), *shown, plain(told))
    return table
