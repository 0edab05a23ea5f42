"""RP501 to RP506: what engines do with the file that no rule before has accounted for. Runs by code, after those."""

from __future__ import annotations

from collections.abc import Iterator

from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effects, grouped, refused
from ropepatch.doctor.subject import Subject
from ropepatch.errors import RopepatchError


def _left(subject: Subject) -> list[str]:
    return [spec for spec in subject.scope.specs if spec not in subject.explained]


@rule(
    "RP501",
    "engine refuses the checkpoint",
    "error",
    fix="the engine's reason says what it wants",
    formats=("hf", "gguf"),
)
def refusal(subject: Subject) -> Iterator[Hit]:
    """The engine stops when it loads the file, or crashes on it."""
    if not isinstance(subject.lifted, RopepatchError):
        by_reason: dict[str, list[str]] = {}
        for spec in _left(subject):
            error = subject.refuses(spec)
            if error is not None:
                by_reason.setdefault(refused(spec, error), []).append(spec)
        for reason, specs in by_reason.items():
            first = subject.refuses(specs[0])
            said = grouped(specs, lambda spec, reason=reason: reason)  # type: ignore[misc]
            yield Hit("", said, tuple(specs), (), first.hint if first is not None and first.hint else None)


@rule("RP502", "engine leaves the scaling off", "error", fix="use another engine, or another method")
def off(subject: Subject) -> Iterator[Hit]:
    """The engine loads the file without a word and turns by the plain rotation, as if there were no scaling."""
    specs = tuple(s for s in _left(subject) if not subject.refuses(s) and subject.unscaled(s))
    if specs:
        notes = {note for spec in specs for one in subject.predictions(spec) for note in one.notes}
        because = f" ({'; '.join(sorted(notes))})" if notes else ""
        yield Hit("", f"{effects(subject, specs)}{because}", specs)


@rule("RP503", "engine computes something else", "warning", fix="use an engine that agrees, or another method")
def otherwise(subject: Subject) -> Iterator[Hit]:
    """The engine turns by other frequencies, or multiplies cos and sin by another magnitude, than the settings say."""
    specs = tuple(
        s for s in _left(subject) if not subject.refuses(s) and not subject.unscaled(s) and subject.differs(s)
    )
    by_notes: dict[tuple[str, ...], list[str]] = {}
    for spec in specs:
        notes = tuple(dict.fromkeys(note for one in subject.predictions(spec) for note in one.notes))
        by_notes.setdefault(notes, []).append(spec)
    for notes, found in by_notes.items():
        because = f" ({'; '.join(notes)})" if notes else ""
        yield Hit("", f"{effects(subject, found)}{because}", tuple(found))
