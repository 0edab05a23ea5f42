"""``ropepatch search``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import alphabet, examples, factor, gibibytes, running, standard, tokens
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.search.result import Search

_EXAMPLES = examples(
    "search Qwen3-0.6B/ --factor 4 -o factors.json",
    "search model.gguf --length 131072 --space longrope2 --budget 400 --dry-run",
    "search model/ --factor 4 --objective ppl --text book.txt --init yarn,mrrope-pro",
    "search model/ --factor 4 --executor ray --workers 8 --resume",
    "apply --method longrope --factors factors.json model/",
)


@click.command(epilog=_EXAMPLES)
@click.argument("ref")
@click.option("--factor", type=factor, help="How many times the original context.")
@click.option("--length", type=tokens, help="The new context in tokens, instead of --factor.")
@click.option("--original-length", "original", type=tokens, help="The trained context, where the file lacks it.")
@click.option("--group", metavar="NAME", help="The rope group; default: the one that a longer context reaches.")
@click.option(
    "--objective",
    type=click.Choice(["needle", "ppl"]),
    default="needle",
    show_default=True,
    help="What a candidate is scored by: answers to needles, or perplexity on --text.",
)
@click.option("--text", metavar="FILE", help="For ppl: a text, or token ids as .json or .npy.")
@click.option("--tokenizer", metavar="FILE", help="For --text: a tokenizer.json; default: the checkpoint's.")
@click.option(
    "--space",
    type=click.Choice(["longrope", "longrope2"]),
    default="longrope",
    show_default=True,
    help="Whose bounds: every pair free, or those beyond a critical pair.",
)
@click.option(
    "--init", default="linear,ntk,yarn,mrrope-pro", show_default=True, metavar="M,…", help="Closed forms to start from."
)
@click.option(
    "--short",
    type=click.Choice(["auto", "search", "ones", "same"]),
    default="auto",
    show_default=True,
    help="The list up to the trained context; auto: searched for longrope, ones for longrope2.",
)
@click.option(
    "--attention",
    default="longrope",
    show_default=True,
    metavar="NAME|N",
    help="Factor on cos and sin: longrope (√(1 + ln s / ln T)), yarn (0.1 ln s + 1) or a number.",
)
@click.option(
    "--budget", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="Candidates for each list."
)
@click.option(
    "--samples", type=click.IntRange(1, 10000), default=16, show_default=True, help="Texts that score a candidate."
)
@click.option(
    "--held-out",
    type=click.IntRange(1, 10000),
    default=16,
    show_default=True,
    help="Needles at each of 7 depths (or windows) that the result is measured on.",
)
@alphabet
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the evolution; repeatable.")
@running(bounded="Most a worker may take.", where="Where candidates are scored")
@click.option("-o", "--output", default="factors.json", show_default=True, metavar="FILE", help="Where to write.")
@click.option("--journal", metavar="FILE", help="Each candidate's line; default: OUTPUT with .journal.jsonl.")
@click.option("--resume", is_flag=True, help="Go on with the journal of a search that was ended.")
@click.option("--dry-run", is_flag=True, help="Show space, starts, settings and cost; run nothing.")
@standard
def command(
    out: Output,
    ref: str,
    init: str,
    settings: tuple[str, ...],
    memory: float | None,
    output: str,
    journal: str | None,
    **options: Any,
) -> int:
    """Search per-pair factors for a longer context.

    An evolution after LongRoPE or LongRoPE2; ropepatch explain search says what each setting is and where it comes
    from. The result is measured on needles that the search never saw, beside the closed forms, and written for apply
    --method longrope --factors. Ctrl-C leaves the journal; --resume goes on.
    """
    import ropepatch

    found: Search = ropepatch.search(
        ref,
        init=[part.strip() for part in init.split(",") if part.strip()],
        settings=_settings(settings),
        limit=gibibytes(memory),
        output=output,
        journal=journal or _beside(output),
        progress=None if out.json or out.quiet or not sys.stderr.isatty() else _Line().show,
        **options,
    )
    if out.json:
        out.document(found.to_json())
    else:
        _show(out, found, output, planned=options["dry_run"])
    return 130 if found.interrupted else 0


def _beside(output: str) -> str:
    return f"{output.removesuffix('.json')}.journal.jsonl"


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    from ropepatch.errors import UsageError

    values = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, not {pair!r}")
        values[key.strip()] = value.strip()
    return values


class _Line:
    """A line on the terminal that is written over."""

    def show(self, text: str) -> None:
        """The newest news."""
        from ropepatch.report.text import clean

        print(f"\r\x1b[K{clean(text)}", end="\n" if text.startswith("held out") else "", file=sys.stderr, flush=True)


def _show(out: Output, found: Search, output: str, *, planned: bool) -> None:
    from ropepatch.report import search_tables
    from ropepatch.search.result import CAVEAT

    if sys.stderr.isatty() and not planned:
        print(file=sys.stderr)
    if planned:
        out.show(*search_tables.plan(found))
        out.hint("nothing was run; leave --dry-run out to search")
        return
    out.show(*search_tables.result(found))
    if found.interrupted:
        out.note("interrupted: nothing was written; --resume goes on with the journal", "warning")
        return
    for told in search_tables.warnings(found):
        out.note(told, "warning")
    out.sentence(CAVEAT)
    named = (shlex.quote(str(name)) for name in (output, found.ref))
    out.hint(f"apply them with: ropepatch apply --method longrope --factors {' '.join(named)}")
