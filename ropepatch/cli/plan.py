"""``ropepatch plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import examples, standard, tokens
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.planner.plan import Plan

_EXAMPLES = examples(
    "plan Qwen3-8B/ --length 131072",
    "plan model.gguf --length 32768 --method linear --json",
    "plan Llama-2-7b/ --length 16384 --target-gamma 0.5",
    "plan Qwen3-8B/ --length 131072 --batch 16 --brief plan.html",
)


@click.command(epilog=_EXAMPLES)
@click.argument("ref")
@click.option("--length", type=tokens, required=True, help="The context in tokens.")
@click.option("--method", help="Judge this method; default: the one that fits best.")
@click.option("--target-gamma", type=float, metavar="G", help="Judge theta with the base for this γ (a heuristic).")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences at once.")
@click.option(
    "--existing",
    type=click.Choice(["replace", "compose"]),
    help="For a scaled checkpoint: start from the original context, or from the declared one.",
)
@click.option("--original-length", type=tokens, help="The trained context, where the file is silent.")
@click.option("--group", metavar="NAME", help="The rope group; default: the one that a longer context reaches.")
@click.option("--snippets", is_flag=True, help="Also print how each runtime is started on the result.")
@click.option("--brief", metavar="OUT", help="Write a brief for people: OUT.md or OUT.html.")
@standard
def command(out: Output, ref: str, length: int, snippets: bool, brief: str | None, **options: Any) -> int:
    """Plan a longer context: method, cost, expectation.

    Computed from the checkpoint's metadata alone. The verdict is a rule over factor and geometry, not a measurement:
    ropepatch explain verdict lists the rules. Exits with 1 when it is DEGRADES.
    """
    import ropepatch

    target = Path(brief) if brief else None
    _check_brief(target)
    if options["method"]:
        from ropepatch.report import catalogue

        for name in options["method"].split("+"):
            catalogue.find(name)
    found = ropepatch.plan(
        ref,
        length,
        method=options["method"],
        target_gamma=options["target_gamma"],
        existing=options["existing"],
        original=options["original_length"],
        group=options["group"],
        batch=options["batch"],
    )
    if target is not None:
        from ropepatch.report import brief as writer
        from ropepatch.storage import files

        files.write_bytes(target, writer.written(found, html=target.suffix == ".html").encode(), sync=False)
    if out.json:
        out.document(found.to_json())
    else:
        _show(out, found, snippets)
        if target is not None:
            out.note(f"wrote {target}")
    return 1 if found.verdict == "DEGRADES" else 0


def _check_brief(target: Path | None) -> None:
    """Refuse a brief that cannot be written before anything is computed."""
    from ropepatch.errors import InputError, UsageError, WouldOverwrite

    if target is None:
        return
    if target.suffix not in (".md", ".html"):
        raise UsageError(f"a brief is .md or .html, not {target.name!r}")
    if target.exists():
        raise WouldOverwrite("exists already", where=str(target), hint="choose another name with --brief")
    if not target.parent.is_dir():
        raise InputError("no such directory", where=str(target.parent))


def _show(out: Output, found: Plan, snippets: bool) -> None:
    from ropepatch.methods import REGISTRY
    from ropepatch.report import plan_tables

    out.show(plan_tables.answer(found))
    if found.command:
        out.line(f"do it with: {found.command}")
    out.show(*plan_tables.shown(found, out.console.width))
    for line in found.launch if snippets else ():
        out.line("")
        out.line(f"{line.runtime}: {line.refused or line.ignored or ''}".rstrip())
        for text in line.text.splitlines():
            out.line(f"  {text}")
    for why in dict.fromkeys(item.refused for item in found.methods if item.refused is not None):
        names = ", ".join(item.method for item in found.methods if item.refused == why)
        out.note(f"{names} cannot be written: {why}")
    for why in dict.fromkeys(found.skipped.values()):
        skipped = [name for name, reason in found.skipped.items() if reason == why]
        out.note(f"{', '.join(skipped) if len(skipped) < len(REGISTRY) // 2 else 'no method'}: {why}")
    for note in (*found.notes, *(found.cost.notes if found.cost else (f"no cost: {found.cost_unknown}",))):
        out.note(note)
    out.hint("measured is better: ropepatch audit tests retrieval at the length")
