"""``ropepatch methods``."""

from __future__ import annotations

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("methods", "methods --json"))
@standard
def command(out: Output) -> None:
    """List the methods: reach, fine-tuning, formats."""
    from ropepatch.report import catalogue

    document = catalogue.methods()
    if out.json:
        out.document(document)
        return
    from ropepatch.report import tables

    out.show(tables.method_table(document["methods"], out.console.width), "", tables.method_legend())
    out.hint("ropepatch explain METHOD shows the formula, the paper and the parameters")
