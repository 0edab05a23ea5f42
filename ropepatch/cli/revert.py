"""``ropepatch revert``."""

from __future__ import annotations

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output
from ropepatch.cli._writing import recovered, sync_option


@click.command(epilog=examples("revert model-yarn-4x.gguf", "revert model.gguf --in-place"))
@click.argument("ref")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="Where the input shall stand again, or a folder for it; default: beside, -reverted.",
)
@click.option("--in-place", is_flag=True, help="Turn the patched checkpoint itself back.")
@sync_option
@standard
def command(out: Output, ref: str, output: str | None, in_place: bool, sync: bool) -> None:
    """Restore the input of a patch, byte for byte.

    The input is put together from REF and the manifest beside it; its sha256 has to be the one that the manifest names.
    """
    import ropepatch
    from ropepatch import bundle_writing
    from ropepatch.errors import UsageError

    if in_place and output is not None:
        raise UsageError("--in-place and -o exclude each other")
    bundle_writing.refuse_unsynced(in_place, sync)
    recovered(out, ref, in_place)
    with out.progress("restoring") as progress:
        restored = ropepatch.revert(ref, output=output, in_place=in_place, sync=sync, progress=progress)
    if out.json:
        out.document({"schema": "ropepatch.revert/1", "ref": ref, "output": str(restored), "in_place": in_place})
    else:
        out.line(restored if out.quiet else f"restored  {restored}")
