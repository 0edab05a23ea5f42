"""``ropepatch explain``."""

from __future__ import annotations

import click

from ropepatch.cli._options import complete_topic, examples, standard
from ropepatch.cli._output import Output


@click.command(epilog=examples("explain yarn", "explain gamma", "explain longrope --json"))
@click.argument("method", metavar="METHOD|gamma|cost|verdict", shell_complete=complete_topic)
@standard
def command(out: Output, method: str) -> None:
    """Explain a method: formula, paper, parameters.

    gamma, cost and verdict explain what ropepatch plan prints: the formulas, and what is known of them.
    """
    from ropepatch.planner import topics

    if method in topics.NAMES:
        document = topics.explain(method)
        if out.json:
            out.document(document)
            return
        from ropepatch.report import plan_tables

        out.show(*plan_tables.topic(document))
        return
    from ropepatch.report import catalogue

    document = catalogue.explain(method)
    if out.json:
        out.document(document)
        return
    from ropepatch.report import tables

    out.show(*tables.explanation(document))
