"""The page of decisions keeps its form: merges of many branches have broken it before."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "docs" / "decisions.md").read_text("utf-8")
PARTS = re.split(r"^(#+ .*)$", TEXT, flags=re.MULTILINE)[1:]
ENTRIES = list(zip(PARTS[::2], PARTS[1::2], strict=True))


def test_every_decision_has_its_three_lines_once() -> None:
    """What, why and what was given up, in this order; a heading without them holds others below it."""
    for number, (heading, body) in enumerate(ENTRIES):
        found = re.findall(r"\*\*(What|Why|Given up):?\*\*", body)
        below = ENTRIES[number + 1][0] if number + 1 < len(ENTRIES) else "#"
        level = len(heading) - len(heading.lstrip("#"))
        holds_others = not found and len(below) - len(below.lstrip("#")) > level
        assert holds_others or found == ["What", "Why", "Given up"], heading


def test_nothing_stands_twice() -> None:
    """No heading and no line of a decision is there a second time."""
    lines = [line for line in TEXT.splitlines() if len(line) > 40 or line.startswith("#")]
    assert [line for line, count in Counter(lines).items() if count > 1] == []
