"""What the scripts that write a page share: they write it, or with `--check` compare and exit 1 when it is stale."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def row(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(text).replace("|", "\\|") for text in cells) + " |"


def rule(columns: int) -> str:
    """The line below a table's head."""
    return row(*["---"] * columns)


def tell_stale(name: str, before: str, after: str) -> None:
    """Say that a page is stale, and the first lines in which."""
    print(f"{name} is stale: run `make docs` and commit it", file=sys.stderr)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, "now", lineterm="", n=0)
    print(*list(lines)[:20], sep="\n", file=sys.stderr)


def run(name: str, make: Callable[[], str], source: str) -> int:
    """The script of one page.

    Args:
        name: the page, relative to the project.
        make: its whole text.
        source: what it is written from, for the help and for messages.
    """
    parser = argparse.ArgumentParser(description=f"Write {name} from {source}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    options = parser.parse_args()
    text, target = make(), ROOT / name
    if not options.check:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(f"wrote {name}")
        return 0
    before = target.read_text(encoding="utf-8") if target.is_file() else ""
    if before != text:
        tell_stale(name, before, text)
        return 1
    print(f"{name} matches {source}")
    return 0
