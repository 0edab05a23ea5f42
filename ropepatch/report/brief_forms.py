"""The two forms of a brief: Markdown and HTML, from the same blocks."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ropepatch.report import brief_page
from ropepatch.report.text import clean


@dataclass(frozen=True)
class Block:
    """A piece of the brief: ``h2``, ``p``, ``list``, ``code``, ``table``, ``verdict`` or ``plot``.

    ``rows`` are the items of a list (one cell each) or the rows of a table, its headings first.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The brief as Markdown; plots are left to the other form."""
    lines = [f"# {_md(title)}"]
    for block in blocks:
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
        elif block.kind == "plot":
            lines.append(f"*{_md(block.rows[0][0])}* (drawn in the HTML brief)")
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
        head, *rows = block.rows
        cells = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
        lines = "".join(
            f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>'
            for row in rows
        )
        return f'<div class="table"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
    if block.kind == "plot":  # drawn here, not from the file
        return f"<figure>{block.text}<figcaption>{text(block.rows[0][0])}</figcaption></figure>"
    return f"<{block.kind}>{text(block.text)}</{block.kind}>"
