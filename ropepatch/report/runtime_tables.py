"""What runtimes make of a checkpoint, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from ropepatch.report.tables import heading_table, plain
from ropepatch.report.text import number
from ropepatch.runtimes.comparison import Cell, Row
from ropepatch.runtimes.readings import Reading, Readings


def readings_table(found: Readings) -> Table:
    """One row a span of releases (and rope group, where there are several): what it computes against the reference."""
    groups = list(dict.fromkeys(name for item in found.readings for row in item.rows.values() for name in row.cells))
    several = len(groups) > 1
    table = heading_table()
    for heading in ("runtime", "releases", *(["group"] if several else [])):
        table.add_column(heading, overflow="fold")
    table.add_column(f"against {found.reference}", overflow="fold", ratio=1)
    for item in found.readings:
        lines = _lines(item, groups)
        for index, (group, text) in enumerate(lines):
            first = (plain(item.runtime, "bold"), plain(item.releases)) if not index else (Text(), Text())
            table.add_row(*first, *([plain(group)] if several else []), text)
    return table


def _lines(item: Reading, groups: Iterable[str]) -> list[tuple[str, Text]]:
    found = [(group, _over_lengths([(at, _at(item, row, group)) for at, row in item.rows.items()])) for group in groups]
    shown = [(group, words) for group, words in found if words]
    if len({words for _, words in shown}) == 1 and len(shown) > 1:
        shown = [("all", shown[0][1])]
    if not shown:
        shown = [("", _over_lengths([(at, _refusal(item, row)) for at, row in item.rows.items()]))]
    ignored = list(dict.fromkeys(key for row in item.rows.values() for key in row.ignored))
    lines = [(group, plain(words, "dim" if words == "same" else "")) for group, words in shown]
    if ignored:
        lines[-1][1].append(f"; ignores {', '.join(map(str, map(plain, ignored)))}", "dim")
    return lines


def _at(item: Reading, row: Row, group: str) -> str:
    if row.reason is not None:
        return _refusal(item, row)
    return cell_words(row.cells[group]) if group in row.cells else ""


def _refusal(item: Reading, row: Row) -> str:
    """The reason without the name that stands in the row's first cells."""
    said = (row.reason or "").removeprefix(f"{item.runtime} {item.version} ")
    if row.status == "unreadable":
        return f"cannot be computed: {said}"
    return f"refuses: {said.removeprefix('refuses ')}"


def _over_lengths(words: list[tuple[int | None, str]]) -> str:
    """One text for all lengths where they agree."""
    if len({text for _, text in words}) == 1:
        return words[0][1]
    return "; ".join(f"{'short' if at is None else f'at {at:,}'}: {text}" for at, text in words if text)


def cell_words(cell: Cell) -> str:
    """A cell in a few words: ``same``, or the largest ratio and its pair, the widths, the attention scale."""
    if cell.same:
        return "same"
    mine, theirs = cell.prediction, cell.reference
    parts = []
    if cell.ratio is None:
        parts.append(f"{mine.inv_freq.size} pairs instead of {theirs.inv_freq.size}")
    elif cell.pair is not None:
        still = math.isinf(cell.ratio)
        parts.append(f"pair {cell.pair} stands still in one" if still else f"×{cell.ratio:.4g} at pair {cell.pair}")
    if abs(mine.attention_scale - theirs.attention_scale) > 1e-6 * abs(theirs.attention_scale):
        parts.append(f"A={number(mine.attention_scale, 5)} instead of {number(theirs.attention_scale, 5)}")
    return ", ".join(parts)
