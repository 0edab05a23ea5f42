"""Whether a document has the members and types that its schema gives it, for readers that rely on them.

jsonschema says more than this, and takes longer to load than most commands take to run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator
from typing import Any

from ropepatch import schemas

_REF = "urn:ropepatch:schema:"
_MOST = 1 << 63
_WORDS = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def misfit(name: str, document: Any, unread: Collection[str] = ()) -> str | None:
    """Where ``document`` is not what schema ``name`` says, in one line; None where it is.

    What counts are required members, types, how few entries there may be, the least numbers, and words of a closed
    list; whole numbers have 64 bits. Members that the schema does not know, and how a text has to look, are left to
    :func:`ropepatch.schemas.validator`.

    Args:
        name: the schema.
        document: parsed JSON.
        unread: names of members that nobody reads, which may be missing or anything.
    """
    try:
        return next(_misfits(schemas_of(name), name, document, "", frozenset(unread)), None)
    except RecursionError:
        return "it is nested too deeply"


@functools.cache
def schemas_of(name: str) -> dict[str, Any]:
    """A schema, read once."""
    return schemas.load(name)


def _misfits(schema: Any, name: str, value: Any, at: str, unread: frozenset[str]) -> Iterator[str]:
    while "$ref" in schema:
        schema, name = _resolved(schema["$ref"], name)
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if kinds and not any(map(_kinds(value).__contains__, kinds)):
        words = " or ".join(_WORDS[kind] for kind in kinds)
        yield f"{at or 'the document'} is not {words}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key in schema.get("required", ()):
            if key not in value and key not in unread:
                yield f"{at or 'the document'} lacks {key}"
        inner: list[tuple[str, Any, Any]] = [(key, known.get(key, others), item) for key, item in value.items()]
    elif isinstance(value, list):
        inner = [(str(index), schema.get("items"), item) for index, item in enumerate(value)]
    else:
        if not isinstance(value, bool) and isinstance(value, (int, float)) and _beyond(schema, value):
            yield f"{at} is out of range"
        return
    if len(inner) < max(schema.get("minItems", 0), schema.get("minProperties", 0)):
        yield f"{at or 'the document'} is too short"
    for key, part, item in inner:
        if isinstance(part, dict) and key not in unread:
            yield from _misfits(part, name, item, f"{at}.{key}" if at else key, unread)


def _beyond(schema: Any, value: float) -> bool:
    """Whether a number is less than a schema allows, or no computer's."""
    if isinstance(value, int) and not -_MOST <= value < _MOST:
        return True
    return bool(value < schema.get("minimum", -math.inf) or value <= schema.get("exclusiveMinimum", -math.inf))


def _kinds(value: Any) -> tuple[str, ...]:
    """The types of JSON Schema that a value is of."""
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int):
        return "integer", "number"
    return ({dict: "object", list: "array", str: "string", float: "number", type(None): "null"}[type(value)],)


def _resolved(reference: str, name: str) -> tuple[Any, str]:
    """What a reference in schema ``name`` leads to, and the schema that it stands in."""
    place, _, pointer = reference.partition("#")
    if place:
        name = place.removeprefix(_REF).rpartition(":")[0]
    found: Any = schemas_of(name)
    for part in pointer.split("/")[1:]:
        found = found[part]
    return found, name
