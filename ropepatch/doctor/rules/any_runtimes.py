"""RP501 to RP505: what engines do with the file that no rule before, by code, has accounted for."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effects, grouped, refused
from ropepatch.doctor.scope import labels
from ropepatch.doctor.subject import Subject
from ropepatch.errors import NoRope, RopepatchError


def _left(subject: Subject) -> list[str]:
    return [spec for spec in subject.scope.specs if spec not in subject.explained]


def _notes(subject: Subject, spec: str) -> tuple[str, ...]:
    """What a prediction says about its computation; which option a longer context needs is another matter."""
    notes = dict.fromkeys(note for one in subject.predictions(spec) for note in one.notes)
    return tuple(note for note in notes if not note.startswith("needs "))


def _because(notes: Collection[str]) -> str:
    return f" ({'; '.join(sorted(notes))})" if notes else ""


@rule(
    "RP501",
    "engine refuses the checkpoint",
    "error",
    fix="the engine's reason says what it wants",
    formats=("hf", "gguf"),
)
def refusal(subject: Subject) -> Iterator[Hit]:
    """The engine stops when it loads the file, or crashes on it, for a reason that no other rule has named."""
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
        because = _because({note for spec in specs for note in _notes(subject, spec)})
        yield Hit("", f"{effects(subject, specs)}{because}", specs)


@rule("RP503", "engine computes something else", "warning", fix="use an engine that agrees, or another method")
def otherwise(subject: Subject) -> Iterator[Hit]:
    """The engine turns by other frequencies, or multiplies cos and sin by another magnitude, than the settings say."""
    specs = tuple(
        s for s in _left(subject) if not subject.refuses(s) and not subject.unscaled(s) and subject.differs(s)
    )
    by_notes: dict[tuple[str, ...], list[str]] = {}
    for spec in specs:
        notes = _notes(subject, spec)
        by_notes.setdefault(notes, []).append(spec)
    for notes, found in by_notes.items():
        yield Hit("", f"{effects(subject, found)}{_because(notes)}", tuple(found))


@rule("RP504", "settings that cannot be read", "error", fix="mend the value; the message says what would work")
def unreadable(subject: Subject) -> Iterator[Hit]:
    """ropepatch cannot make a rotation out of the file: a value is missing, impossible or of the wrong kind. Engines
    that do not look at it may still load the file."""
    error = subject.lifted
    known = subject.explained
    if not isinstance(error, RopepatchError) or isinstance(error, NoRope):
        return
    stops = tuple(spec for spec in subject.scope.specs if subject.refuses(spec))
    if known and set(stops) <= known:
        return
    where = (error.where or "").rpartition(": ")[2] if ": " in (error.where or "") else ""
    hint = error.hint or "mend the value"
    yield Hit(where, f"{error.what}: {labels(stops) or 'nobody'} cannot load it", stops, (), hint)


@rule("RP505", "no rotary embedding", "info", fix="nothing to do")
def no_rope(subject: Subject) -> Iterator[Hit]:
    """The architecture has no RoPE; whatever rope keys stand in the file do nothing."""
    if isinstance(subject.lifted, NoRope):
        yield Hit("", subject.lifted.what)
