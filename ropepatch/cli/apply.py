"""``ropepatch apply``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropepatch import naming
from ropepatch.cli import _many, _shown
from ropepatch.cli._options import examples, factor, standard, tokens
from ropepatch.cli._output import Output
from ropepatch.cli._writing import WritingCommand, examined, finish, recovered, runtimes_option, writing_options
from ropepatch.cli.push import PUBLISHING, publishing_options

if TYPE_CHECKING:
    from ropepatch.doctor.base import Finding
    from ropepatch.patch import Patch

#: what --set cannot set, and what sets it
_ELSEWHERE = {
    "factor": "--factor",
    "length": "--length",
    "original": "--original-length",
    "existing": "--existing",
    "group": "--group",
    "hf_layout": "--hf-layout",
    "bake": "--bake",
    "force": "--force",
    "target_gamma": "--target-gamma",
    "method": "--method",
}
_EXAMPLES = examples(
    "apply --method yarn --factor 4 model.gguf",
    "apply --method yarn --length 131072 --set beta_fast=16 Qwen3-8B/ -o Qwen3-8B-128k/",
    "apply --method longrope --factors factors.json model.gguf",
    "apply --method theta --target-gamma 0.5 --length 131072 Llama-2-7b/",
    "apply --method linear --factor 2 model.gguf --dry-run --json > patch.json",
    "apply patch.json model-Q4_K_M.gguf",
    "apply hf://Qwen/Qwen3-8B --method yarn --factor 4 --to me/Qwen3-8B-128k",
    "apply --method yarn --factor 4 --from list.txt --jobs 4 -o patched/",
    "apply --method yarn --factor 4 --all Qwen3-8B-GGUF/",
)


@click.command(cls=WritingCommand, epilog=_EXAMPLES)
@click.argument("refs", nargs=-1, metavar="[PATCH] REF")
@click.option("--method", help="The method, or METHOD+resonance; see ropepatch methods.")
@click.option("--factor", type=factor, help="How many times the original context.")
@click.option("--length", type=tokens, help="The new context in tokens, instead of --factor.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter of the method; repeatable.")
@click.option(
    "--target-gamma", type=float, metavar="G", help="For theta: the base for this γ at --length, a heuristic."
)
@click.option("--factors", metavar="FILE", help="Factors for longrope: JSON, CSV, or a config.json that has them.")
@click.option(
    "--original-length", type=tokens, help="The trained context, where the file does not say it, or another one."
)
@click.option(
    "--existing",
    type=click.Choice(["error", "replace", "compose"]),
    default="error",
    show_default=True,
    help="For a checkpoint that is scaled already: refuse, start again, or stack.",
)
@click.option(
    "--group", metavar="NAME", help="The rope group to extend; default: the one that a longer context reaches."
)
@click.option("--hf-layout", type=click.Choice(["v4", "v5", "both"]), help="Layout of config.json; default: as it is.")
@click.option("--bake", is_flag=True, help="Write per-pair factors even where a named method would do.")
@click.option(
    "--force", is_flag=True, help="Patch layers that a longer context does not reach; write what an engine refuses."
)
@click.option("--from", "listed", metavar="LIST", help="Patch every ref of a file (one a line), or of - for stdin.")
@click.option("--all", "every", is_flag=True, help="REF is a folder or repository: patch every GGUF file in it.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="With --from or --all: at a time."
)
@runtimes_option()
@writing_options
@publishing_options
@standard
def command(
    out: Output, refs: tuple[str, ...], wanted: tuple[str, ...], listed: str | None, every: bool, jobs: int,
    **options: Any,
) -> int:  # fmt: skip
    """Extend a checkpoint's context; write a copy and a manifest.

    The default output stands beside the input: model.gguf becomes model-yarn-4x.gguf. It is checked after writing, and
    deleted if a check fails; --verify=forward also runs its first layers. With PATCH (what --dry-run --json printed)
    the same edits are made to REF.

    Before anything is written the doctor's rules look at what it would be. An error, which is what an engine named with
    --for refuses or ignores, or every engine that reads the format, ends it; --force writes all the same.

    With --to, --branch or --pr the result is published on the Hub; it stays here only where -o names it. The weights of
    a folder that is on the Hub are copied there and never downloaded.

    With --from or --all, -o is a folder, outputs that are there with this patch in their manifest are skipped, and one
    failure does not end the others: exits with 1 when some failed, with 3 when all did.
    """
    from ropepatch.errors import UsageError

    publishing = {name: options.pop(name) for name in PUBLISHING}
    written = ("output", "in_place", "dry_run", "weights", "digest", "verify", "overlay", "body", "sync", "sign")
    writing = {name: options.pop(name) for name in written}
    publishes = [name for name, usual in PUBLISHING.items() if publishing[name] != usual]
    if _many.one_source(listed, every, refs):
        if publishes:
            raise UsageError(f"--{publishes[0].replace('_', '-')} goes with one REF")
        fresh = functools.partial(_fresh_patch, options=options)
        force = options["force"]
        found = _many.named(listed, refs[0] if refs else None)
        return _many.apply(out, found, fresh, jobs=jobs, force=force, runtimes=wanted, **writing)
    recovered(out, refs[-1] if refs else "", writing["in_place"] and not writing["dry_run"])
    if options["method"] == "dca" and len(refs) == 1:
        import ropepatch
        from ropepatch.dialects import dual_chunk

        dual_chunk.check_readers(ropepatch.open(refs[0]), wanted)
    with contextlib.nullcontext() if publishes else _begun(refs[-1] if refs else "", writing):
        patch = _patch(refs, options)
        findings = examined(out, patch, wanted, force=options["force"] or writing["dry_run"])
        if publishes:
            _publish(out, patch, findings, writing, publishing)
        else:
            finish(out, patch, findings=findings, **writing)
    return 0


def _begun(ref: str, writing: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """The copy of a large GGUF begins before it is known what it will hold; see :mod:`ropepatch.storage.ahead`."""
    source = Path(ref)
    idle = any(writing[name] for name in ("in_place", "dry_run", "overlay"))
    if idle or source.suffix != ".gguf" or naming.SHARD.match(source.name):
        return contextlib.nullcontext()
    from ropepatch.storage import ahead

    output = Path(writing["output"] or source)
    return ahead.begun(source, output if output.is_dir() else output.parent, sync=writing["sync"])


def _publish(
    out: Output, patch: Patch, findings: Sequence[Finding], writing: dict[str, Any], publishing: dict[str, Any]
) -> None:
    from ropepatch.cli import push
    from ropepatch.errors import UsageError
    from ropepatch.hub import client

    if not (publishing["to"] or publishing["branch"] or publishing["pr"]):
        name = next(name for name, usual in PUBLISHING.items() if publishing[name] != usual)
        raise UsageError(f"--{name.replace('_', '-')} goes with --to, --branch or --pr")
    idle = [name for name in ("in_place", "overlay", "sign") if writing[name]]
    if idle:
        raise UsageError(
            f"--{idle[0].replace('_', '-')} and publishing exclude each other",
            hint="write it with -o and --sign first, then ropepatch push" if idle[0] == "sign" else None,
        )
    client.bars(not (out.json or out.quiet))
    kept = {name: writing[name] for name in ("output", "weights", "digest", "verify", "dry_run")}
    with out.progress("writing and checking") as progress:
        found = patch.push(**publishing, **kept, progress=progress)
    push.show(out, found)
    for note in () if out.json else patch.notes:
        out.note(note)
    _shown.findings(out, findings, f"hf://{found.repo}{f'@{found.revision}' if found.revision else ''}")


def _patch(refs: Sequence[str], options: dict[str, Any]) -> Patch:
    import ropepatch
    from ropepatch.errors import UsageError

    if len(refs) not in (1, 2):
        raise UsageError(
            f"apply takes one REF, or PATCH and REF, not {len(refs)} arguments",
            hint="--from and --all patch several checkpoints",
        )
    if len(refs) == 2:
        from ropepatch.cli import _records

        given = [name for name, value in options.items() if value not in (None, False, (), "error") and name != "force"]
        _refuse_misplaced(refs, bool(given))
        if given:
            raise UsageError(
                "of two arguments the first is a patch, which says everything itself; leave out "
                f"--{given[0].replace('_', '-')}",
                hint="--from and --all patch several checkpoints",
            )
        return ropepatch.replay(_records.read(refs[0]), refs[1])
    return _fresh_patch(refs[0], options)


def _refuse_misplaced(refs: Sequence[str], fresh: bool) -> None:
    """A method or an output given as an argument.

    Args:
        refs: the two arguments.
        fresh: whether options ask for a new patch.

    Raises:
        UsageError: it is one; says which option it belongs to.
    """
    from ropepatch.errors import UsageError
    from ropepatch.hub.refs import is_remote
    from ropepatch.methods import REGISTRY

    for one in refs:
        if one.split("+")[0].lower() in REGISTRY and not Path(one).exists():
            raise UsageError(f"{one!r} is given as a REF", hint=f"a method is named with --method {one.lower()}")
    first, last = refs
    if fresh and not Path(last).exists() and not is_remote(last) and (Path(first).exists() or is_remote(first)):
        raise UsageError(f"apply takes one REF, and {last!r} is not there", hint=f"an output is named with -o {last}")


def _fresh_patch(ref: str, options: dict[str, Any]) -> Patch:
    import ropepatch
    from ropepatch.errors import UsageError
    from ropepatch.methods import runtime_only
    from ropepatch.report import catalogue

    method = options["method"]
    if not method:
        raise UsageError("apply needs --method", hint="see ropepatch methods")
    if method not in runtime_only.NAMES:
        for name in method.split("+"):
            catalogue.find(name)
    settings: dict[str, Any] = _settings(options["settings"])
    factor, record = options["factor"], None
    if options["factors"]:
        lists, record = _factors(method, options["factors"])
        settings = {**lists, **settings}
        if record and factor is None and options["length"] is None:
            factor = record["factor"]
    return ropepatch.open(ref).patch(
        method,
        factor,
        length=options["length"],
        original=options["original_length"],
        existing=options["existing"],
        group=options["group"],
        hf_layout=options["hf_layout"],
        bake=options["bake"],
        force=options["force"],
        target_gamma=options["target_gamma"],
        record=record,
        **settings,
    )


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    from ropepatch.errors import UsageError

    values: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        key = key.strip()
        if not sign or not key:
            raise UsageError(f"--set takes KEY=VALUE, not {pair!r}")
        if key in _ELSEWHERE:
            raise UsageError(f"--set cannot set {key}; use {_ELSEWHERE[key]}")
        if key in values:
            raise UsageError(f"--set {key} is given twice")
        values[key] = value.strip()
    return values


def _factors(method: str, path: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The lists of a file, and how a search found them."""
    from ropepatch.dialects import factor_files
    from ropepatch.errors import UsageError

    if method.split("+")[0] != "longrope":
        raise UsageError(f"--factors goes with --method longrope, not {method}")
    lists: dict[str, Any] = dict(factor_files.read(path))
    record = factor_files.search_record(path)
    if record and not factor_files.usual_attention(record):
        lists["attention_factor"] = record["attention_factor"]
    return lists, record
