"""Edits and patches: what a change is, as data that inverts and travels as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.errors import InputError
from ropepatch.profile import RopeProfile

if TYPE_CHECKING:
    from ropepatch.hub.push import Publication
    from ropepatch.manifest import Manifest

SCHEMA = "ropepatch.patch/1"


@dataclass(frozen=True)
class Value:
    """A value with the type that its container gives it.

    Attributes:
        data: JSON-compatible value; for a tensor the flat list of its elements.
        type: the container's type name (GGUF value type, tensor dtype); None in JSON files.
        shape: a tensor's shape in numpy order.
    """

    data: Any
    type: str | None = None
    shape: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"value", "type"?, "shape"?}``."""
        out: dict[str, Any] = {"value": self.data}
        if self.type is not None:
            out["type"] = self.type
        if self.shape is not None:
            out["shape"] = list(self.shape)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Value:
        """The value that :meth:`to_json` wrote."""
        shape = data.get("shape")
        return cls(data["value"], data.get("type"), tuple(shape) if shape is not None else None)


@dataclass(frozen=True)
class Edit:
    """One reversible change to one file.

    Attributes:
        file: the file's name, relative to the checkpoint.
        target: ``key`` (GGUF metadata), ``tensor`` or ``json``.
        path: the key or tensor name, or the path of keys into a JSON object.
        before: the value that is replaced; None when there is none.
        after: the new value; None deletes.
    """

    file: str
    target: str
    path: tuple[str, ...]
    before: Value | None
    after: Value | None

    @property
    def name(self) -> str:
        """The path as one text."""
        return ".".join(self.path)

    def inverse(self) -> Edit:
        """The edit that undoes this one."""
        return Edit(self.file, self.target, self.path, self.after, self.before)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; an absent ``before`` or ``after`` is left out, which is not the same as a null in it."""
        out: dict[str, Any] = {"file": self.file, "target": self.target, "path": list(self.path)}
        if self.before is not None:
            out["before"] = self.before.to_json()
        if self.after is not None:
            out["after"] = self.after.to_json()
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Edit:
        """The edit that :meth:`to_json` wrote."""
        before, after = data.get("before"), data.get("after")
        return cls(
            str(data["file"]),
            str(data["target"]),
            tuple(data["path"]),
            Value.from_json(before) if before is not None else None,
            Value.from_json(after) if after is not None else None,
        )


@dataclass(frozen=True)
class Patch:
    """A list of edits, with the profile before and after.

    Attributes:
        ref: the checkpoint that it was made for.
        method: the method's name.
        factor: the extension, None where the method has none.
        parameters: the method's parameters as JSON, by group.
        edits: what changes.
        before: the profile as it was read.
        after: the profile that the method defines.
        notes: what a person should know before using the output.
        search: how a search found the factors; None where none did.
    """

    ref: str
    method: str
    factor: float | None
    parameters: Mapping[str, Any]
    edits: tuple[Edit, ...]
    before: RopeProfile
    after: RopeProfile
    notes: tuple[str, ...] = ()
    root: Path | None = field(default=None, compare=False)
    search: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The patch as the JSON that ``schemas/patch.schema.json`` describes."""
        return {
            "schema": SCHEMA,
            "ref": self.ref,
            "method": self.method,
            "factor": self.factor,
            "parameters": dict(self.parameters),
            "edits": [edit.to_json() for edit in self.edits],
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "notes": list(self.notes),
            **({"search": dict(self.search)} if self.search is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Patch:
        """The patch that :meth:`to_json` wrote.

        Raises:
            InputError: it is another document, or not whole.
        """
        if data.get("schema") != SCHEMA:
            raise InputError(f"is not a patch: schema is {data.get('schema')!r}, not {SCHEMA!r}")
        from ropepatch import shapes

        fault = shapes.misfit("patch", data, ("notes",) if "notes" not in data else ())
        if fault is not None:
            raise InputError(f"is not a whole patch: {fault}")
        try:
            return cls(
                ref=data["ref"],
                method=data["method"],
                factor=data["factor"],
                parameters=data["parameters"],
                edits=tuple(Edit.from_json(edit) for edit in data["edits"]),
                before=RopeProfile.from_json(data["before"]),
                after=RopeProfile.from_json(data["after"]),
                notes=tuple(data.get("notes", ())),
                search=data.get("search"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"is not a whole patch: {type(error).__name__} {error}") from None

    def write(self, output: str | Path | None = None, **options: Any) -> Manifest:
        """Write the patched checkpoint and its manifest; see :func:`ropepatch.output.write`."""
        from ropepatch import output as writer

        return writer.write(self, output, **options)

    def push(self, to: str | None = None, **options: Any) -> Publication:
        """Write the patched checkpoint and publish it on the Hub; see :func:`ropepatch.hub.push.publish`."""
        from ropepatch.hub.push import publish

        return publish(self, to, **options)


def difference(
    file: str, target: str, before: Mapping[tuple[str, ...], Value], after: Mapping[tuple[str, ...], Value | None]
) -> list[Edit]:
    """The edits that bring the values of ``after`` about, leaving out those that are there already."""
    edits = []
    for path, value in after.items():
        old = before.get(path)
        if old != value:
            edits.append(Edit(file, target, path, old, value))
    return edits


def group_edits(edits: Sequence[Edit]) -> dict[str, list[Edit]]:
    """The edits of each file, in order."""
    by_file: dict[str, list[Edit]] = {}
    for edit in edits:
        by_file.setdefault(edit.file, []).append(edit)
    return by_file
