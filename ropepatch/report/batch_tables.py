"""Many checkpoints on the terminal, one a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ropepatch.report.tables import heading_table, plain
from ropepatch.report.text import number, tokens

if TYPE_CHECKING:
    from ropepatch.batch import Outcome

_STYLES = {"written": "green", "planned": "", "skipped": "dim", "failed": "red"}


def outcomes(found: Sequence[Outcome]) -> Table:
    """What became of each checkpoint."""
    table = heading_table()
    table.add_column("ref", overflow="fold", ratio=2)
    for heading in ("", "edits", "seconds"):
        table.add_column(heading, no_wrap=True)
    table.add_column("output, or why not", overflow="fold", ratio=3)
    for one in found:
        table.add_row(
            plain(one.ref),
            plain(one.status, _STYLES[one.status]),
            plain("" if one.edits is None else one.edits),
            plain(f"{one.seconds:.2f}"),
            plain(_told(one)),
        )
    return table


def _told(one: Outcome) -> str:
    if one.error is None:
        return Path(one.output).name if one.output else ""
    return str(one.error).removeprefix(f"{one.ref}: ")


def rows(found: Sequence[Mapping[str, Any]]) -> Table:
    """The settings of each checkpoint that can be read."""
    table = heading_table()
    table.add_column("ref", overflow="fold", ratio=1)
    for heading in ("architecture", "method", "theta", "trained", "declares", ""):
        table.add_column(heading, overflow="fold")
    for row in found:
        if row["error"] is not None:
            table.add_row(plain(row["ref"]), plain("not read", "red"))
            continue
        method = f"{row['method']} {row['factor']:g}x" if row["factor"] else row["method"]
        warned = row["warnings"]
        table.add_row(
            *map(plain, (row["ref"], row["architecture"] or "", method, number(row["rope_theta"]))),
            plain(tokens(row["trained_context"])),
            plain(tokens(row["declared_context"])),
            plain(f"{warned} warning{'s' if warned > 1 else ''}" if warned else "", "yellow"),
        )
    return table


def unread(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the others cannot be read, one line each."""
    return [str(row["error"]) for row in found if row["error"] is not None]
