"""``ropepatch inspect``."""

from __future__ import annotations

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("inspect model.gguf", "inspect Llama-3.1-8B/ --json"))
@click.argument("ref")
@standard
def command(out: Output, ref: str) -> None:
    """Show a checkpoint's RoPE: contexts, groups, frequencies."""
    import ropepatch
    from ropepatch.report import summary

    profile = ropepatch.open(ref).profile
    if out.json:
        out.document(summary.inspection(profile))
        return
    from ropepatch.report import tables
    from ropepatch.report.text import short

    out.show(tables.profile_panel(profile))
    for table in tables.group_tables(profile):
        out.show(table, "")
    for key, value in profile.unrecognised.items():
        out.line(f"not understood, kept: {key} = {short(value, 120)}")
    for note in profile.notes:
        out.note(note)
    for warning in summary.warnings(profile):
        out.note(warning, "warning")
