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
    from ropepatch.methods import REGISTRY
    from ropepatch.report import catalogue

    if name not in REGISTRY:
        raise _unknown(name)
    document = catalogue.explain(name)
    if out.json:
        out.document(document)
        return
    from ropepatch.report import tables

    out.show(*tables.explanation(document))


def _unknown(name: str) -> Exception:
    import difflib

    from ropepatch.errors import UsageError
    from ropepatch.methods import REGISTRY
    from ropepatch.planner import topics

    parts = name.split("+")
    if len(parts) > 1 and set(parts) <= set(REGISTRY):
        return UsageError(f"{name!r} is {len(parts)} methods", hint=f"explain {' and explain '.join(parts)}")
    near = difflib.get_close_matches(name.lower(), [*REGISTRY, *topics.NAMES], n=1, cutoff=0.5)
    return UsageError(
        f"nothing is called {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}",
        hint=f"methods: {', '.join(REGISTRY)}; topics: {', '.join(topics.NAMES)}; rules: RP101 and others, as doctor "
        "names them",
    )


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
