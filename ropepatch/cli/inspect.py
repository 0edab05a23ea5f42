"""``ropepatch inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli import _many
from ropepatch.cli._options import examples, standard, tokens
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


@click.command(
    epilog=examples(
        "inspect model.gguf",
        "inspect Llama-3.1-8B/ --json",
        "inspect model.gguf --launch --length 65536",
        "inspect *.gguf --csv > models.csv",
        "inspect --csv --from list.txt --jobs 8",
        "inspect hf://unsloth/Qwen3-8B-GGUF --all --jobs 4",
    )
)
@click.argument("refs", nargs=-1, metavar="REF…")
@click.option("--launch", is_flag=True, help="How each runtime is started on it, and what must not be used.")
@click.option("--length", type=tokens, help="Context for --launch; default: the declared one.")
@click.option("--csv", "as_csv", is_flag=True, help="One line a checkpoint; why one cannot be read is a column.")
@click.option("--all", "every", is_flag=True, help="REF is a folder or repository: every GGUF file in it.")
@click.option("--from", "listed", metavar="LIST", help="Every ref of a file (one a line), or of - for stdin.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="How many at a time; for remote refs."
)
@standard
def command(
    out: Output, refs: tuple[str, ...], launch: bool, length: int | None, as_csv: bool, every: bool,
    listed: str | None, jobs: int,
) -> int:  # fmt: skip
    """Show a checkpoint's RoPE: contexts, groups, frequencies.

    Of several checkpoints one line each is shown, with the rope group that a longer context reaches; exits with 1 when
    some of them cannot be read, with 3 when none can.
    """
    from ropepatch.errors import UsageError

    if length is not None and not launch:
        raise UsageError("--length goes with --launch")
    if as_csv and out.json:
        raise UsageError("--csv and --json exclude each other")
    if not refs and listed is None:
        raise UsageError("inspect needs a REF", hint="see ropepatch inspect --help")
    if _many.one_source(listed, every, refs) or as_csv or len(refs) > 1:
        if launch:
            raise UsageError("--launch goes with one REF")
        if every:
            from ropepatch import batch

            refs = tuple(batch.models_in(refs[0]))
        return _many.inspect(out, refs or _many.named(listed, None), as_csv=as_csv, jobs=jobs)
    _one(out, refs[0], launch, length)
    return 0


def _one(out: Output, ref: str, launch: bool, length: int | None) -> None:
    import ropepatch
    from ropepatch.report import summary

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
