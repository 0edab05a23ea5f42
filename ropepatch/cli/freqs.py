"""``ropepatch freqs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import examples, standard
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.methods.base import Frequencies
    from ropepatch.profile import RopeProfile


@click.command(epilog=examples("freqs model.gguf --plot", "freqs Phi-3-mini-128k/ --length 131072 --json"))
@click.argument("ref")
@click.option("--length", type=click.IntRange(min=1), help="Context in tokens; default: up to the trained one.")
@click.option("--runtime", help="What this runtime makes of it; default: what the method defines.")
@click.option("--plot", is_flag=True, help="Draw wavelength over pair index instead of listing.")
@standard
def command(out: Output, ref: str, length: int | None, runtime: str | None, plot: bool) -> None:
    """Print inv_freq and attention scale per rope group.

    The slowest pairs may never complete a turn within the trained context; --plot draws that context as a line.
    """
    import ropepatch
    from ropepatch.errors import UsageError

    if plot and out.json:
        raise UsageError("--plot and --json exclude each other")
    model = ropepatch.open(ref)
    frequencies = model.frequencies(length, runtime)
    if out.json:
        out.document(_document(ref, length, runtime, model.profile, frequencies))
        return
    for name, group in model.profile.groups.items():
        if plot:
            _plot(out, model.profile, name, frequencies[name])
        else:
            from ropepatch.report import tables
            from ropepatch.report.text import number

            now = frequencies[name]
            out.line(f"{name}: attention scale {number(now.attention_scale)}, {group.layout} layout")
            out.show(tables.frequency_table(group, now), "")


def _document(
    ref: str, length: int | None, runtime: str | None, profile: RopeProfile, frequencies: Mapping[str, Frequencies]
) -> dict[str, Any]:
    return {
        "schema": "ropepatch.freqs/1",
        "ref": ref,
        "length": length,
        "runtime": runtime,
        "groups": {
            name: {
                "inv_freq": now.inv_freq.tolist(),
                "attention_scale": now.attention_scale,
                "rotary_dim": profile.groups[name].rotary_dim,
                "layout": profile.groups[name].layout,
            }
            for name, now in frequencies.items()
        },
    }


def _plot(out: Output, profile: RopeProfile, name: str, now: Frequencies) -> None:
    from ropepatch.report import plot

    group = profile.groups[name]
    contexts = {"trained": profile.trained_context, "declared": profile.declared_context}
    if contexts["trained"] == contexts["declared"]:
        contexts.pop("declared")
    marks = [plot.Mark(tokens, f"{label} {tokens:,}") for label, tokens in contexts.items() if tokens]
    out.line(f"{name}: wavelength in tokens over pair index ({plot.EFFECTIVE} in force, {plot.PLAIN} without scaling)")
    for line in plot.spectrum(group.spectrum().inv_freq, now.inv_freq, marks, min(out.console.width, 100)):
        print(line)
