"""JSON files: strict reading of hostile texts, and edits that leave every other byte as it was."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from json import decoder
from pathlib import Path
from typing import Any

from ropepatch.errors import InputError

#: A config.json is a few kilobytes; the largest with factor lists in the corpus has about 20.
MAX_SIZE = 16 << 20
#: commas and opening brackets bound the number of values, each of which takes up to a hundred bytes of memory
MAX_VALUES = 1 << 20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")


def read(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The text of a JSON object file, and the object.

    Raises:
        InputError: it is missing, too large, no UTF-8, no JSON, nested too deeply, repeats a key, holds NaN or
            infinity, or is not an object.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_SIZE:
            raise InputError(f"{size} bytes are too many for a config (limit {MAX_SIZE})", where=str(path))
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at offset {error.start}", where=str(path)) from None
    return text, parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Any]:
    """The object that ``text`` holds.

    Raises:
        InputError: as for :func:`read`; ``where`` names the file.
    """
    if text.startswith("\ufeff"):
        raise InputError("starts with a byte order mark", where=where, hint="save it as UTF-8 without one")
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise InputError(f"holds more than {MAX_VALUES} values", where=where)
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise InputError("is nested too deeply", where=where) from None
    except _Refused as error:
        raise InputError(str(error), where=where) from None
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}", where=where) from None
    except ValueError:  # an integer with thousands of digits
        raise InputError("is not usable JSON: a number has thousands of digits", where=where) from None
    if not isinstance(value, dict):
        raise InputError(f"is a JSON {_kind(value)}, not an object", where=where)
    return value


class _Refused(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"has the key {repeated!r} twice; readers disagree about which one counts")
    return value


def _no_constant(name: str) -> Any:
    raise _Refused(f"holds {name}, which is not JSON; write a number or null")


def _kind(value: Any) -> str:
    names = {list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def is_unicode(text: str, value: Any) -> bool:
    """Whether ``value``, which ``text`` holds, has no half of a surrogate pair in it, which is no character."""
    if not _SURROGATE.search(text):
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def indentation(text: str) -> str:
    """The white space that one level of the file is indented by; empty for a file on one line."""
    match = re.search(r"\{[ \t]*\r?\n([ \t]+)\S", text)
    return match.group(1) if match else ""


def dumps(value: Any, indent: str, depth: int, newline: str = "\n") -> str:
    """``value`` as JSON at ``depth`` in the file's own style; floats stay floats."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("JSON has no NaN or infinity")
        return repr(value)
    if isinstance(value, dict):
        items = [
            f"{json.dumps(k, ensure_ascii=False)}: {dumps(v, indent, depth + 1, newline)}" for k, v in value.items()
        ]
        return _wrapped("{", items, "}", indent, depth, newline)
    if isinstance(value, (list, tuple)):
        return _wrapped("[", [dumps(v, indent, depth + 1, newline) for v in value], "]", indent, depth, newline)
    return json.dumps(value, ensure_ascii=False)


def _wrapped(start: str, items: list[str], end: str, indent: str, depth: int, newline: str) -> str:
    """The items one a line where the file is indented, else on one line."""
    if not items or not indent:
        return start + ", ".join(items) + end
    inner = newline + indent * (depth + 1)
    return start + ",".join(inner + item for item in items) + newline + indent * depth + end


def set_value(text: str, path: Sequence[str], value: Any) -> str:
    """``text`` with the value at ``path`` set; a new key goes behind the last one of its object."""
    *parents, key = path
    start, members, end = _object(text, parents)
    indent, newline, depth = indentation(text), "\r\n" if "\r\n" in text else "\n", len(parents) + 1
    rendered = dumps(value, indent, depth, newline)
    if key in members:
        _, value_start, value_end = members[key]
        return text[:value_start] + rendered + text[value_end:]
    item = f"{json.dumps(key, ensure_ascii=False)}: {rendered}"
    if members:
        last = max(stop for _, _, stop in members.values())
        separator = newline + indent * depth if indent else " "
        return text[:last] + "," + separator + item + text[last:]
    body = f"{newline}{indent * depth}{item}{newline}{indent * (depth - 1)}" if indent else item
    return text[: start + 1] + body + text[end:]


def delete_value(text: str, path: Sequence[str]) -> str:
    """``text`` without the key at ``path``; a key that is not there changes nothing."""
    *parents, key = path
    _, members, _ = _object(text, parents)
    if key not in members:
        return text
    names = list(members)
    position = names.index(key)
    key_start, _, value_end = members[key]
    if position + 1 < len(names):
        return text[:key_start] + text[members[names[position + 1]][0] :]
    if position:
        return text[: members[names[position - 1]][2]] + text[value_end:]
    return text[:key_start].rstrip() + text[value_end:].lstrip()


def _object(text: str, path: Sequence[str]) -> tuple[int, dict[str, tuple[int, int, int]], int]:
    """The object at ``path``: offset of its brace, ``{key: (key start, value start, value end)}``, closing brace."""
    start, at = _skip(text, 0), 0
    members, end = _members(text, start)
    for key in path:
        at = members[key][1]
        members, end = _members(text, at)
        start = at
    return start, members, end


def _members(text: str, start: int) -> tuple[dict[str, tuple[int, int, int]], int]:
    if text[start] != "{":
        raise KeyError("not an object")
    parser = json.JSONDecoder()
    found: dict[str, tuple[int, int, int]] = {}
    at = _skip(text, start + 1)
    while text[at] != "}":
        key_start = at
        key, at = decoder.scanstring(text, at + 1)  # type: ignore[attr-defined]
        value_start = _skip(text, _skip(text, at) + 1)
        _, at = parser.raw_decode(text, value_start)
        found[key] = (key_start, value_start, at)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found, at


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
