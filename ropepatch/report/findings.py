"""Findings of the doctor, and its rules, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ropepatch.doctor import Finding
from ropepatch.doctor.base import SEVERITIES
from ropepatch.doctor.scope import labels
from ropepatch.doctor.subject import Subject
from ropepatch.report.tables import plain

_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}
FORMATS = {
    "hf": "Hugging Face folders",
    "gguf": "GGUF files",
    "mistral": "Mistral's params.json",
    "safetensors": "safetensors files",
}


def table(findings: Sequence[Finding]) -> Table:
    """Each finding: severity, rule, where, what, for whom, and what would work."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    for number, one in enumerate(findings):
        if number:
            grid.add_row("", "", "")
        grid.add_row(plain(one.severity, _STYLES[one.severity]), plain(one.rule, "bold"), plain(one.title, "bold"))
        grid.add_row("", plain("in", "dim"), plain(one.where))
        if one.runtimes:
            grid.add_row("", plain("for", "dim"), plain(labels(one.runtimes)))
        grid.add_row("", plain("what", "dim"), plain(one.message))
        grid.add_row("", plain("fix", "dim"), plain(one.fix + (" (--fix does it)" if one.edits else "")))
    return grid


def summary(subject: Subject, findings: Sequence[Finding]) -> str:
    """How many of each severity, and what was looked at."""
    if not subject.format:
        return f"{subject.ref}: no rule reads this format"
    counts = [(sum(one.severity == severity for one in findings), severity) for severity in SEVERITIES]
    found = ", ".join(_counted(count, severity) for count, severity in counts if count)
    against = f"held against {labels(subject.scope.specs)}" if subject.scope.specs else "held against no engine"
    return f"{subject.ref}: {found or 'nothing found'}; {against}"


def _counted(count: int, severity: str) -> str:
    return f"{count} {severity}{'s' if count > 1 and severity != 'info' else ''}"


def explanation(document: Mapping[str, Any]) -> list[Any]:
    """A rule's page."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    rows = [
        ("looks at", " and ".join(FORMATS[name] for name in document["formats"])),
        ("severity", document["severity"]),
        ("fix", document["fix"]),
        ("by itself", "doctor --fix does it where there is no choice" if document["automatic"] else "no"),
        ("upstream", ", ".join(document["upstream"]) or "-"),
    ]
    for name, value in rows:
        grid.add_row(Text(name), plain(value))
    return [plain(f"{document['code']}  {document['title']}", "bold"), "", plain(document["why"]), "", grid]
