"""``ropepatch explain``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

#: what is taken for a rule's code, mistyped or not; no method is spelled like that
_CODE = re.compile(r"rp[\s_-]*\d*", re.IGNORECASE)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from ropepatch.doctor import rules
    from ropepatch.methods import REGISTRY
    from ropepatch.planner import topics

    names = [*REGISTRY, *topics.NAMES, *(rule.code for rule in rules())]
    return [name for name in names if name.lower().startswith(incomplete.lower())]


@click.command(epilog=examples("explain yarn", "explain RP201", "explain gamma", "explain longrope --json"))
@click.argument("name", metavar="METHOD|TOPIC|RPnnn", shell_complete=_complete)
@standard
def command(out: Output, name: str) -> None:
    """Explain a method, a topic, or a rule of the doctor.

    The topics gamma, cost and verdict are the formulas behind ropepatch plan, with what is known of them; search is how
    ropepatch search looks for factors; self-extend and dca are methods that change attention itself.
    """
    from ropepatch.planner import topics

    if name in topics.NAMES:
        _explain_topic(out, topics.explain(name))
        return
    if _CODE.fullmatch(name.strip()):
        _explain_rule(out, name)
        return
    from ropepatch.report import catalogue

    document = catalogue.explain(name)
    if out.json:
        out.document(document)
        return
    from ropepatch.report import tables

    out.show(*tables.explanation(document))


def _explain_rule(out: Output, code: str) -> None:
    from ropepatch.doctor import explain

    document = explain(code)
    if out.json:
        out.document(document)
        return
    from ropepatch.report import findings

    out.show(*findings.explanation(document))


def _explain_topic(out: Output, document: Mapping[str, Any]) -> None:
    if out.json:
        out.document(document)
        return
    from ropepatch.report import plan_tables

    out.show(*plan_tables.topic(document))
