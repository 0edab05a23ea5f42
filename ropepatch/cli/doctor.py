"""``ropepatch doctor``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli import _many
from ropepatch.cli._options import examples, standard, tokens
from ropepatch.cli._output import Output
from ropepatch.cli._writing import WritingCommand, finish, runtimes_option, writing_options

if TYPE_CHECKING:
    from ropepatch.doctor.base import Finding
    from ropepatch.doctor.subject import Subject

_EXAMPLES = examples(
    "doctor Qwen2.5-7B-Instruct/",
    "doctor model.gguf --for llama.cpp --json",
    "doctor Phi-3-mini-128k/ --for vllm,transformers@4.57 --length 65536",
    "doctor Qwen2.5-7B-Instruct/ --fix -o mended/",
)
#: what only --fix takes, with the value that says nothing
_WRITING = {
    "output": None,
    "in_place": False,
    "dry_run": False,
    "weights": "link",
    "digest": None,
    "verify": "structure",
    "sync": True,
    "sign": None,
}


@click.command(cls=WritingCommand, epilog=_EXAMPLES)
@click.argument("ref")
@runtimes_option("--runtime")
@click.option("--length", type=tokens, help="Long context to compare at; default: as declared.")
@click.option("--all", "every", is_flag=True, help="REF is a folder or repository: every GGUF file in it.")
@click.option("--fix", is_flag=True, help="Write a copy in which everything is mended that leaves no choice.")
@writing_options
@standard
def command(
    out: Output, ref: str, wanted: tuple[str, ...], length: int | None, every: bool, fix: bool, **writing: Any
) -> int:
    """Find what engines refuse, ignore or read otherwise.

    Each finding names its rule (ropepatch explain RP201), the engines that it concerns, and a fix. An error is what an
    engine that was named with --for refuses or ignores, or all engines do; superseded releases are information. Exits
    with 1 when there is an error.
    """
    from ropepatch.doctor import broken, check_patch, examine, mend, subject_of
    from ropepatch.errors import UsageError

    idle = [name for name, usual in _WRITING.items() if writing[name] != usual]
    if idle and not fix:
        raise UsageError(f"--{idle[0].replace('_', '-')} goes with --fix")
    if every:
        if fix:
            raise UsageError("--fix goes with one REF, not with --all")
        return _many.doctor(out, ref, wanted, length)
    subject = subject_of(ref, wanted or None, length)
    if fix:
        patch, _ = mend(subject)
        if patch.edits:
            left = check_patch(patch, wanted or None)
            finish(out, patch, findings=left, **writing)
            return 1 if broken(left) else 0
    findings = examine(subject)
    _show(out, subject, findings)
    if fix:
        out.hint(f"nothing was written: {'what is left needs a choice' if findings else 'there is nothing to mend'}")
    return 1 if broken(findings) else 0


def _show(out: Output, subject: Subject, findings: list[Finding]) -> None:
    if out.json:
        from ropepatch.doctor import report

        out.document(report(subject, findings))
        return
    from ropepatch.report import findings as shown

    if findings:
        out.show(shown.table(findings), "")
    out.line(shown.summary(subject, findings))
    if any(one.edits for one in findings):
        out.hint(f"a mended copy: ropepatch doctor {shlex.quote(subject.ref)} --fix")
        out.hint(f"why: ropepatch explain {findings[0].rule}")
