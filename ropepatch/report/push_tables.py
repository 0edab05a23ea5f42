"""What a publication shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from ropepatch.report.tables import heading_table, plain

if TYPE_CHECKING:
    from ropepatch.hub.push import Publication

#: rows of a table before it is cut: a model has some dozens of files, and few are of interest
_ROWS = 24
#: files that are kept as chunks
_CHUNKED = 8 << 20


def files(found: Publication) -> Table:
    """Each file with what becomes of it."""
    table = heading_table("file", "size", "")
    words = {"upload": "send", "copy": "copy on the server", "keep": "there already"}
    for item in found.files[:_ROWS]:
        table.add_row(plain(item.path), size(item.size), words[item.action])
    if len(found.files) > _ROWS:
        table.add_row(f"… {len(found.files) - _ROWS} more", "", "")
    return table


def totals(found: Publication, words: Mapping[str, str]) -> list[str]:
    """One line for each thing that became of files."""
    lines = []
    for action, word in words.items():
        count = sum(item.action == action for item in found.files)
        if count:
            tail = _chunks(found) if action == "upload" else ""
            lines.append(f"{size(found.total(action)):>9}  {word} ({count} file{'s' if count > 1 else ''}{tail})")
    return lines


def _chunks(found: Publication) -> str:
    """What is said of large files, which are not sent whole."""
    if not any(item.action == "upload" and item.size > _CHUNKED for item in found.files):
        return ""
    if found.chunk_bytes is None:
        return "; of large ones the chunks that the Hub has not"
    return f"; of patched ones the new chunks, {size(found.chunk_bytes)}"


def size(count: int) -> str:
    """Bytes as people write them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
