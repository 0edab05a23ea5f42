"""The two forms of a brief: Markdown and HTML, from the same blocks."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ropepatch.report import brief_page
from ropepatch.report.text import clean

#: characters of a cell from which three columns are too many for a phone
_LONG = 24


@dataclass(frozen=True)
class Block:
    """A piece of the brief: ``lead``, ``h2``, ``p``, ``list``, ``code``, ``table``, ``verdict`` or ``plot``.

    ``rows`` are the items of a list (one cell each) or the rows of a table, its headings first.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The brief as Markdown; plots are left to the other form."""
    lines = [f"# {_md(title)}"]
    for block in blocks:
        if block.kind == "plot":
            continue
        lines.append("")
        if block.kind == "verdict":
            lines += [f"**{block.text}**", "", *(f"* {_md(row[0])}" for row in block.rows)]
        elif block.kind == "h2":
            lines.append(f"## {_md(block.text)}")
        elif block.kind == "list":
            lines += [f"* {_md(row[0])}" for row in block.rows]
        elif block.kind == "code":
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            lines += [f"{fence}sh", *_clean_lines(block.text), fence]
        elif block.kind == "table":
            head, *rows = block.rows
            lines += [_row(head), _row(("---",) * len(head)), *map(_row, rows)]
        elif block.kind == "lead":
            lines.append(f"**{_md(block.text)}**")
        else:
            lines.append(_md(block.text))
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    """``text`` with what Markdown would act on escaped."""
    escaped = clean(text).replace("\\", "\\\\")
    for sign in "`*_[]<>|#":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell if cell == "---" else _md(cell) for cell in cells) + " |"


def _clean_lines(text: str) -> list[str]:
    """The lines of a command with control characters escaped."""
    return [clean(line) for line in text.splitlines()]


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """The brief as one HTML document that needs nothing but itself."""
    body = [f"<h1>{html.escape(clean(title))}</h1>", *(_element(block) for block in blocks)]
    return brief_page.page(clean(title), "\n".join(body))


def _element(block: Block) -> str:
    def text(value: str) -> str:
        return html.escape(clean(value))

    if block.kind == "verdict":
        reasons = "".join(f"<li>{text(row[0])}</li>" for row in block.rows)
        kind = block.text.lower().split("-")[0]
        return f'<section class="verdict {kind}"><strong>{text(block.text)}</strong><ul>{reasons}</ul></section>'
    if block.kind == "list":
        return f"<ul>{''.join(f'<li>{text(row[0])}</li>' for row in block.rows)}</ul>"
    if block.kind == "code":
        return f"<pre><code>{html.escape(chr(10).join(_clean_lines(block.text)))}</code></pre>"
    if block.kind == "table":
        return _table(block.rows)
    if block.kind == "lead":
        return f'<p class="lead">{text(block.text)}</p>'
    if block.kind == "plot":  # drawn here, not from the file
        return f"<figure>{block.text}<figcaption>{text(block.rows[0][0])}</figcaption></figure>"
    return f"<{block.kind}>{text(block.text)}</{block.kind}>"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """A table; wide ones carry their headings in every cell, for screens that have no room for columns."""
    head, *body = rows
    wide = len(head) > 3 or (len(head) == 3 and any(len(cell) > _LONG for row in body for cell in row[1:]))

    def text(value: str) -> str:
        return html.escape(clean(value))

    cells = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = []
    for first, *rest in body:
        named = zip(head[1:], rest, strict=True)
        found = "".join(f'<td data-label="{text(name)}">{text(cell)}</td>' for name, cell in named)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{found}</tr>')
    kind = ' class="wide"' if wide else ""
    table = f"<table{kind}><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="table">{table}</div>'
