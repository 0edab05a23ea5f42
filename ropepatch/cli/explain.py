"""``ropepatch explain``."""

from __future__ import annotations

import click

from ropepatch.cli._options import complete_method, examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("explain yarn", "explain longrope --json"))
@click.argument("method", shell_complete=complete_method)
@standard
def command(out: Output, method: str) -> None:
    """Explain a method: formula, paper, parameters."""
    from ropepatch.report import catalogue

    document = catalogue.explain(method)
    if out.json:
        out.document(document)
        return
    from ropepatch.report import tables

    out.show(*tables.explanation(document))
