"""The edits of several findings as one patch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.doctor.base import Finding
from ropepatch.doctor.files import TOKENIZER
from ropepatch.doctor.subject import Subject
from ropepatch.errors import InputError, RopepatchError, UsageError
from ropepatch.patch import Edit, Patch, Value
from ropepatch.profile import RopeProfile

if TYPE_CHECKING:
    from ropepatch.dialects.gguf import GgufDialect

#: one mend may uncover another; more rounds than rules would be a circle
_ROUNDS = 50
_ABSENT = object()


def fix(subject: Subject, examine: Callable[[Subject], list[Finding]]) -> tuple[Patch, list[Finding]]:
    """Mend one finding after the other until nothing is left that can be mended without a choice."""
    if not subject.format:
        raise UsageError("no rule reads this format; there is nothing to mend", hint="see ropepatch inspect")
    mended: list[Finding] = []
    now = subject
    for _ in range(_ROUNDS):
        done = {(one.rule, one.where) for one in mended}
        open_ = [one for one in examine(now) if one.edits and (one.rule, one.where) not in done]
        if not open_:
            break
        mended.append(open_[0])
        now = now.with_edits(open_[0].edits)
    after = _profile(now)
    edits = tuple(_edits(subject, now))
    before = subject.lifted if isinstance(subject.lifted, RopeProfile) else after
    patch = Patch(
        ref=subject.ref,
        method="doctor",
        factor=None,
        parameters={name: group.scaling.to_json() for name, group in after.groups.items()},
        edits=edits,
        before=before,
        after=after,
        notes=tuple(f"{one.rule} {one.title}: {one.message}" for one in mended),
        root=subject.dialect.root,
    )
    return patch, mended


def _profile(subject: Subject) -> RopeProfile:
    if isinstance(subject.lifted, RopepatchError):
        raise InputError(
            f"cannot be read, and nothing that doctor can mend by itself changes that: {subject.lifted}",
            hint="ropepatch doctor without --fix shows the findings",
        )
    return subject.lifted


def _edits(before: Subject, after: Subject) -> Iterator[Edit]:
    if before.format == "gguf":
        yield from _key_edits(before, after)
        return
    if before.format != "hf":
        return
    yield from _json_edits(before.file, (), before.config, after.config)
    yield from _json_edits(TOKENIZER, (), before.tokenizer, after.tokenizer)


def _json_edits(file: str, path: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Edit]:
    for key in {**old, **new}:
        a, b = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _json_edits(file, (*path, key), a, b)
        elif a is _ABSENT or b is _ABSENT or (type(a), a) != (type(b), b):
            before, after = (None if value is _ABSENT else Value(value) for value in (a, b))
            yield Edit(file, "json", (*path, key), before, after)


def _key_edits(before: Subject, after: Subject) -> Iterator[Edit]:
    old, new = before.gguf.dialect.header, after.gguf.dialect.header
    for key in {**old.keys, **new.keys}:
        a, b = old.keys.get(key), new.keys.get(key)
        if a is b:
            continue
        values = [Value(head.get(key), head.type_of(key)) if key in head.keys else None for head in (old, new)]
        yield Edit(before.file, "key", (key,), values[0], values[1])


def reread(patch: Patch, dialect: GgufDialect) -> RopeProfile:
    """The profile after a patch whose tensors are not in the file yet, with what the patched keys still leave over."""
    keys = dialect.header.keys
    left = {key: value for key, value in patch.after.unrecognised.items() if key in keys}
    return dataclasses.replace(patch.after, unrecognised=left)
