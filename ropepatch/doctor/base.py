"""What a rule, a hit and a finding are, and the table of rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch.patch import Edit

if TYPE_CHECKING:
    from ropepatch.doctor.subject import Subject

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Hit:
    """Where a rule is broken.

    Attributes:
        key: the dotted key, or the tensor, as it stands in the file; empty for the file as a whole.
        message: what is wrong there, in one line.
        runtimes: the engines that it makes a difference to, as in the scope; empty when it concerns no engine alone.
        edits: what ``--fix`` changes; empty where a person has to choose.
        fix: what would work, where the rule's own text does not say it.
        severity: another severity than the rule's.
        file: the file's name; None for the checkpoint's main one.
    """

    key: str
    message: str
    runtimes: Sequence[str] = ()
    edits: tuple[Edit, ...] = ()
    fix: str | None = None
    severity: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Finding:
    """A broken rule, with what it means for the runtimes that were asked about.

    Attributes:
        rule: the rule's code.
        title: the rule in a few words.
        severity: ``error``, ``warning`` or ``info``.
        runtimes: the engines that it makes a difference to; empty when it concerns no engine alone.
        where: the file and the key.
        message: what is wrong there, in one line.
        fix: what would work.
        edits: what ``--fix`` changes; empty where a person has to choose.
    """

    rule: str
    title: str
    severity: str
    runtimes: tuple[str, ...]
    where: str
    message: str
    fix: str
    edits: tuple[Edit, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The finding as ``schemas/doctor.schema.json`` describes it."""
        return {
            "rule": self.rule,
            "title": self.title,
            "severity": self.severity,
            "runtimes": list(self.runtimes),
            "where": self.where,
            "message": self.message,
            "fix": self.fix,
            "edits": [edit.to_json() for edit in self.edits],
        }


Check = Callable[["Subject"], Iterable[Hit]]


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a checkpoint.

    Attributes:
        code: ``RP`` and three digits.
        title: the rule in a few words.
        severity: ``error`` where an engine refuses, aborts on or ignores the settings, ``warning`` where it computes
            something else than they say or serves fewer tokens, ``info`` where a person should only know.
        fix: what would work.
        formats: the formats that it looks at.
        upstream: where engines' own people discussed it, as ``owner/repository#number``.
        automatic: whether ``--fix`` can do it.
        explains: whether it accounts for the other frequencies of the engines that it names.
        why: a paragraph.
        check: yields the places where it is broken.
    """

    code: str
    title: str
    severity: str
    fix: str
    formats: tuple[str, ...]
    upstream: tuple[str, ...]
    automatic: bool
    explains: bool
    why: str
    check: Check


RULES: dict[str, Rule] = {}


def rule(
    code: str,
    title: str,
    severity: str,
    *,
    fix: str,
    formats: Sequence[str] = ("hf",),
    upstream: Sequence[str] = (),
    automatic: bool = False,
    explains: bool = False,
) -> Callable[[Check], Check]:
    """Enter a function as a rule; its docstring is the paragraph that ``explain`` prints."""

    def enter(check: Check) -> Check:
        if code in RULES:
            raise ValueError(f"{code} is taken by {RULES[code].title!r}")
        why = " ".join((inspect.getdoc(check) or title).split())
        found = Rule(code, title, severity, fix, tuple(formats), tuple(upstream), automatic, explains, why, check)
        RULES[code] = found
        return check

    return enter
