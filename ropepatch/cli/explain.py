"""``ropepatch explain``."""

from __future__ import annotations

import re

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

#: what is taken for a rule's code, mistyped or not; no method is spelled like that
_CODE = re.compile(r"rp[\s_-]*\d*", re.IGNORECASE)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from ropepatch.doctor import rules
    from ropepatch.methods import REGISTRY

    names = [*REGISTRY, *(rule.code for rule in rules())]
    return [name for name in names if name.lower().startswith(incomplete.lower())]


@click.command(epilog=examples("explain yarn", "explain RP201", "explain longrope --json"))
@click.argument("name", metavar="METHOD|RPnnn", shell_complete=_complete)
@standard
def command(out: Output, name: str) -> None:
    """Explain a method, or a rule of the doctor."""
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
