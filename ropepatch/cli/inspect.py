"""``ropepatch inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


@click.command(
    epilog=examples("inspect model.gguf", "inspect Llama-3.1-8B/ --json", "inspect model.gguf --launch --length 65536")
)
@click.argument("ref")
@click.option("--launch", is_flag=True, help="How each runtime is started on it, and what must not be used.")
@click.option("--length", type=click.IntRange(min=1), help="Context for --launch; default: the declared one.")
@standard
def command(out: Output, ref: str, launch: bool, length: int | None) -> None:
    """Show a checkpoint's RoPE: contexts, groups, frequencies."""
    import ropepatch
    from ropepatch.errors import UsageError
    from ropepatch.report import summary

    if length is not None and not launch:
        raise UsageError("--length goes with --launch")
    model = ropepatch.open(ref)
    profile = model.profile
    if out.json:
        out.document({**summary.inspection(profile), **({"launch": _launch(model, length)} if launch else {})})
        return
    if launch:
        _show_launch(out, model, length)
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


def _launch(model: Checkpoint, length: int | None) -> list[dict[str, Any]]:
    from ropepatch.report import launching
    from ropepatch.runtimes import launch

    return launching.documents(launch.of_checkpoint(model, length))


def _show_launch(out: Output, model: Checkpoint, length: int | None) -> None:
    from ropepatch.report import launching
    from ropepatch.runtimes import launch

    found = launch.of_checkpoint(model, length)
    if not found:
        out.note(f"no runtime known here reads {model.profile.source.format} files", "warning")
    for line in launching.full(found):
        out.line(line)
