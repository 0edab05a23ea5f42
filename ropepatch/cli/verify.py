"""``ropepatch verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import device, dtype, examples, gibibytes, memory_limit, standard
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.runtime_methods import SelfExtend

_EXAMPLES = examples(
    "verify model-yarn-4x.gguf --base model.gguf",
    "verify model-yarn-4x/ --engine transformers",
    "verify model-yarn-4x.gguf --engine llama.cpp --json",
)


@click.command(epilog=_EXAMPLES)
@click.argument("ref")
@click.option("--base", metavar="REF", help="What it is an extension of; default: itself without its scaling.")
@device
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "transformers", "llama.cpp"]),
    default="auto",
    show_default=True,
    help="torch: a built-in decoder of the llama family; the others are held against it.",
)
@dtype
@click.option("--layers", type=click.IntRange(min=0), default=2, show_default=True, help="Layers to run; 0: all.")
@memory_limit("Most memory to take.")
@click.option("--self-extend", metavar="G,W", help="Also run it with Self-Extend: group and window, for example 4,64.")
@click.option(
    "--record/--no-record",
    default=None,
    help="Write the statement beside the manifest (default: where there is a manifest).",
)
@standard
def command(
    out: Output,
    ref: str,
    base: str | None,
    layers: int,
    memory: float | None,
    self_extend: str | None,
    record: bool | None,
    **options: Any,
) -> int:
    """Prove a checkpoint by its metadata and a forward pass.

    It is held against its manifest, else against its own metadata, and run at far positions. The first layers are read
    slice by slice, so that a large model needs little memory. Exits with 1 when a check fails.
    """
    import ropepatch
    from ropepatch.bundle import bundle_of
    from ropepatch.errors import UsageError
    from ropepatch.hub import refs

    remote = refs.is_remote(ref)
    if remote and record:
        raise UsageError("--record writes beside a manifest; download the checkpoint to do so")
    result = ropepatch.verify(
        ref,
        base,
        layers=layers or None,
        limit=gibibytes(memory),
        announce=lambda estimate: _announce(out, estimate),
        self_extend=_self_extend(self_extend),
        **options,
    )
    if out.json:
        out.document(result.to_json())
    else:
        _show(out, result)
    if record or (record is None and not remote and result.promise == "manifest"):
        written = bundle_of(Path(ref)).statement
        try:
            result.write(written)
        except OSError as error:
            if record:
                raise
            out.note(f"the statement was not written: {written}: {(error.strerror or str(error)).lower()}", "warning")
        else:
            if not out.json:
                out.line(f"statement  {written}")
    return 0 if result.ok else 1


def _self_extend(text: str | None) -> SelfExtend | None:
    from ropepatch.errors import UsageError
    from ropepatch.runtime_methods import SelfExtend

    if text is None:
        return None
    try:
        group, window = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--self-extend takes group and window, for example 4,64, not {text!r:.40}") from None
    return SelfExtend(group, window)


def _announce(out: Output, estimate: dict[str, Any]) -> None:
    from ropepatch.verify.memory import human

    free = f" of {human(estimate['available'])} available" if estimate["available"] else ""
    held = f", {human(estimate['held_weights'])} of them to hold weights" if estimate["held_weights"] else ""
    out.note(f"the forward pass takes at most about {human(estimate['total'])}{free}{held}", "memory")


def _show(out: Output, result: Any) -> None:
    from ropepatch.report import tables

    out.show(tables.check_table({"checks": [check.to_json() for check in result.checks]}), "")
    surroundings = result.environment
    engines = ", ".join(f"{name} {version}" for name, version in surroundings["engines"].items())
    layers = "all layers" if surroundings["layers"] is None else f"{surroundings['layers']} layers"
    out.line(f"{result.result.lower()}: {layers}, {surroundings['device']}, {surroundings['dtype']}, {engines}")
    if result.promise == "file":
        out.note("there is no manifest: the checkpoint was held against its own metadata")
