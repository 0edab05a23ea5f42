"""``ropepatch recover``."""

from __future__ import annotations

from pathlib import Path

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("recover model.gguf", "recover model/"))
@click.argument("ref")
@standard
def command(out: Output, ref: str) -> None:
    """Undo a change in place that was interrupted.

    A crash or a power cut in the middle of --in-place leaves a journal beside the file. As long as it is there, other
    commands refuse the file; apply --in-place and revert --in-place undo the change first, as this command does.
    """
    import ropepatch

    with out.progress("restoring") as progress:
        restored = ropepatch.recover(Path(ref), progress=progress)
    if out.json:
        out.document({"schema": "ropepatch.recover/1", "ref": ref, "restored": [str(path) for path in restored]})
        return
    for path in restored:
        out.line(path if out.quiet else f"restored  {path}")
    if not restored and not out.quiet:
        out.line("nothing was interrupted")
