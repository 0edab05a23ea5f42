"""``ropepatch diff``."""

from __future__ import annotations

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("diff model.gguf model-yarn-4x.gguf", "diff model/ model.gguf --length 32768"))
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--length", type=click.IntRange(min=1), help="Long context to compare at; default: the larger declared one."
)
@standard
def command(out: Output, a: str, b: str, length: int | None) -> int:
    """Compare the RoPE of two checkpoints of any format.

    Settings are compared one by one, and what they come to as frequencies, in a short and in a long context. Exits
    with 1 when the frequencies or the contexts differ, with 0 when only the spelling does.
    """
    import ropepatch

    result = ropepatch.diff(a, b, length)
    if out.json:
        out.document(result.to_json())
    else:
        from ropepatch.report import diff_tables

        out.show(*diff_tables.difference(result))
        out.line(result.sentence())
    return 0 if result.equivalent and result.same_contexts else 1
