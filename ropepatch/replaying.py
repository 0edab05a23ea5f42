"""The same patch for a sibling: another quantisation, another copy, or (when it is forced) another model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from ropepatch import checkpoint
from ropepatch.dialects.base import Lowering, is_gguf
from ropepatch.errors import InputError
from ropepatch.manifest import Manifest
from ropepatch.methods.base import Method, ParameterError
from ropepatch.methods.stack import Stack
from ropepatch.patch import Patch
from ropepatch.profile import RopeProfile


def replay(record: Manifest | Patch, ref: str | Path, *, force: bool = False) -> Patch:
    """The same change for a sibling checkpoint (another quantisation, another copy); nothing is written.

    Args:
        record: a manifest, or a patch.
        ref: the sibling.
        force: also for another model: the method with its parameters is put in force there, by edits of its own.

    Raises:
        InputError: it is of another format, or another model and ``force`` is off.
    """
    patch = record.patch if isinstance(record, Manifest) else record
    model = checkpoint.open(ref)
    before = model.profile
    if before.source.format != patch.before.source.format:
        raise InputError(
            f"is {before.source.format}, the patch is for {patch.before.source.format}",
            where=model.ref,
            hint=f"use apply --method {patch.method}",
        )
    other = _otherness(before, patch.before)
    if other and force:
        return _anew(patch, model)
    if other and _otherness(before, patch.after) is None:
        raise InputError("has this patch already", where=model.ref)
    if other:
        raise InputError(
            f"is another model than the one that the patch was made for: {other}",
            where=model.ref,
            hint=f"--force puts {patch.method} with the same parameters in force here; ropepatch diff compares the two",
        )
    edits = tuple(patch.edits)
    if is_gguf(model.dialect):
        from ropepatch.dialects import gguf_lower

        edits = tuple(gguf_lower.moved(model.dialect, edits))
    after = dataclasses.replace(patch.after, source=before.source, notes=before.notes)
    return dataclasses.replace(patch, ref=model.ref, edits=edits, before=before, after=after, root=model.dialect.root)


def _otherness(found: RopeProfile, wanted: RopeProfile) -> str | None:
    """In what a checkpoint differs from the one that a patch starts from; None where it does not."""
    pairs: list[tuple[str, Any, Any]] = [
        ("architecture", found.source.architecture, wanted.source.architecture),
        ("trained context", found.trained_context, wanted.trained_context),
        ("declared context", found.declared_context, wanted.declared_context),
        ("rope groups", sorted(found.groups), sorted(wanted.groups)),
    ]
    for name in sorted(set(found.groups) & set(wanted.groups)):
        mine, theirs = found.groups[name], wanted.groups[name]
        pairs += [
            (f"{name}.{item.name}", getattr(mine, item.name), getattr(theirs, item.name))
            for item in dataclasses.fields(mine)
        ]
    different = [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]
    if not different:
        return None
    name, mine, theirs = different[0]
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    return f"{name} is {_in_short(mine)}, there it is {_in_short(theirs)}{more}"


def _in_short(value: Any) -> str:
    from ropepatch.report.text import short

    return short(value.to_json() if hasattr(value, "to_json") else value, 60)


def _anew(patch: Patch, model: checkpoint.Checkpoint) -> Patch:
    """The patch's methods in a checkpoint of the same rope groups that is otherwise another one."""
    before = model.profile
    if set(before.groups) != set(patch.after.groups):
        raise InputError(
            f"has the rope groups {', '.join(before.groups)}, the patch is for {', '.join(patch.after.groups)}",
            where=model.ref,
            hint=f"use apply --method {patch.method}",
        )
    trained = before.trained_context or before.declared_context
    groups = {
        name: dataclasses.replace(group, scaling=_counted_from(patch.after.groups[name].scaling, trained), factors=None)
        if patch.after.groups[name].scaling != patch.before.groups[name].scaling
        else group
        for name, group in before.groups.items()
    }
    stages = max((_stages(group.scaling) for group in groups.values()), key=len, default=())
    factor = math.prod(getattr(stage, "factor", 1) for stage in stages) if len(stages) > 1 else patch.factor
    longer = round(factor * trained) if factor and trained else patch.after.declared_context
    after = dataclasses.replace(before, groups=groups, trained_context=trained, declared_context=longer)
    try:
        edits, notes = model.dialect.lower(before, after, Lowering())
    except ParameterError as error:
        raise InputError(f"cannot take the patch: {error}", where=model.ref) from None
    return dataclasses.replace(
        patch,
        ref=model.ref,
        edits=tuple(edits),
        before=before,
        after=after,
        notes=(*notes, "made anew for another model than the one that the manifest is of"),
        root=model.dialect.root,
    )


def _stages(scaling: Method) -> tuple[Method, ...]:
    return scaling.stages if isinstance(scaling, Stack) else (scaling,)


def _counted_from(scaling: Method, trained: int | None) -> Method:
    """A method with its parameters, counting from another original context."""
    if isinstance(scaling, Stack):
        stages: list[Method] = []
        for stage in scaling.stages:  # each goes on where the one before it has come to
            stages.append(_counted_from(stage, trained))
            trained = trained and round(trained * getattr(stage, "factor", 1))
        return Stack(tuple(stages))
    if trained is None or "original_max_position_embeddings" not in {item.name for item in dataclasses.fields(scaling)}:
        return scaling
    changed: Any = {"original_max_position_embeddings": trained}
    return dataclasses.replace(scaling, **changed)
