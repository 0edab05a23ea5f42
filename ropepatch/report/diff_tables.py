"""A difference of two checkpoints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ropepatch.differences import FrequencyDifference, Setting
from ropepatch.diffing import Diff, GroupDifference
from ropepatch.profile import Source
from ropepatch.report.diff_words import tokens_apart
from ropepatch.report.tables import heading_table, plain
from ropepatch.report.text import clean, number, short
from ropepatch.runtimes.side import Side

_CELL = 30


def difference(result: Diff) -> list[Any]:
    """Sources, the settings that differ, and the frequencies of each group."""
    shown: list[Any] = [_sources(result.a.source, result.b.source), ""]
    if any(side.runtime is not None for side in result.sides):
        shown += [_runtimes(result.sides), ""]
    # the table of runtimes says what they derive
    contexts = [item for item in result.contexts if not item.same and item.name != "derived_context"]
    named = len(result.groups) > 1
    if contexts and named:
        shown += [_settings(contexts), ""]
    for group in result.groups:
        differing = [*([] if named else contexts), *(item for item in group.settings if not item.same)]
        shown += [plain(f"{group.name}:", "bold")] if named else []
        shown += [_settings(differing), ""] if differing else []
        shown += [_frequencies(group), ""] if group.frequencies else []
    return shown


def _sources(a: Source, b: Source) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    grid.add_column(style="dim")
    for side, source in (("a", a), ("b", b)):
        grid.add_row(side, plain(source.ref, "bold"), plain(f"{source.format} · {source.architecture}"))
    return grid


def _runtimes(sides: tuple[Side, Side]) -> Table:
    """What each side's runtime derives, ignores and refuses."""
    table = heading_table()
    table.add_column("", no_wrap=True)
    table.add_column("a", overflow="fold")
    table.add_column("b", overflow="fold")
    rows = {
        "runtime": [side.runtime or "what the file says" for side in sides],
        "refuses": [side.refusal or "" for side in sides],
        "serves": [f"{side.context:,} tokens" if side.context else "" for side in sides],
        "switches": [" and ".join(side.switches) for side in sides],
        "ignores": ["\n".join(map(clean, side.ignored)) for side in sides],
    }
    for name, cells in rows.items():
        if any(cells):
            table.add_row(plain(name, "dim"), *(Text("\n").join(map(plain, cell.split("\n"))) for cell in cells))
    return table


def _settings(items: Sequence[Setting]) -> Table:
    table = heading_table()
    table.add_column("setting", no_wrap=True)
    table.add_column("a", overflow="fold")
    table.add_column("b", overflow="fold")
    for item in items:
        table.add_row(plain(item.name), _value(item.a), _value(item.b))
    return table


def _value(value: Any) -> Text:
    return plain("-", "dim") if value is None else plain(short(value, _CELL))


def _frequencies(group: GroupDifference) -> Table:
    table = heading_table("at length", "pairs that differ", "largest ratio a/b", "attention scale", "off by π/8 over")
    for item in group.frequencies:
        table.add_row(*(plain(cell) for cell in _cells(item)))
    return table


def _cells(item: FrequencyDifference) -> tuple[str, ...]:
    length = "short" if item.length is None else f"{item.length:,}"
    a, b = item.attention_scale
    scale = number(a) if abs(a - b) <= 1e-6 * abs(a) else f"{number(a)} / {number(b)}"
    if item.pairs[0] != item.pairs[1]:
        return length, f"{item.pairs[0]} against {item.pairs[1]} pairs", "", scale, ""
    if item.pair is None or item.distance is None:
        return length, "none", "1", scale, ""
    since = f"{item.differing} of {item.pairs[0]}, wavelength ≥ {item.from_wavelength:,.4g}"
    return length, since, f"{item.ratio:.6g} at pair {item.pair}", scale, tokens_apart(item.distance)
