"""``ropepatch card``."""

from __future__ import annotations

from pathlib import Path

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output


@click.command(
    epilog=examples(
        "card model-yarn-4x.gguf --base-ref org/base --repo me/base-128k",
        "card model-yarn-4x/ -o model-yarn-4x/README.md",
        "card model-yarn-4x/ --base-card ../base/README.md --audit audit.json",
    )
)
@click.argument("ref", metavar="OUT")
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead of printing it.")
@click.option("--base-card", metavar="FILE", help="The base's README.md; default: the one in the folder OUT.")
@click.option("--base-ref", metavar="REPO", help="What was patched, on the Hub: org/name.")
@click.option("--repo", metavar="ORG/NAME", help="Where it shall be published; default: the name of OUT.")
@click.option("--audit", metavar="FILE", help="What audit --json printed; default: ropepatch-audit.json beside it.")
@standard
def command(
    out: Output, ref: str, output: str | None, base_card: str | None, base_ref: str | None, repo: str | None,
    audit: str | None,
) -> None:  # fmt: skip
    """Make the model card of a patched checkpoint.

    The base's card keeps its text and its licence. In front of it stand the patch, what each engine makes of it, launch
    lines, what was verified and measured, and how to undo it. A card that ropepatch made before is brought up to date.
    """
    import ropepatch
    from ropepatch.card import CARD, is_own, repo_of, write
    from ropepatch.errors import UsageError
    from ropepatch.hub.refs import repo_name

    if base_ref is not None and repo_of(base_ref) is None:
        raise UsageError(f"--base-ref takes org/name, not {base_ref!r}")
    if repo is not None:
        repo = repo_name(repo)
    target = Path(output) if output else None
    if base_card is None and target is not None and target.is_file() and is_own(target):
        base_card = str(target)
    text = ropepatch.card(ref, base_card=base_card, base_ref=base_ref, repo=repo, audit=audit)
    if target is not None:
        write(target, text, base=Path(base_card) if base_card else Path(ref) / CARD)
    if out.json:
        out.document({"schema": "ropepatch.card/1", "ref": ref, "output": output, "card": text})
    elif target is not None:
        out.line(target if out.quiet else f"wrote  {target}")
    else:
        print(text, end="")
