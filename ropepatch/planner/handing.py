"""What a plan hands to a person: the command, the launch lines, the notes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ropepatch import runtimes
from ropepatch.planner import candidates
from ropepatch.planner.candidates import Candidate
from ropepatch.planner.start import Start

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.runtimes.launch import Launch

#: what the base of ``theta`` is designed for, where nothing else is asked
DEFAULT_GAMMA = 0.5


def launch(model: Checkpoint, subject: Candidate, length: int) -> tuple[Launch, ...]:
    """Launch lines for the output of the proposed patch, or for the file as it is."""
    from ropepatch import output
    from ropepatch.runtimes import launch as launching

    profile, config, ref = model.profile, model.raw_config, model.ref
    if not runtimes.predicted(profile, config):
        return ()
    if subject.patch is not None:
        config = candidates.patched_config(config, subject.patch, model)
        profile, ref = subject.patch.after, str(output.default_output(subject.patch))
    elif subject.refused is not None:
        return ()
    return tuple(launching.lines(ref, profile, config, length))


def command(
    model: Checkpoint, start: Start, length: int, subject: Candidate, original: int | None, target: float | None
) -> str | None:
    """The ``apply`` that makes the change; None where nothing changes."""
    if subject.patch is None:
        return None
    parts = ["ropepatch", "apply", "--method", subject.method, "--length", str(length)]
    if subject.method == "theta":
        parts += ["--target-gamma", f"{DEFAULT_GAMMA if target is None else target:g}"]
    if start.existing != "error":
        parts += ["--existing", start.existing]
    if original:
        parts += ["--original-length", str(original)]
    if start.group != model.reached(None):
        parts += ["--group", start.group]
    return shlex.join([*parts, model.ref])


def notes(model: Checkpoint, start: Start, length: int, subject: Candidate) -> list[str]:
    """What a person should know beside the verdict."""
    profile = model.profile
    group = profile.groups[start.group]
    found = []
    if start.existing == "compose":
        found.append(
            f"starts from the {start.context:,} tokens that the file declares with its {group.scaling.name} scaling in "
            "force, as if it had been trained so; --existing replace starts from the original context"
        )
    elif start.existing == "replace" and not group.scaled:
        found.append(f"the file declares {profile.declared_context or 0:,} tokens without a scaling that reaches them")
    elif start.existing == "replace":
        found.append(
            f"starts again from the original {start.context:,} tokens: the {group.scaling.name} scaling in the file is "
            "taken out; --existing compose stacks on it"
        )
    for name, other in profile.groups.items():
        if name != start.group:
            reach = f"see no farther than {other.window:,} tokens" if other.window else "are not planned for"
            found.append(f"{name} stays as it is: its layers {reach}")
    if profile.nope_layers:
        found.append(f"{len(profile.nope_layers)} layers have no RoPE: nothing here says how far they reach")
    if group.mrope_section:
        found.append("M-RoPE: for text its sections share one position, which is what is counted here")
    if subject.frequencies.inv_freq.size and not group.scaling.static and subject.method == "as it is":
        found.append("the file's scaling follows the length: the numbers are those at the length asked for")
    return found
