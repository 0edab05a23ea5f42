"""``ropepatch apply``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import complete_method, examples, standard
from ropepatch.cli._output import Output
from ropepatch.cli._writing import WritingCommand, examined, finish, recovered, runtimes_option, writing_options

if TYPE_CHECKING:
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
)


@click.command(cls=WritingCommand, epilog=_EXAMPLES)
@click.argument("refs", nargs=-1, metavar="[PATCH] REF")
@click.option(
    "--method", shell_complete=complete_method, help="The method, or METHOD+resonance; see ropepatch methods."
)
@click.option("--factor", type=float, help="How many times the original context.")
@click.option("--length", type=click.IntRange(min=1), help="The new context in tokens, instead of --factor.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter of the method; repeatable.")
@click.option(
    "--target-gamma", type=float, metavar="G", help="For theta: the base for this γ at --length, a heuristic."
)
@click.option("--factors", metavar="FILE", help="Factors for longrope: JSON, CSV, or a config.json that has them.")
@click.option(
    "--original-length", type=click.IntRange(min=1), help="The trained context, where the file does not say it."
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
@runtimes_option()
@writing_options
@standard
def command(out: Output, refs: tuple[str, ...], wanted: tuple[str, ...], **options: Any) -> None:
    """Extend a checkpoint's context; write a copy and a manifest.

    The default output stands beside the input: model.gguf becomes model-yarn-4x.gguf. It is checked after writing, and
    deleted if a check fails; --verify=forward also runs its first layers. With PATCH (what --dry-run --json printed)
    the same edits are made to REF.

    Before anything is written the doctor's rules look at what it would be. An error, which is what an engine named with
    --for refuses or ignores, or every engine that reads the format, ends it; --force writes all the same.
    """
    written = ("output", "in_place", "dry_run", "weights", "digest", "verify", "overlay", "body", "sync")
    writing = {name: options.pop(name) for name in written}
    recovered(out, refs[-1] if refs else "", writing["in_place"] and not writing["dry_run"])
    if options["method"] == "dca" and len(refs) == 1:
        import ropepatch
        from ropepatch.dialects import dual_chunk

        dual_chunk.check_readers(ropepatch.open(refs[0]), wanted)
    patch = _patch(refs, options)
    findings = examined(out, patch, wanted, force=options["force"] or writing["dry_run"])
    finish(out, patch, findings=findings, **writing)


def _patch(refs: Sequence[str], options: dict[str, Any]) -> Patch:
    import ropepatch
    from ropepatch.errors import UsageError

    if len(refs) not in (1, 2):
        raise UsageError(
            f"apply takes one REF, or PATCH and REF, not {len(refs)} arguments", hint="see ropepatch apply --help"
        )
    if len(refs) == 2:
        from ropepatch.cli import _records

        given = [name for name, value in options.items() if value not in (None, False, (), "error") and name != "force"]
        if given:
            raise UsageError(f"a patch says everything itself; leave out --{given[0].replace('_', '-')}")
        return ropepatch.replay(_records.read(refs[0]), refs[1])
    return _fresh_patch(refs[0], options)


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
