"""``ropepatch audit``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import alphabet, examples, gibibytes, number_of_tokens, running, standard
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.audit.result import Audit

_EXAMPLES = examples(
    "audit Qwen3-0.6B/ --method yarn,ntk --factor 4 --lengths 16k,32k,64k",
    "audit model.gguf --variant yarn:4 --variant yarn:4:beta_fast=16 --html audit.html",
    "audit model-yarn-4x.gguf --base model.gguf --engine llama.cpp --journal cells.jsonl",
    "audit Qwen3-0.6B/ --url none=http://127.0.0.1:8000/v1 --url yarn=http://127.0.0.1:8001/v1",
)


@click.command(epilog=_EXAMPLES)
@click.argument("ref")
@click.option("--base", metavar="REF", help="What it is an extension of; default: itself without its scaling.")
@click.option("--method", "methods", multiple=True, metavar="M,…", help="Methods to try on the base; repeatable.")
@click.option("--factor", "factors", multiple=True, metavar="S,…", help="Extensions for --method; repeatable.")
@click.option(
    "--variant",
    "wanted",
    multiple=True,
    metavar="METHOD:S|REF",
    help="One more to compare: yarn:4, yarn:4:beta_fast=16, self-extend:group=4,window=64, another checkpoint.",
)
@click.option(
    "--lengths", default="auto", show_default=True, metavar="N,…", help="Tokens, 4k is 4096; auto: up to the declared."
)
@click.option("--depths", default="0:1:7", show_default=True, metavar="A:B:N", help="N depths from A to B, or a list.")
@click.option("--samples", type=click.IntRange(1, 10000), default=32, show_default=True, help="Texts in each cell.")
@click.option(
    "--task",
    "tasks",
    default="passkey,multikey,absent",
    show_default=True,
    metavar="T,…",
    help="passkey, needle, multikey, absent: one block alone, beside 4, beside 11; not there.",
)
@alphabet
@click.option(
    "--engine",
    type=click.Choice(["torch", "transformers", "llama.cpp", "http"]),
    help="Default: http with --url, else torch, a built-in decoder of the llama family.",
)
@click.option(
    "--url",
    multiple=True,
    metavar="[NAME=]URL",
    help="An OpenAI-compatible server; NAME none or base is what the others are held against; repeatable.",
)
@click.option("--model", "served_model", metavar="NAME", help="The model's name on the server.")
@click.option("--api-key-env", metavar="VAR", help="The environment variable that holds the server's key.")
@click.option(
    "--concurrency", type=click.IntRange(1, 1024), default=4, show_default=True, help="Requests at once to a server."
)
@running(bounded="Most memory to take.", where="Where texts are run")
@click.option("--journal", metavar="FILE", help="Append each cell to FILE (JSON Lines).")
@click.option("--resume", is_flag=True, help="Go on with the cells that --journal has.")
@click.option("--png", type=click.Path(dir_okay=False), metavar="FILE", help="Also draw the maps (needs matplotlib).")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Also write a page with the maps.")
@standard
def command(
    out: Output,
    ref: str,
    methods: tuple[str, ...],
    factors: tuple[str, ...],
    wanted: tuple[str, ...],
    lengths: str,
    depths: str,
    tasks: str,
    engine: str | None,
    url: tuple[str, ...],
    api_key_env: str | None,
    memory: float | None,
    png: str | None,
    html: str | None,
    **options: Any,
) -> int:
    """Measure what the model still finds, by length and depth.

    Tokens are hidden in filler tokens and asked for, of the unpatched model and of any number of variants, none of
    which is written. No tokenizer is needed. Ctrl-C shows what there is so far.
    """
    import ropepatch

    _can_draw(png, html, replace=bool(options["resume"]))
    result: Audit = ropepatch.audit(
        ref,
        methods=[name for text in methods for name in _names(text)],
        factor=[_factor(part) for text in factors for part in _names(text)],
        variant=wanted,
        lengths=None if lengths == "auto" else [_tokens(part) for part in _names(lengths)],
        depths=_depths(depths),
        task=_names(tasks),
        engine=engine or ("http" if url else "torch"),
        url=url,
        api_key=_key(api_key_env),
        limit=gibibytes(memory),
        progress=(lambda line: out.note(line, "measuring")) if sys.stderr.isatty() else None,
        **options,
    )
    if out.json:
        out.document(result.to_json())
    else:
        _show(out, result)
    _draw(result, png, html)
    for name in (png, html):
        if name:
            out.note(f"wrote {name}")
    return 130 if result.interrupted else 0


def _can_draw(png: str | None, html: str | None, *, replace: bool) -> None:
    """What would keep a picture or a page from being written is said before the measuring, not after it.

    Raises:
        UsageError: matplotlib is missing, or the name does not end as such files do.
        WouldOverwrite: the file is there, and not because this audit is taken up again.
        InputError: its folder is not there, or not to be written in.
    """
    import os
    from importlib.util import find_spec
    from pathlib import Path

    from ropepatch.errors import InputError, UsageError, WouldOverwrite

    for option, name, endings in (("--png", png, (".png",)), ("--html", html, (".html", ".htm"))):
        if name is None:
            continue
        if not name.lower().endswith(endings):
            raise UsageError(f"{option} writes a file that ends with {endings[0]}, not {name!r}")
        if Path(name).exists() and not replace:
            raise WouldOverwrite("exists already", where=name, hint=f"choose another name with {option}")
        if not (folder := Path(name).parent).is_dir():
            raise InputError("no such directory", where=str(folder))
        if not os.access(folder, os.W_OK):
            raise InputError("nothing can be written there: permission denied", where=str(folder))
    if png and find_spec("matplotlib") is None:
        raise UsageError("--png needs matplotlib", hint="pip install 'ropepatch[plot]'")


def _draw(result: Audit, png: str | None, html: str | None) -> None:
    from pathlib import Path

    from ropepatch.report import audit_figure, audit_page
    from ropepatch.storage import files

    if png:
        files.write_bytes(Path(png), audit_figure.png(result), overwrite=True, sync=False)
    if html:
        files.write_bytes(Path(html), audit_page.page(result).encode(), overwrite=True, sync=False)


def _show(out: Output, result: Audit) -> None:
    from ropepatch.audit.cells import STATUSES
    from ropepatch.audit.result import CAVEAT
    from ropepatch.report import audit_tables

    out.show(*audit_tables.heat_maps(result), audit_tables.summary_table(result), "")
    for task in result.tasks:
        for why in dict.fromkeys(result.summary(variant, task)["why"] for variant in result.variants):
            if why:
                out.note(f"{task} is not measurable: {why}" if task != "absent" else f"absent is {why}")
    for status in STATUSES[1:]:
        found = [cell for cell in result.cells if cell["status"] == status]
        if found:
            out.note(f"{len(found)} cells: {status}: {found[0]['why']}", "warning")
    out.sentence(CAVEAT)
    if result.interrupted:
        out.note("interrupted; this is what there was", "warning")


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _key(variable: str | None) -> str | None:
    import os

    from ropepatch.errors import UsageError

    if variable is None:
        return None
    if not (key := os.environ.get(variable, "")):
        raise UsageError(f"--api-key-env: {variable!r:.60} is not set")
    return key


def _factor(text: str) -> float:
    from ropepatch.errors import UsageError

    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--factor {text!r:.20} is no number") from None


def _tokens(text: str) -> int:
    from ropepatch.errors import UsageError

    try:
        return number_of_tokens(text)
    except ValueError:
        raise UsageError(f"{text!r:.40} is no number of tokens; 4k is 4096") from None


def _depths(text: str) -> list[float]:
    from ropepatch.errors import UsageError

    try:
        if ":" not in text:
            return [float(part) for part in _names(text)]
        first, last, count = text.split(":")
        number = int(count)
        if not 1 <= number <= 1000:
            raise ValueError
        step = (float(last) - float(first)) / max(number - 1, 1)
        return [round(float(first) + index * step, 2) for index in range(number)]
    except ValueError:
        raise UsageError(
            f"{text!r} is neither A:B:N nor a list of depths", hint="0:1:7 means seven from 0 to 1"
        ) from None
