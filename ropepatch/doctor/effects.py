"""What engines make of a checkpoint, in a few words with numbers from their predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ropepatch.doctor.scope import labels
from ropepatch.doctor.subject import Subject
from ropepatch.errors import RopepatchError
from ropepatch.frequencies import TOLERANCE, ratios
from ropepatch.methods.base import Frequencies
from ropepatch.runtimes.base import Prediction


def effects(subject: Subject, specs: Sequence[str]) -> str:
    """``tgi: …; mlx-lm, exllamav2: …``: engines with the same effect together."""
    return grouped(specs, lambda spec: effect(subject, spec))


def grouped(specs: Sequence[str], say: Callable[[str], str]) -> str:
    """The engines by what is said of them."""
    by_text: dict[str, list[str]] = {}
    for spec in specs:
        by_text.setdefault(say(spec), []).append(spec)
    return "; ".join(f"{labels(found)}: {text}" for text, found in by_text.items())


def effect(subject: Subject, spec: str) -> str:
    """What an engine does otherwise than the settings say."""
    refusal = subject.refuses(spec)
    if refusal is not None:
        return refused(spec, refusal)
    off = subject.unscaled(spec)
    if off:
        return f"scaling off, plain rotation{_when(subject, spec, off)}"
    found = [(group, length, *_words(subject, spec, group, length)) for group, length in _differing(subject, spec)]
    if not found:
        return "computes what the settings say"
    group, length, _, text = max(found, key=lambda item: item[2])
    everywhere = sum(name == group and words == text for name, _, _, words in found)
    if everywhere == 1:
        text += _when(subject, spec, (length,))
    return f"{text} ({group})" if len(subject.reference(None)) > 1 else text


def _when(subject: Subject, spec: str, lengths: Sequence[int | None]) -> str:
    """At which of the two lengths something holds; nothing where it is both."""
    if len(lengths) > 1 or not subject.reach:
        return ""
    if lengths[0] is not None:
        return f" at {lengths[0]:,} tokens"
    loaded = any(one.switches == "at load" for one in subject.predictions(spec))
    return f", unless loaded for {subject.reach:,} tokens" if loaded else " in short contexts"


def refused(spec: str, error: RopepatchError) -> str:
    """The reason of a refusal without the engine's name and release before it."""
    words = error.what.split(" ")
    name = spec.partition("@")[0]
    return " ".join(words[2:]) if words[0] == name and len(words) > 2 else error.what


def _differing(subject: Subject, spec: str) -> list[tuple[str, int | None]]:
    return [(group, length) for group, length, cell in subject.cells(spec) if not cell.same]


def _words(subject: Subject, spec: str, group: str, length: int | None) -> tuple[float, str]:
    """How far a group is off, and that in words."""
    found = subject.outcome(spec, length)
    assert isinstance(found, dict)
    mine = found.get(group) or found.get("default") or next(iter(found.values()))
    return against(subject.reference(length)[group], mine)


def against(meant: Frequencies, mine: Prediction) -> tuple[float, str]:
    """How far a prediction is from what is meant, and that in words."""
    if meant.inv_freq.shape != mine.inv_freq.shape:
        return math.inf, f"rotates {mine.inv_freq.size} pairs instead of {meant.inv_freq.size}"
    parts, far = [], 0.0
    quotient = ratios(mine.inv_freq, meant.inv_freq)
    with np.errstate(divide="ignore"):
        distance = np.abs(np.log(np.abs(quotient)))
    if distance.size and float(distance.max()) > TOLERANCE:
        pair = int(np.argmax(distance))
        far = float(distance[pair])
        parts.append(f"pair {pair} turns {_times(float(quotient[pair]))}")
    if not math.isclose(mine.attention_scale, meant.attention_scale, rel_tol=TOLERANCE):
        parts.append(f"attention scale {mine.attention_scale:.4g} instead of {meant.attention_scale:.4g}")
        scales = abs(mine.attention_scale), abs(meant.attention_scale)
        far += abs(math.log(scales[0] / scales[1])) if min(scales) > 0 else math.inf
    return far, ", ".join(parts) or "the same"


def _times(quotient: float) -> str:
    if quotient == 0:
        return "not at all"
    if math.isinf(quotient):
        return "though it should stand still"
    fast = quotient > 1
    size = quotient if fast else 1 / quotient
    if size < 1.1:
        return f"{100 * (size - 1):.2g} % too {'fast' if fast else 'slow'}"
    return f"{size:.3g} times too {'fast' if fast else 'slow'}"
