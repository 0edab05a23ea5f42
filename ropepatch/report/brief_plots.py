"""The plots of a brief."""

from __future__ import annotations

import math

from ropepatch.methods.base import Array
from ropepatch.planner.plan import Plan
from ropepatch.report import svg
from ropepatch.report.svg import Level, Series


def plots(plan: Plan) -> list[tuple[str, str]]:
    """``(svg, caption)``: frequencies, wavelengths, rotation at the length, attention scale."""
    before, after = plan.start.trained.inv_freq, plan.subject.frequencies.inv_freq
    name, start, length = plan.subject.method, plan.start.context, plan.length
    pair = f"solid: {name}; dashed: as trained"
    about = "inv_freq of every pair before and after"
    frequencies = svg.lines("Frequencies", about, _two(before, after, name), (), "inv_freq (rad)")
    waves = _two(_wavelengths(before), _wavelengths(after), name)
    about = "wavelength of every pair against the contexts"
    wavelengths = svg.lines("Wavelengths", about, waves, _levels(start, length), "tokens a turn", named_left=True)
    angles = _two(before * start, after * length, name)
    about = "largest angle of every pair at the new length against the largest in training"
    rotation = svg.lines("Rotation at the length", about, angles, (Level("one turn", 2 * math.pi),), "radians")
    reached = (
        f"Largest angle of each pair (solid: {name} at {length:,} tokens; dashed: in training at {start:,}): below one "
        "turn, a solid line above the dashed one means angles that were never trained."
    )
    turns = f"Wavelength of each pair in tokens ({pair}): what lies above a context never completes a turn in it."
    found = [
        (frequencies, f"Frequency of each pair, radians a position ({pair})."),
        (wavelengths, turns),
        (rotation, reached),
    ]
    scales = [(item.method, item.geometry.attention_scale, item.method == name) for item in plan.methods]
    if len(scales) > 1:
        drawn = svg.bars("Attention scale", "factor on cos and sin by method", scales)
        found.append((drawn, "Factor on cos and sin by method; attention logits scale with its square."))
    return found


def _two(before: Array, after: Array, name: str) -> tuple[Series, Series]:
    return Series("as trained", "a", before.tolist()), Series(name, "b", after.tolist())


def _wavelengths(inv_freq: Array) -> Array:
    turning = inv_freq > 0
    values = inv_freq.copy()
    values[turning] = 2 * math.pi / inv_freq[turning]
    return values


def _levels(start: int, length: int) -> tuple[Level, ...]:
    levels = (Level(f"start {start:,}", start, below=True), Level(f"asked {length:,}", length))
    return levels if start != length else levels[:1]
