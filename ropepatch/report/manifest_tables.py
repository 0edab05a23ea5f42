"""A manifest on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table

from ropepatch.manifest import Manifest
from ropepatch.report.tables import grid, heading_table, plain
from ropepatch.report.text import tokens

#: files beyond this many are counted only
_FILES = 16
_DIGEST = 16


def panel(record: Manifest, path: Path) -> Panel:
    """What was asked for, and by what it was made."""
    patch = record.patch
    run: Mapping[str, Any] = record.document["predicate"]["runDetails"]
    old, new = patch.before.declared_context, patch.after.declared_context
    versions = ", ".join(f"{name} {version}" for name, version in run["builder"]["version"].items())
    rows = [
        ("input", patch.ref),
        ("method", patch.method + (f" {patch.factor:g}x" if patch.factor else "")),
        ("context", f"{tokens(old)} to {tokens(new)} tokens" if old != new else f"{tokens(new)} tokens"),
        ("made", f"{run['metadata']['finishedOn']} by {versions}"),
    ]
    if record.overlay:
        rows.append(("overlay", "a first shard over a body that it shares"))
    if record.previous is not None:
        rows.append(("before it", "another patch in place, whose manifest is kept in this one"))
    shown = [(name, plain(value)) for name, value in rows]
    return Panel(grid(shown), title=plain(path.name, "bold"), title_align="left", expand=False)


def files(record: Manifest) -> list[Table]:
    """Inputs and outputs with their digests."""
    return [_files("input", record.inputs), _files("output", record.subjects)]


def _files(role: str, named: Mapping[str, str | None]) -> Table:
    table = heading_table(role, "sha256")
    for name, digest in list(named.items())[:_FILES]:
        table.add_row(plain(name), plain(f"{digest[:_DIGEST]}…" if digest else "not taken", "dim"))
    if len(named) > _FILES:
        table.add_row(plain(f"and {len(named) - _FILES} more", "dim"), plain(""))
    return table
