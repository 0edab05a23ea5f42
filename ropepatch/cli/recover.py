"""``ropepatch recover``."""

from __future__ import annotations

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("recover model.gguf", "recover model/"))
@click.argument("ref")
@standard
def command(out: Output, ref: str) -> None:
    """Undo a change that was interrupted.

    A crash or a power cut in the middle of --in-place leaves a journal beside the file. As long as it is there, other
    commands refuse the file; apply --in-place and revert --in-place undo the change first, as this command does. A new
    file that was not yet checked, or has no manifest yet, is removed.
    """
    import ropepatch

    with out.progress("restoring") as progress:
        undone = ropepatch.recover(ref, progress=progress)
    restored = [str(path) for path in undone if path.exists()]
    removed = [str(path) for path in undone if not path.exists()]
    if out.json:
        out.document({"schema": "ropepatch.recover/1", "ref": ref, "restored": restored, "removed": removed})
        return
    for word, paths in (("restored", restored), ("removed", removed)):
        for name in paths:
            out.line(name if out.quiet else f"{word:9} {name}")
    if not undone and not out.quiet:
        out.line("nothing was interrupted")
