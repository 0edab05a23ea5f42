"""What ``apply`` and ``replay`` tell of a patch, before and after it was written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropepatch.bundle import Bundle
    from ropepatch.cli._output import Output
    from ropepatch.doctor.base import Finding
    from ropepatch.manifest import Manifest
    from ropepatch.patch import Patch


def findings(out: Output, found: Sequence[Finding], target: object) -> None:
    """What the doctor has to say of it: the worst whole, the remarks counted."""
    for one in found:
        if one.severity != "info":
            out.note(f"{one.rule} {one.message}", one.severity)
    quiet = sum(one.severity == "info" for one in found)
    if quiet:
        rest = "a remark" if quiet == 1 else f"{quiet} remarks"
        out.hint(f"{rest} on how engines read it: ropepatch doctor {target}")


def unwritten(out: Output, patch: Patch) -> None:
    """A patch, where nothing is written."""
    if out.json:
        out.document(patch.to_json())
        return
    _show_changes(out, patch)
    for note in patch.notes:
        out.note(note)
    out.hint("nothing was written; run it without --dry-run, or keep the patch with --dry-run --json > patch.json")


def _show_changes(out: Output, patch: Patch) -> None:
    from ropepatch.report import tables

    out.line(_headline(patch))
    old, new = patch.before.declared_context, patch.after.declared_context
    if patch.factor and old and new and new < old:
        out.note(f"the context becomes smaller; a factor counts from the {_start(patch)}", "warning")
    if patch.edits:
        out.show("", tables.edit_table(patch.edits), "")
    else:
        out.line("The checkpoint says so already: there is nothing to change.")


def _start(patch: Patch) -> str:
    trained = patch.after.trained_context
    return f"original {trained:,} tokens" if trained else "original context"


def _headline(patch: Patch) -> str:
    from ropepatch.report.text import tokens

    method = patch.method + (f" {patch.factor:g}x" if patch.factor else "")
    old, new = patch.before.declared_context, patch.after.declared_context
    contexts = f"{tokens(old)} to {tokens(new)} tokens" if old != new else f"{tokens(new)} tokens"
    return f"{patch.ref}: {method}, {contexts}"


def written(out: Output, patch: Patch, manifest: Manifest, output: Bundle, signature: Path | None) -> None:
    """What was changed, what the checks said, what was written where, and what to do next."""
    from ropepatch.hub.refs import is_remote
    from ropepatch.report import launching, tables

    target = output.anchor
    _show_changes(out, patch)
    report = manifest.verification
    if report is not None:
        out.show(tables.check_table(report), "")
    else:
        out.note("the output was not verified", "warning")
    out.line(f"wrote     {target}")
    out.line(f"manifest  {output.manifest}")
    if signature is not None:
        out.line(f"signature {signature}")
    if report is not None and any(check["name"] == "forward" for check in report["checks"]):
        out.line(f"statement {output.statement}")
    for line in ("", *launching.brief(launching.written(target)), ""):
        out.line(line)
    for note in patch.notes:
        out.note(note)
    there = Path(patch.ref).exists()
    if target.exists() and (is_remote(patch.ref) or (there and not os.path.samefile(target, patch.ref))):
        out.hint(f"compare with: ropepatch diff {patch.ref} {target}")
    out.hint(f"undo with: ropepatch revert {target}")
