"""Numbered rules for what goes wrong with a checkpoint's RoPE, and where.

Adding a rule is adding a function with ``@rule`` to a file in ``doctor/rules``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropepatch import checkpoint
from ropepatch._callable import make_callable
from ropepatch.checkpoint import Checkpoint
from ropepatch.dialects.base import Dialect, is_gguf, is_hf
from ropepatch.doctor import fixing, gguf_view, scope
from ropepatch.doctor.base import RULES, SEVERITIES, Finding, Hit, Rule
from ropepatch.doctor.rules import load
from ropepatch.doctor.subject import Subject
from ropepatch.errors import RopepatchError, UsageError
from ropepatch.patch import Patch
from ropepatch.profile import MAX_CONTEXT

__all__ = [
    "Finding",
    "Rule",
    "broken",
    "check_patch",
    "doctor",
    "examine",
    "explain",
    "find",
    "fix",
    "mend",
    "report",
    "rules",
    "subject_of",
    "worst",
]

SCHEMA = "ropepatch.doctor/1"
RULE_SCHEMA = "ropepatch.rule/1"


def doctor(
    model_or_ref: Checkpoint | str | Path, runtimes: str | Sequence[str] | None = None, length: int | None = None
) -> list[Finding]:
    """The rules that a checkpoint breaks, the worst first.

    Args:
        model_or_ref: an opened checkpoint, or what names one.
        runtimes: names, with or without a release (``vllm``, ``transformers@4.57``), as a list or joined by commas;
            default all that read the format, superseded releases included.
        length: the long context in tokens to hold the engines against; default the declared one.

    Raises:
        UsageError: a runtime is unknown, none of them reads the format, or the length is not positive.
        InputError: there is no such checkpoint.
    """
    return examine(subject_of(model_or_ref, runtimes, length))


def subject_of(
    model_or_ref: Checkpoint | str | Path, runtimes: str | Sequence[str] | None = None, length: int | None = None
) -> Subject:
    """The checkpoint as the rules look at it."""
    if length is not None and not 1 <= length <= MAX_CONTEXT:
        raise UsageError(f"the length must be between 1 and {MAX_CONTEXT} tokens, not {length}")
    model = model_or_ref if isinstance(model_or_ref, Checkpoint) else checkpoint.open(model_or_ref)
    return Subject(model.ref, model.dialect, scope.scope_of(_container(model.dialect), runtimes), length)


def _container(dialect: Dialect) -> str:
    return dialect.kind if is_hf(dialect) or is_gguf(dialect) else "this format"


def examine(subject: Subject) -> list[Finding]:
    """The findings of every rule that looks at the subject's format."""
    found: list[Finding] = []
    subject.explained = set()
    for rule in rules(subject.format):
        for hit in rule.check(subject):
            if rule.explains:
                subject.explained |= set(hit.runtimes)
            found.append(_finding(subject, rule, hit))
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def _finding(subject: Subject, rule: Rule, hit: Hit) -> Finding:
    file = hit.file or subject.file
    return Finding(
        rule.code,
        rule.title,
        subject.scope.level(hit.severity or rule.severity, hit.runtimes),
        tuple(hit.runtimes),
        f"{file}: {hit.key}" if hit.key else file,
        hit.message,
        hit.fix or rule.fix,
        hit.edits,
    )


def check_patch(patch: Patch, runtimes: str | Sequence[str] | None = None) -> list[Finding]:
    """The rules that a checkpoint would break once a patch is written, the worst first; nothing is written.

    Args:
        patch: what is about to be written.
        runtimes: as for :func:`doctor`.

    Raises:
        UsageError: a runtime is unknown, or none of them reads the format.
        InputError: the checkpoint that the patch is for cannot be read.
    """
    dialect = checkpoint.open(patch.ref).dialect
    wanted = scope.scope_of(_container(dialect), runtimes)
    if is_hf(dialect):
        return examine(Subject(patch.ref, dialect, wanted).with_edits(patch.edits))
    if is_gguf(dialect):
        made = gguf_view.with_edits(dialect, patch.edits)
        tensors = any(edit.target == "tensor" for edit in patch.edits)
        profile = fixing.reread(patch, made) if tensors else None
        return examine(Subject(patch.ref, made, wanted, profile=profile, edits=patch.edits))
    return []


def fix(
    model_or_ref: Checkpoint | str | Path, runtimes: str | Sequence[str] | None = None, length: int | None = None
) -> tuple[Patch, list[Finding]]:
    """The patch that mends what can be mended without a choice, and the findings that it mends; nothing is written.

    Raises:
        UsageError: as for :func:`doctor`.
        InputError: the checkpoint cannot be read, mended or not.
    """
    return mend(subject_of(model_or_ref, runtimes, length))


def mend(subject: Subject) -> tuple[Patch, list[Finding]]:
    """As :func:`fix`, for what :func:`subject_of` made."""
    return fixing.fix(subject, examine)


def worst(findings: Sequence[Finding]) -> str | None:
    """The highest severity; None when there is no finding."""
    return min((one.severity for one in findings), key=SEVERITIES.index, default=None)


def broken(findings: Sequence[Finding]) -> bool:
    """Whether there is an error among them."""
    return worst(findings) == "error"


def rules(format: str | None = None) -> list[Rule]:
    """Every rule, or those that look at a format, by code."""
    load(format)
    return [RULES[code] for code in sorted(RULES) if format is None or format in RULES[code].formats]


def find(code: str) -> Rule:
    """The rule of a code.

    Raises:
        UsageError: there is none; the message suggests the nearest.
    """
    load()
    wanted = code.strip().upper()
    if wanted in RULES:
        return RULES[wanted]
    import difflib

    digits = re.sub(r"\D", "", wanted)
    near = difflib.get_close_matches(f"RP{digits}", RULES, n=1, cutoff=0.5)
    suggestion = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"unknown rule {code!r}{suggestion}", hint=f"the rules are {_ranges(sorted(RULES))}")


def _ranges(codes: Sequence[str]) -> str:
    """``RP101 to RP109, RP121``: runs of codes."""
    runs: list[list[str]] = []
    for code in codes:
        if runs and int(code[2:]) == int(runs[-1][-1][2:]) + 1:
            runs[-1].append(code)
        else:
            runs.append([code])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def explain(code: str) -> dict[str, Any]:
    """A rule as the JSON that ``schemas/rule.schema.json`` describes.

    Raises:
        UsageError: there is no such rule.
    """
    rule = find(code)
    return {
        "schema": RULE_SCHEMA,
        "code": rule.code,
        "title": rule.title,
        "severity": rule.severity,
        "formats": list(rule.formats),
        "automatic": rule.automatic,
        "why": rule.why,
        "fix": rule.fix,
        "upstream": list(rule.upstream),
    }


def report(subject: Subject, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as the JSON that ``schemas/doctor.schema.json`` describes."""
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    error = subject.lifted if isinstance(subject.lifted, RopepatchError) else None
    return {
        "schema": SCHEMA,
        "ref": subject.ref,
        "format": subject.format or None,
        "runtimes": list(subject.scope.specs),
        "length": subject.reach if subject.format else None,
        "unreadable": str(error) if error is not None else None,
        "counts": counts,
        "findings": [one.to_json() for one in findings],
    }


make_callable(__name__, "ropepatch.doctor:doctor")
