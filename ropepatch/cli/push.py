"""``ropepatch push``, and what ``apply --to`` shares with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.hub.push import Publication

#: what makes a command publish, with the value that says nothing
PUBLISHING = {"to": None, "private": False, "branch": None, "pr": False, "config_only": False, "message": None}
_EXAMPLES = examples(
    "push Qwen3-8B-yarn-4x/ --to me/Qwen3-8B-128k",
    "push Qwen3-8B-yarn-4x/ --branch yarn-128k",
    "push model-yarn-4x.gguf --to me/model-128k-GGUF --private",
    "push Qwen3-8B-yarn-4x/ --pr --dry-run",
)
_VERBS = {"upload": "sent", "copy": "copied on the server", "keep": "there already"}
_WOULD = {"upload": "to send", "copy": "to copy on the server", "keep": "there already"}


def publishing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where an output is published."""
    for option in reversed(
        (
            click.option("--to", metavar="ORG/NAME", help="Publish in this repository on the Hub; made where missing."),
            click.option("--private", is_flag=True, help="A new repository is visible to its owner alone."),
            click.option("--branch", metavar="NAME", help="Publish on a branch; default --to: the base's repository."),
            click.option("--pr", is_flag=True, help="Open a pull request; default --to: the base's repository."),
            click.option("--config-only", is_flag=True, help="Publish without the base's weights (gated bases)."),
            click.option("--message", metavar="TEXT", help="The commit's message; default: the method."),
        )
    ):
        function = option(function)
    return function


@click.command(epilog=_EXAMPLES)
@click.argument("output", metavar="OUT")
@publishing_options
@click.option("--dry-run", is_flag=True, help="Say what would be published, and publish nothing.")
@standard
def command(out: Output, output: str, **options: Any) -> None:
    """Publish what apply has written on the Hub.

    Weights that the base has on the Hub are copied there, pinned to the commit that was patched, and neither downloaded
    nor sent; other large files are sent as the chunks that the Hub does not have. Manifest and model card go with them.
    All of it is one commit: it fails as a whole, also where the repository has moved on meanwhile.
    """
    import ropepatch
    from ropepatch.hub import client

    client.bars(not (out.json or out.quiet))
    with out.progress("comparing") as progress:
        found = ropepatch.push(output, progress=progress, **options)
    show(out, found)


def show(out: Output, found: Publication) -> None:
    """What was published."""
    if out.json:
        out.document(found.to_json())
        return
    if out.quiet:
        out.line(found.url)
        return
    from ropepatch.report import push_tables

    out.show(push_tables.files(found), "")
    words = _WOULD if found.dry_run else _VERBS
    for line in push_tables.totals(found, words):
        out.line(line)
    out.line(_ending(found))
    for note in found.notes:
        out.note(note)
    if found.dry_run:
        out.hint("nothing was published; run it without --dry-run")
    elif found.changed and not found.pull_request:
        revision = f"@{found.revision}" if found.revision else ""
        out.hint(f"look at it with: ropepatch inspect hf://{found.repo}{revision}")


def _ending(found: Publication) -> str:
    where = f"{found.repo}{f' on branch {found.revision}' if found.revision else ''}"
    if found.dry_run:
        return f"would publish in {where}{' (new)' if found.created else ''}"
    if not found.changed:
        return f"nothing changed: {where} has all of it at {(found.commit or '')[:12]}"
    if found.pull_request:
        return f"proposed  {found.pull_request}"
    return f"published {found.url} at {(found.commit or '')[:12]}"
