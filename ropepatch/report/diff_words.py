"""A difference of two checkpoints in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ropepatch.differences import FrequencyDifference, Setting, close, compared
from ropepatch.diffing import Diff, GroupDifference
from ropepatch.frequencies import group_frequencies, plain_base
from ropepatch.report.text import number, short
from ropepatch.runtimes.side import Side

#: settings that say nothing about the rotation itself
_NO_EFFECT = ("layout", "layers", "window", "scalable", "head_dim", "factors")
_OF_EVERY_METHOD = ("scaling.method", "scaling.factor")
#: a note about something that people do, not about what is computed
_SHIFT = "context shift"
#: reasons named in the sentence; all of them stand in ``Diff.reasons``
_NAMED = 5


def sentence(result: Diff) -> str:
    """The result, and where there is a difference, why."""
    if result.refused:
        return " ".join(f"{_capital(reason)}." for reason in reasons(result))
    if result.equivalent:
        return _alike(result)
    found = reasons(result)
    why = f" Why: {'; '.join(found[:_NAMED])}." if found else ""
    return _difference(result) + why


def told(result: Diff) -> list[str]:
    """The sentence for a terminal: what differs, and each reason on a line of its own."""
    if result.refused or result.equivalent:
        return [sentence(result)]
    found = reasons(result)
    return [_difference(result), *(["", "Why:"] if found else []), *(f"* {reason}" for reason in found)]


def _alike(result: Diff) -> str:
    one, two = (item.runtime for item in result.sides)
    if result.identical and one == two:
        return "No difference: settings, contexts and frequencies are the same."
    if not result.same_contexts:
        return f"The frequencies are the same, but {_contexts(result.contexts)}."
    if one != two:
        return "No difference at the lengths compared: the frequencies are the same."
    return "The frequencies are the same; only the spelling differs."


def _contexts(contexts: Sequence[Setting]) -> str:
    named = [item for item in contexts if item.a is not None and item.b is not None and not item.same]
    return " and ".join(
        f"the {item.name.replace('_', ' ')} differs ({item.a:,} and {item.b:,} tokens)" for item in named
    )


def _who(result: Diff) -> tuple[str, str]:
    """The sides by their runtimes where these tell them apart, else by their order."""
    one, two = result.sides
    if one.runtime and two.runtime and one.runtime != two.runtime:
        return one.runtime, two.runtime
    return "the first", "the second"


def _difference(result: Diff) -> str:
    """The sentence for the group and length that differ most."""
    who = _who(result)
    for group in result.groups:
        if group.a is None or group.b is None:
            side = who[1] if group.a is None else who[0]
            return f"They differ: only {side} has the rope group {group.name.strip(' -/')}."
    found = [(group, item) for group in result.groups for item in group.frequencies if not item.equivalent]
    if not found:
        return "They differ: the frequencies are the same, the scale or sections of a group are not."
    group, item = max(found, key=lambda pair: (pair[1].pairs[0] != pair[1].pairs[1], _distance(pair[1])))
    where = _length(group, item)
    if len(result.groups) > 1:
        where = f"in {group.name} {where}"
    return f"They differ {where}: {_frequencies(item, who)}."


def _length(group: GroupDifference, item: FrequencyDifference) -> str:
    if all((other.ratio, other.attention_scale) == (item.ratio, item.attention_scale) for other in group.frequencies):
        return "at every length"
    return "in short contexts" if item.length is None else f"at {item.length:,} tokens"


def _distance(item: FrequencyDifference) -> float:
    return abs(math.log(item.ratio)) if item.ratio > 0 else math.inf


def _frequencies(item: FrequencyDifference, who: tuple[str, str]) -> str:
    if item.pairs[0] != item.pairs[1]:
        return f"{who[0]} rotates {item.pairs[0]} pairs, {who[1]} {item.pairs[1]}"
    parts = []
    if item.pair is not None:
        parts.append(
            f"{item.differing} of {item.pairs[0]} pairs, from wavelength {item.from_wavelength:,.4g} on, "
            f"{_turning(item, who)} at pair {item.pair}"
        )
    if not close(*item.attention_scale):
        parts.append("attention scale {:.6g} against {:.6g}".format(*item.attention_scale) + _logits(item, who))
    if item.distance is not None:
        parts.append(f"over a distance of {tokens_apart(item.distance)} the rotation is off by more than π/8")
    return "; ".join(parts)


def _logits(item: FrequencyDifference, who: tuple[str, str]) -> str:
    """What another magnitude on cos and sin does to attention: it counts in queries and in keys."""
    a, b = item.attention_scale
    if a <= 0 or b <= 0:
        return ""
    larger, times = (who[0], (a / b) ** 2) if a > b else (who[1], (b / a) ** 2)
    return f" (attention logits {times:.4g} times as large in {larger})"


def tokens_apart(distance: float) -> str:
    """A distance in whole tokens: two positions are never less than one token apart."""
    whole = max(1, math.ceil(distance))
    return f"{whole:,} token{'s' if whole > 1 else ''}"


def _turning(item: FrequencyDifference, who: tuple[str, str]) -> str:
    if math.isinf(item.ratio):
        return f"standing still in {who[1]}"
    if item.ratio == 0:
        return f"standing still in {who[0]}"
    slower, times = (who[1], item.ratio) if item.ratio > 1 else (who[0], 1 / item.ratio)
    return f"up to {times:.6g} times slower in {slower}"


def reasons(result: Diff) -> list[str]:
    """What makes the two compute differently, one clause each; empty where they compute the same."""
    one, two = result.sides
    if result.refused:
        return _refusals(one, two)
    if result.equivalent:
        return []
    files = ("the file", "the file") if _one_file(result) else ("the first file", "the second file")
    found = [*_reading(one, two, files[0]), *_reading(two, one, files[1])]
    if one.switches != two.switches:
        found += [
            f"{item.runtime} switches factors {' and '.join(item.switches)}" for item in (one, two) if item.switches
        ]
    settings = _settings(result)
    if settings:
        found.append(f"the files differ in {', '.join(settings)}")
    return found


def _one_file(result: Diff) -> bool:
    return result.a.source == result.b.source


def _refusals(one: Side, two: Side) -> list[str]:
    found = []
    for which, item, other in (("first", one, two), ("second", two, one)):
        if item.refusal is None:
            continue
        name = "it" if item.profile.source == other.profile.source else f"the {which}"
        said = item.refusal.removeprefix(f"{item.runtime} ").removeprefix(f"{(item.spec or '').partition('@')[0]} ")
        said = said if said.startswith(("refuses", "does not")) else f"does not run {name}: it {said}"
        found.append(f"{item.runtime} {said}")
    return list(dict.fromkeys(found))


def _reading(item: Side, other: Side, file: str) -> list[str]:
    """How a runtime departs from what the file says, and the keys that it alone ignores."""
    if item.runtime is None:
        return []
    found = []
    ignored = [key for key in item.ignored if key not in other.ignored]
    if not item.as_written:
        found.append(f"{item.runtime} departs from the method that {file} names ({_departure(item)})")
    elif not ignored:
        found.append(f"{item.runtime} computes what {file} says")
    if ignored:
        same_file = item.profile.source == other.profile.source and other.runtime is not None
        found.append(f"{item.runtime} ignores {', '.join(ignored)}" + (f", {other.runtime} does not" * same_file))
    if not item.as_written:
        found += [f"in {item.runtime} {note}" for note in item.notes if note not in other.notes and _SHIFT not in note]
    return found


def _departure(item: Side) -> str:
    """Where a runtime is furthest from the file's own definition."""
    differences = [
        compared(group_frequencies(item.group(name), at), item.frequencies(name, at), at)
        for at in item.predictions
        for name in item.names
    ]
    worst = max(differences, key=lambda one: (one.pairs[0] != one.pairs[1], _distance(one), not one.equivalent))
    if worst.pairs[0] != worst.pairs[1]:
        return f"{worst.pairs[1]} pairs rotate instead of {worst.pairs[0]}"
    parts = [_plain(item)] if _plain(item) else []
    if worst.pair is not None:
        ratio = max(worst.ratio, 1 / worst.ratio) if 0 < worst.ratio < math.inf else math.inf
        parts.append(f"×{ratio:.4g} at pair {worst.pair}")
    if not close(*worst.attention_scale):
        parts.append("attention scale {1:.6g} instead of {0:.6g}".format(*worst.attention_scale))
    return ", ".join(parts)


def _plain(item: Side) -> str:
    """Plain RoPE where the file says a scaling, or another base."""
    for at in item.predictions:
        for name in item.names:
            base = plain_base(item.frequencies(name, at))
            if base is not None and plain_base(group_frequencies(item.group(name), at)) != base:
                return f"plain RoPE of base {base:.0f}"
    return ""


def _settings(result: Diff) -> list[str]:
    """The settings of the files that differ and act on the rotation."""
    found: dict[str, None] = {}
    for group in result.groups:
        if group.a is None or group.b is None:
            continue
        differing = [item for item in group.settings if not item.same and not item.name.startswith(_NO_EFFECT)]
        other_method = any(item.name == "scaling.method" for item in differing)
        for item in differing:
            # parameters of two methods are not comparable one by one
            if item.name == "scaling.truncate" and "gguf" in (result.a.source.format, result.b.source.format):
                found[f"{item.name} ({_value(item.a)} against {_value(item.b)}; a GGUF has no key for it)"] = None
            elif not (other_method and item.name.startswith("scaling.") and item.name not in _OF_EVERY_METHOD):
                found[f"{item.name} ({_value(item.a)} against {_value(item.b)})"] = None
    return list(found)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else short(value, 30)


def _capital(text: str) -> str:
    """The first letter large, unless the sentence starts with a runtime's own name."""
    return text if text.split(" ")[0].islower() else text[:1].upper() + text[1:]
