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
SHADES = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")
DARK = 5
_UNMEASURED = {"does not fit": "no fit", "out of memory": "memory", "failed": "failed"}


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
            known = [cell["log_probability"] for cell in row if cell and cell.get("log_probability") is not None]
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
        return plain(unmeasured(cell), "dim")
    shade = min(int(cell["k"] / cell["n"] * len(SHADES)), len(SHADES) - 1)
    return Text(f" {cell['k']:>2} ", style=f"{'black' if shade >= DARK else 'white'} on {SHADES[shade]}")


def unmeasured(cell: Mapping[str, Any]) -> str:
    """Why a cell has no number, in a word."""
    return _UNMEASURED.get(cell["status"], "?")


def summary_table(result: Audit) -> Table:
    """Effective lengths by both rules, the worst depth, and the comparison in short texts."""
    table = heading_table("variant", "task")
    against = f"short vs {result.baseline}" if result.baseline else ""
    for heading in (">= 0.85 own", ">= 0.856", "worst", "middle", against):
        table.add_column(plain(heading), justify="right", no_wrap=True)
    for variant in result.variants:
        for task in (task for task in result.tasks if task != "absent"):
            found = result.summary(variant, task)
            longest = max(map(int, found["weakest_depth"]), default=None)
            weakest, gap = (found[name].get(str(longest)) for name in ("weakest_depth", "middle_gap"))
            shown = [effective(found, "relative"), effective(found, "ruler")]
            shown += ["" if weakest is None else f"{weakest:.2f}", "" if gap is None else f"{gap:+.2f}", paired(found)]
            table.add_row(plain(variant), plain(task), *map(plain, shown))
    table.caption = plain(
        "effective lengths by two rules; worst depth, and by how much the ends are better than the middle, at the "
        f"longest length measured; short: same texts of up to {result.trained:,} tokens"
    )
    table.caption_justify = "left"
    return table


def effective(found: Mapping[str, Any], rule: str) -> str:
    """A summary's effective length by a rule, for people."""
    if not found["measurable"]:
        return "not measurable"
    value = found[f"effective_length_{rule}"]
    return f"{value:,}" if value else "none"


def paired(found: Mapping[str, Any]) -> str:
    """A summary's difference in short texts; empty for the baseline."""
    pair = found["paired_short"]
    return f"{pair['difference']:+.3f} ± {pair['plus_minus']:.3f}" if pair else ""
