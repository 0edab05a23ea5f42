"""Showing and writing a patch: what ``apply`` and ``replay`` have in common."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropepatch import naming
from ropepatch.cli import _shown
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.doctor.base import Finding
    from ropepatch.patch import Patch


def sync_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says whether a new file is waited for until it is on the disk."""
    text = (
        "Wait until a new output is on the disk (default: yes). Without, the system writes it when it likes, as after "
        "cp: whole or not at all even if the program is killed, but a power failure soon after may lose it."
    )
    return click.option("--sync/--no-sync", default=True, help=text)(function)


def _one(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> str | None:
    """The output's name; with two of them one would be left out in silence."""
    if len(given) > 1:
        raise click.UsageError(f"there is one output, and -o names {len(given)}")
    if given and not given[0].strip():
        raise click.UsageError("-o is empty; leave it out for a name beside the input")
    if given == ("-",):
        raise click.UsageError("a checkpoint cannot be written to stdout; give -o the name of a file or folder")
    return given[0] if given else None


#: how deep an output is checked
DEPTHS = ("structure", "forward", "none")


class WritingCommand(click.Command):
    """A command whose ``--verify`` stands without a value too, and has ``--no-verify`` for another name of ``none``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write both out, so that a bare ``--verify`` does not take the REF behind it for its value."""
        end = args.index("--") if "--" in args else len(args)
        for at, word in enumerate(args[:end]):
            if word == "--no-verify":
                args[at] = "--verify=none"
            elif word == "--verify" and args[at + 1 : at + 2] not in [[depth] for depth in DEPTHS]:
                args[at] = "--verify=structure"
        return super().parse_args(ctx, args)


def writing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a patch is written."""
    for option in reversed(
        (
            click.option(
                "-o",
                "--output",
                metavar="OUT",
                multiple=True,
                callback=_one,
                help="New file or folder, or a folder to put a file in; default: beside the input.",
            ),
            click.option("--in-place", is_flag=True, help="Change the input itself."),
            click.option("--overlay", is_flag=True, help="GGUF: a small first shard over shared weights."),
            click.option(
                "--body",
                type=click.Choice(["auto", "hardlink", "symlink", "copy"]),
                default="auto",
                show_default=True,
                help="How the weights come beside an overlay.",
            ),
            click.option("--dry-run", is_flag=True, help="Print the patch and write nothing."),
            click.option(
                "--weights",
                type=click.Choice(["link", "copy", "none"]),
                default="link",
                show_default=True,
                help="Unchanged files of a folder: linked, copied, or left out.",
            ),
            click.option(
                "--digest",
                type=click.Choice(["none", "header", "full"]),
                help="Files to hash for the manifest; default: full for a copy, header where no weights move.",
            ),
            click.option(
                "--verify",
                type=click.Choice(DEPTHS),
                default="structure",
                show_default=True,
                help="Checks after writing; forward also runs the model. --no-verify is none.",
            ),
            click.option("--sign", metavar="KEY.pem", help="Sign output and manifest (OpenSSF Model Signing)."),
            sync_option,
        )
    ):
        function = option(function)
    return function


def runtimes_option(*also: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option that names runtimes, given as ``wanted``; ``also`` are other spellings of it."""
    text = "Engines to look out for: vllm,llama.cpp or transformers@4.57; default: all that read the format."
    return click.option("--for", *also, "wanted", multiple=True, metavar="RUNTIMES", help=text)


def examined(out: Output, patch: Patch, wanted: Sequence[str], *, force: bool) -> list[Finding]:
    """What the doctor's rules say of ``patch``, told to the person.

    Raises:
        MethodUnsupported: there is an error among it and ``force`` is off.
    """
    from ropepatch.doctor import check_patch
    from ropepatch.errors import MethodUnsupported

    findings = check_patch(patch, wanted or None)
    errors = [one for one in findings if one.severity == "error"]
    if errors and not force:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise MethodUnsupported(
            f"{errors[0].rule} {errors[0].title}: {errors[0].message}{more}",
            where=patch.ref,
            hint=f"{errors[0].fix}; --force writes it all the same",
        )
    return findings


def recovered(out: Output, ref: str, in_place: bool) -> None:
    """Undo an interrupted change before another one in place; other commands only say that there is one."""
    if in_place and ref and Path(ref).exists() and naming.journals(Path(ref)):
        import ropepatch

        for path in ropepatch.recover(ref):
            out.note(f"an interrupted change of {path} was undone first")


def finish(
    out: Output,
    patch: Patch,
    *,
    output: str | None,
    in_place: bool,
    dry_run: bool,
    weights: str,
    digest: str | None,
    verify: str,
    overlay: bool,
    body: str,
    sync: bool,
    sign: str | None = None,
    findings: Sequence[Finding] = (),
) -> None:
    """Print ``patch`` (``--dry-run``), or write it and tell what was written."""
    from ropepatch.errors import UsageError

    if in_place and output is not None:
        raise UsageError("--in-place and -o exclude each other")
    if in_place and overlay:
        raise UsageError("--in-place and --overlay exclude each other")
    if not sync:  # said of a dry run too, which writes nothing and loads nothing to write with
        from ropepatch import bundle_writing

        bundle_writing.refuse_unsynced(in_place, sync)
    if body != "auto" and not overlay:
        raise UsageError("--body goes with --overlay")
    if dry_run:
        _shown.unwritten(out, patch)
        _shown.findings(out, findings, None)
        return
    from ropepatch import output as writer
    from ropepatch.hub.refs import is_remote

    if is_remote(patch.ref):
        from ropepatch.hub import client

        client.bars(not (out.json or out.quiet))
    if sign is not None:
        from ropepatch.signing_keys import private_key

        private_key(sign)  # a key that cannot be read is said before anything is written
    source = writer.source_of(patch, weights)
    target = source if in_place else writer.target_of(patch, source, output, overlay=overlay)
    ahead = threading.Thread(target=_load_ahead, args=(out, patch, verify))
    ahead.start()
    with out.progress("writing and checking") as progress:
        manifest = patch.write(
            None if in_place else target.anchor,
            in_place=in_place,
            weights=weights,
            digest=digest,
            verify=verify,
            overlay=overlay,
            body=body,
            sync=sync,
            progress=progress,
        )
        signature = _signed(target.anchor, sign, progress, again=in_place)
    if out.json:
        from ropepatch.report import launching

        out.document(
            {
                "schema": "ropepatch.apply/1",
                "output": str(target.anchor),
                "manifest_path": str(target.manifest),
                "manifest": manifest.document,
                **({"signature": str(signature)} if signature else {}),
                "notes": list(patch.notes),
                "findings": [one.to_json() for one in findings],
                "launch": launching.documents(launching.written(target.anchor)),
            }
        )
    elif out.quiet:
        out.line(target.anchor)
    else:
        _shown.written(out, patch, manifest, target, signature, in_place)
        _shown.findings(out, findings, target.anchor)


def _load_ahead(out: Output, patch: Patch, verify: str) -> None:
    """Import what checking and telling need while the bytes move: the kernel does that, and Python only waits."""
    with contextlib.suppress(ImportError):  # whoever needs it says so better
        if verify != "none" and patch.after.source.format == "gguf":
            from ropepatch.verify import skeleton

            skeleton.library()
        if not (out.json or out.quiet):
            from rich import console  # noqa: F401

            from ropepatch.report import launching, tables  # noqa: F401


def _signed(target: Path, key: str | None, progress: Any, *, again: bool) -> Path | None:
    if key is None:
        return None
    from ropepatch import signing

    return signing.sign(target, key, overwrite=again, progress=progress)
