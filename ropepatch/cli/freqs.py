"""``ropepatch freqs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ropepatch.cli._options import examples, standard, tokens
from ropepatch.cli._output import Output

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.methods.base import Frequencies
    from ropepatch.profile import RopeGroup, RopeProfile
    from ropepatch.runtimes.base import Prediction

_EXAMPLES = examples(
    "freqs model.gguf --plot",
    "freqs Phi-3-mini-128k/ --length 131072 --json",
    "freqs Qwen3-8B/ --runtime vllm@0.29 --length 131072",
    "freqs Qwen3-8B/ --all-runtimes",
)


@click.command(epilog=_EXAMPLES)
@click.argument("ref")
@click.option("--length", type=tokens, help="Context in tokens; default: up to the trained one.")
@click.option("--runtime", help="What this runtime makes of it (vllm, vllm@0.29); default: what the method defines.")
@click.option("--all-runtimes", is_flag=True, help="What every release of every runtime makes of it, side by side.")
@click.option("--plot", is_flag=True, help="Draw wavelength over pair index instead of listing.")
@standard
def command(out: Output, ref: str, length: int | None, runtime: str | None, all_runtimes: bool, plot: bool) -> None:
    """Print inv_freq and attention scale per rope group.

    The slowest pairs may never complete a turn within the trained context; --plot draws that context as a line.
    --all-runtimes compares the releases in a short context and in the declared one, or at --length.
    """
    import ropepatch
    from ropepatch.errors import UsageError

    if plot and out.json:
        raise UsageError("--plot and --json exclude each other")
    if all_runtimes and (plot or runtime):
        raise UsageError(f"--all-runtimes and {'--plot' if plot else '--runtime'} exclude each other")
    model = ropepatch.open(ref)
    if all_runtimes:
        _all_runtimes(out, model, length)
        return
    if runtime is None:
        frequencies, predictions = model.frequencies(length), {}
    else:
        from ropepatch.runtimes import readings

        predictions = readings.predicted(model, runtime, length)
        frequencies = {name: prediction.frequencies for name, prediction in predictions.items()}
    profile = _profile(model, runtime)
    if out.json:
        out.document(_document(ref, length, runtime, profile, frequencies, predictions))
    else:
        _show(out, profile, frequencies, plot)
        _tell(out, predictions)


def _profile(model: Checkpoint, runtime: str | None) -> RopeProfile | None:
    """The profile; None where a runtime computes what ropepatch cannot describe."""
    if runtime is None:
        return model.profile
    from ropepatch.runtimes import readings

    return readings.described(model)[0]


def _all_runtimes(out: Output, model: Checkpoint, length: int | None) -> None:
    from ropepatch.runtimes import readings

    found = readings.all_runtimes(model, length)
    if out.json:
        out.document(found.to_json())
        return
    from ropepatch.report import runtime_tables

    out.show(runtime_tables.readings_table(found), "")
    out.sentence(found.sentence())
    if found.unlifted:
        out.note(f"ropepatch itself does not read this file: {found.unlifted}")


def _counterpart(profile: RopeProfile | None, name: str) -> RopeGroup | None:
    """The profile's group for a runtime's, which may keep apart or join what the profile does not."""
    if profile is None:
        return None
    return profile.groups.get(name) or next(iter(profile.groups.values()))


def _show(out: Output, profile: RopeProfile | None, frequencies: Mapping[str, Frequencies], plot: bool) -> None:
    for name, now in frequencies.items():
        group = _counterpart(profile, name)
        if plot and profile is not None and group is not None:
            _plot(out, profile, group, name, now)
            continue
        from ropepatch.report import tables
        from ropepatch.report.text import number

        layout = f", {group.layout} layout" if group is not None else ""
        out.line(f"{name}: attention scale {number(now.attention_scale)}{layout}")
        out.show(tables.frequency_table(group, now), "")


def _tell(out: Output, predictions: Mapping[str, Prediction]) -> None:
    """What a runtime derives, ignores and says."""
    contexts = [one.context for one in predictions.values() if one.context is not None]
    if contexts:
        out.note(f"serves {max(contexts):,} tokens unless told otherwise")
    ignored = dict.fromkeys(key for one in predictions.values() for key in one.ignored)
    if ignored:
        out.note(f"ignores {', '.join(ignored)}")
    for note in dict.fromkeys(note for one in predictions.values() for note in one.notes):
        out.note(note)


def _document(
    ref: str,
    length: int | None,
    runtime: str | None,
    profile: RopeProfile | None,
    frequencies: Mapping[str, Frequencies],
    predictions: Mapping[str, Prediction],
) -> dict[str, Any]:
    groups = {}
    for name, now in frequencies.items():
        group = _counterpart(profile, name)
        groups[name] = {
            "inv_freq": now.inv_freq.tolist(),
            "attention_scale": now.attention_scale,
            "rotary_dim": group.rotary_dim if group is not None and runtime is None else 2 * now.inv_freq.size,
            "layout": group.layout if group is not None else None,
        }
        if name in predictions:
            one = predictions[name]
            groups[name] |= {
                "context": one.context,
                "ignored": list(one.ignored),
                "notes": list(one.notes),
                "switches": one.switches,
            }
    return {"schema": "ropepatch.freqs/1", "ref": ref, "length": length, "runtime": runtime, "groups": groups}


def _plot(out: Output, profile: RopeProfile, group: RopeGroup, name: str, now: Frequencies) -> None:
    from ropepatch.report import plot

    contexts = {"trained": profile.trained_context, "declared": profile.declared_context}
    if contexts["trained"] == contexts["declared"]:
        contexts.pop("declared")
    marks = [plot.Mark(tokens, f"{label} {tokens:,}") for label, tokens in contexts.items() if tokens]
    out.line(f"{name}: wavelength in tokens over pair index ({plot.EFFECTIVE} in force, {plot.PLAIN} without scaling)")
    for line in plot.spectrum(group.spectrum().inv_freq, now.inv_freq, marks, min(out.console.width, 100)):
        print(line)
