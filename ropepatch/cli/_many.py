"""What ``apply`` and ``inspect`` print of many checkpoints."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.batch import Outcome
    from ropepatch.patch import Patch

#: what a spreadsheet would take for a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def named(listed: str | None, folder: str | None) -> list[str]:
    """The refs of ``--from``, or the GGUF files of the folder of ``--all``."""
    from ropepatch import batch

    if listed is not None:
        return batch.read_list(listed)
    assert folder is not None
    return batch.originals(batch.models_in(folder))


def apply(
    out: Output, refs: Sequence[str], patch: Callable[[str], Patch], *, output: str | None, jobs: int, **options: Any
) -> int:
    """Patch them all and show what became of each; 1 where some failed, 3 where all did."""
    from ropepatch import batch
    from ropepatch.errors import UsageError
    from ropepatch.report.text import clean

    if options.pop("in_place"):
        raise UsageError("--in-place goes with one REF: a list that is interrupted could not be taken up again")
    if options["sign"] is not None:
        from ropepatch.signing_keys import private_key

        private_key(options["sign"])

    def told(outcome: Outcome) -> None:
        if sys.stderr.isatty():
            out.note(f"{outcome.ref}", outcome.status)

    outcomes = batch.apply_many(refs, patch, folder=output, jobs=jobs, done=told, **options)
    counts = {status: sum(one.status == status for one in outcomes) for status in _STATUSES}
    if out.json:
        document = {"schema": batch.SCHEMA, **counts, "results": [one.to_json() for one in outcomes]}
        out.document(document)
    elif out.quiet:
        for one in outcomes:
            if one.output is not None:
                out.line(one.output)
            else:
                print("ropepatch:", clean(one.error), file=sys.stderr)
    else:
        from ropepatch.report import batch_tables

        out.show(batch_tables.outcomes(outcomes), "")
        out.line(", ".join(f"{count} {status}" for status, count in counts.items() if count))
        if counts["skipped"]:
            out.note("skipped: the output is there, and its manifest says that it is this patch")
    failed = counts["failed"]
    return 0 if not failed else 3 if failed == len(outcomes) else 1


_STATUSES = ("written", "planned", "skipped", "failed")


def inspect(out: Output, refs: Sequence[str], *, as_csv: bool, jobs: int) -> int:
    """Print one row a checkpoint; 1 where some cannot be read, 3 where none can."""
    from ropepatch import survey

    rows = survey.inspect_many(refs, jobs=jobs)
    failed = 0
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(survey.COLUMNS)
        for row in rows:
            failed += row["error"] is not None
            writer.writerow([_cell(row[name]) for name in survey.COLUMNS])
    else:
        found = list(rows)
        failed = sum(row["error"] is not None for row in found)
        _show(out, found)
    return 0 if not failed else 3 if failed == len(refs) else 1


def doctor(out: Output, ref: str, wanted: Sequence[str], length: int | None) -> int:
    """Print the findings in every GGUF of a folder or repository; 1 where one has an error."""
    from ropepatch import batch
    from ropepatch.doctor import broken, examine, report, subject_of

    reports, worst = [], 0
    for name in batch.models_in(ref):
        subject = subject_of(name, wanted or None, length)
        findings = examine(subject)
        worst = max(worst, int(broken(findings)))
        if out.json:
            reports.append(report(subject, findings))
            continue
        from ropepatch.report import findings as shown

        out.line(f"{name}:")
        if findings:
            out.show(shown.table(findings), "")
        out.line(shown.summary(subject, findings))
        out.line("")
    if out.json:
        out.document({"schema": "ropepatch.examinations/1", "ref": ref, "reports": reports})
    return worst


def _show(out: Output, rows: Sequence[Mapping[str, Any]]) -> None:
    if out.json:
        out.document({"schema": "ropepatch.inspections/1", "rows": rows})
        return
    from ropepatch.report import batch_tables

    out.show(batch_tables.rows(rows), "")
    for line in batch_tables.unread(rows):
        out.note(line, "not read")


def _cell(value: Any) -> Any:
    """A value for CSV; a text that a spreadsheet would compute is marked as text."""
    from ropepatch.report.text import clean

    if not isinstance(value, str):
        return value
    shown = clean(value)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def one_source(listed: str | None, every: bool, refs: Iterable[str]) -> bool:
    """Whether many checkpoints are meant.

    Raises:
        UsageError: --from, --all and REF contradict each other.
    """
    from ropepatch.errors import UsageError

    given = list(refs)
    if listed is not None and (every or given):
        raise UsageError("--from names the checkpoints; leave out REF and --all")
    if every and len(given) != 1:
        raise UsageError("--all takes one REF, a folder or repository of GGUF files")
    return listed is not None or every
