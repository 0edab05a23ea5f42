"""Texts of strangers in Markdown: shown as they are, never acted on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ropepatch.report.text import clean

#: emphasis, code, links, pictures, HTML, tables, headings, formulas
_SPECIAL = re.compile(r"([\\`*_\[\]#|~$!])")
#: what HTML acts on, and what makes a link of a bare address
_ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("://", ":&#47;/"), ("www.", "www&#46;"))


def text(value: object) -> str:
    """A text for a sentence or a table cell, with everything escaped that Markdown or HTML could act on."""
    shown = _SPECIAL.sub(r"\\\1", clean(value))
    for plain, escaped in _ENTITIES:
        shown = shown.replace(plain, escaped)
    return shown


def code(value: object) -> str:
    """A text as code, also in a table cell: fenced by more backticks than it holds in a row, bars escaped."""
    shown = clean(value).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown[:1] in ("`", " ") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else "``  ``"


def block(lines: Iterable[object], language: str = "") -> list[str]:
    """Lines as a block of code, fenced by more backticks than they hold in a row."""
    shown = [clean(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *shown, fence]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
