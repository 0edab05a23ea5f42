"""``ropepatch replay``."""

from __future__ import annotations

from typing import Any

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output
from ropepatch.cli._writing import WritingCommand, finish, recovered, writing_options


@click.command(
    cls=WritingCommand,
    epilog=examples(
        "replay model-Q8_0-yarn-4x.gguf model-Q4_K_M.gguf",
        "replay model-Q8_0-yarn-4x.ropepatch.json other-model.gguf --force",
    ),
)
@click.argument("manifest")
@click.argument("ref")
@click.option("--force", is_flag=True, help="Also on another model: the same method and parameters there.")
@writing_options
@standard
def command(out: Output, manifest: str, ref: str, force: bool, **writing: Any) -> None:
    """Repeat the patch of another file on REF.

    MANIFEST is a patched checkpoint, the manifest beside it, or a patch that apply --dry-run --json printed. REF has to
    hold the same RoPE settings as the input had: another quantisation of the same model, or another copy.
    """
    import ropepatch
    from ropepatch.cli import _records

    recovered(out, ref, writing["in_place"] and not writing["dry_run"])
    finish(out, ropepatch.replay(_records.read(manifest), ref, force=force), **writing)
