"""``ropepatch manifest``: show, verify, sign."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.manifest import Manifest


@click.group(
    name="manifest",
    invoke_without_command=True,
    epilog=examples(
        "manifest show model-yarn-4x.gguf",
        "manifest verify model-yarn-4x/",
        "manifest sign model-yarn-4x/ --key KEY.pem",
    ),
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show, check or sign the record of a patch.

    The manifest stands beside every output: where it came from, what was changed, and how to undo it.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command(epilog=examples("manifest show model-yarn-4x.gguf", "manifest show model-yarn-4x/ --json"))
@click.argument("ref")
@standard
def show(out: Output, ref: str) -> None:
    """Show what the manifest of REF says.

    REF is an output, or the manifest itself. Nothing is checked; see manifest verify.
    """
    record, path = _read(ref)
    if out.json:
        out.document(record.document)
        return
    from ropepatch.report import manifest_tables, tables

    out.show(manifest_tables.panel(record, path), "")
    for table in manifest_tables.files(record):
        out.show(table, "")
    if record.edits:
        out.show(tables.edit_table(record.edits), "")
    if record.verification is not None:
        out.show(tables.check_table(record.verification), "")
    else:
        out.note("the output was not verified when it was written")
    out.hint(f"check the files against it: ropepatch manifest verify {shlex.quote(ref)}")


def _read(ref: str) -> tuple[Manifest, Path]:
    from ropepatch import located, manifest
    from ropepatch.hub import refs

    if refs.is_remote(ref) and ref.endswith(".json"):
        from ropepatch.hub import mirror

        return manifest.read(mirror.small(ref)), Path(ref)
    path = Path(ref)
    if path.is_file() and path.suffix == ".json" and path.name != "config.json":
        return manifest.read(path), path
    found = located.find(ref)
    return found.record, found.files.manifest


@command.command(
    epilog=examples(
        "manifest verify model-yarn-4x.gguf",
        "manifest verify model-yarn-4x/ --input model/",
        "manifest verify model-yarn-4x/ --signature model-yarn-4x/model.sig --key KEY.pub",
    )
)
@click.argument("ref")
@click.option("--input", "source", metavar="REF", help="What is said to have been patched: held against it as well.")
@click.option("--signature", metavar="FILE", help="An OpenSSF model signature of it, with --key.")
@click.option("--key", metavar="PUB.pem", help="The public key that has to have signed it.")
@standard
def verify(out: Output, ref: str, source: str | None, signature: str | None, key: str | None) -> int:
    """Check the files of REF against its manifest.

    Their digests, that undoing the edits gives the declared input, that the frequencies are those declared, and that
    the weights are the input's. Nothing is written. Exits with 1 when one of them does not hold, and says which.
    """
    import ropepatch

    with out.progress("checking") as progress:
        result = ropepatch.verify_manifest(ref, input=source, signature=signature, key=key, progress=progress)
    if out.json:
        out.document(result.to_json())
    else:
        from ropepatch.report import tables

        out.show(tables.check_table(result.to_json()), "")
        out.line(f"{result.result.lower()}: {ref} against {result.manifest}")
        if signature is None and result.ok:
            out.note("nobody vouches for the manifest itself: --signature and --key check who made it")
    return 0 if result.ok else 1


@command.command(epilog=examples("manifest sign model-yarn-4x.gguf --key KEY.pem"))
@click.argument("ref", metavar="OUT")
@click.option("--key", required=True, metavar="KEY.pem", help="Private key on P-256, P-384 or P-521.")
@click.option("-o", "--output", metavar="FILE", help="The signature; default: model.sig in the folder, or beside it.")
@click.option("--overwrite", is_flag=True, help="Replace an older signature.")
@standard
def sign(out: Output, ref: str, key: str, **options: Any) -> None:
    """Sign an output and its manifest.

    The signature is an OpenSSF Model Signing bundle, which model_signing verify key checks. The passphrase of the key
    is taken from ROPEPATCH_KEY_PASSWORD.
    """
    import ropepatch
    from ropepatch.signing import check_line

    with out.progress("hashing") as progress:
        written = ropepatch.sign(ref, key, progress=progress, **options)
    if out.json:
        out.document({"schema": "ropepatch.manifest-sign/1", "ref": ref, "signature": str(written)})
    else:
        out.line(written if out.quiet else f"signature {written}")
        out.hint(f"anybody can check it: {check_line(ref, written)}")
