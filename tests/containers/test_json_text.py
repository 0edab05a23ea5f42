"""JSON edits that leave every other byte alone, and texts that are refused."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropepatch.containers import json_text
from ropepatch.errors import InputError

KEYS = st.text(max_size=8) | st.sampled_from(["rope_scaling", 'with "quotes"', "back\\slash", "ключ", "a\nb"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([4.0, 1e-6, 1e22, "{\n  ", "}", '",'])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)
#: how files in the wild are laid out: spaces, tabs, one line
STYLES = st.sampled_from([2, 4, 1, "\t", None])
NEWLINES = st.sampled_from(["\n", "\r\n"])


def paths(value: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all objects in a document, the document itself included."""
    found = [above]
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += paths(inner, (*above, key))
    return found


def at(document: Any, path: tuple[str, ...]) -> Any:
    """The value at a path."""
    for key in path:
        document = document[key]
    return document


def render(value: Any, style: int | str | None, newline: str) -> str:
    """The document as Python's own writer lays it out."""
    return json.dumps(value, indent=style, ensure_ascii=False).replace("\n", newline)


def keyed(value: Any) -> Any:
    """A value that distinguishes 4 from 4.0 and True from 1, and keeps the order of keys."""
    if isinstance(value, dict):
        return [(key, keyed(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return ["list", *(keyed(inner) for inner in value)]
    return (type(value).__name__, repr(value))


@given(st.data(), OBJECTS, STYLES, NEWLINES)
def test_set_gives_what_the_writer_would_have_written(
    data: st.DataObject, document: dict[str, Any], style: int | str | None, newline: str
) -> None:
    """Setting a key, old or new, at any depth, gives the text that Python's writer makes of the changed document."""
    text = render(document, style, newline)
    path = data.draw(st.sampled_from(paths(document)))
    target = at(document, path)
    key = data.draw(st.sampled_from(list(target)) | KEYS if target else KEYS)
    value = data.draw(VALUES)
    result = json_text.set_value(text, (*path, key), value)
    target[key] = value
    assert keyed(json.loads(result)) == keyed(document)
    if style is None or re.search(r"\{\r?\n", text):  # an empty document does not show its style
        assert result == render(document, style, newline)


@given(st.data(), OBJECTS, STYLES, NEWLINES)
def test_delete_gives_what_the_writer_would_have_written(
    data: st.DataObject, document: dict[str, Any], style: int | str | None, newline: str
) -> None:
    """Deleting any key at any depth gives the text that Python's writer makes of the changed document."""
    text = render(document, style, newline)
    path = data.draw(st.sampled_from([p for p in paths(document) if at(document, p)] or [None]))
    if path is None:
        return
    key = data.draw(st.sampled_from(list(at(document, path))))
    result = json_text.delete_value(text, (*path, key))
    del at(document, path)[key]
    assert result == render(document, style, newline)


@given(OBJECTS, KEYS, STYLES)
def test_deleting_what_is_not_there_changes_nothing(
    document: dict[str, Any], key: str, style: int | str | None
) -> None:
    """An absent key is no error."""
    document.pop(key, None)
    text = render(document, style, "\n")
    assert json_text.delete_value(text, (key,)) == text


# Layouts that no writer makes ----------------------------------------------------------------------------------------


@dataclass
class Laid:
    """A text under construction, with where each member of an object begins and ends."""

    text: str = ""
    members: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)


#: spellings that a reader would normalise
NUMBERS = ["4.0", "4", "1e-06", "1E5", "1.50", "-0", "0.10000000000000000555", "123456789012345678901234567890", "1e+2"]
WORDS = ["true", "false", "null", '"\\u00e9"', '"a\\/b"', '"{"', '"\\""', "[1.0,2,  3e0]", "[ ]", "{ }"]
SPACE = st.sampled_from(["", " ", "  ", "\t", "\n", "\r\n", "\n    "])


@st.composite
def laid_out(draw: st.DrawFn) -> Laid:
    """An object with raw values and any white space."""
    laid = Laid()
    _object(draw, laid, (), 0)
    return laid


def _object(draw: st.DrawFn, laid: Laid, path: tuple[str, ...], depth: int) -> None:
    laid.text += "{" + draw(SPACE)
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4))
    for index, name in enumerate(names):
        start = len(laid.text)
        laid.text += json.dumps(name) + draw(SPACE) + ":" + draw(SPACE)
        if depth < 2 and draw(st.booleans()):
            _object(draw, laid, (*path, name), depth + 1)
        else:
            laid.text += draw(st.sampled_from([*NUMBERS, *WORDS]))
        laid.members[(*path, name)] = (start, len(laid.text))
        laid.text += draw(SPACE) + ("," if index + 1 < len(names) else "") + draw(SPACE)
    laid.text += "}"


def raw(text: str) -> Any:
    """The document with numbers as they are spelled."""
    return json.loads(text, parse_float=lambda t: ("number", t), parse_int=lambda t: ("number", t))


@given(st.data(), laid_out())
def test_set_touches_the_value_alone_in_any_layout(data: st.DataObject, laid: Laid) -> None:
    """Whatever the white space and number style, the text before and behind the value set stays byte for byte."""
    if not laid.members:
        return
    path = data.draw(st.sampled_from(sorted(laid.members)))
    start, end = laid.members[path]
    result = json_text.set_value(laid.text, path, 4.0)
    assert result.startswith(laid.text[:start])
    assert result.endswith("4.0" + laid.text[end:])
    assert result[start : len(result) - len(laid.text[end:])].startswith(json.dumps(path[-1]))
    document = raw(laid.text)
    at(document, path[:-1])[path[-1]] = ("number", "4.0")
    assert raw(result) == document


@given(st.data(), laid_out())
def test_add_and_delete_touch_no_other_member_in_any_layout(data: st.DataObject, laid: Laid) -> None:
    """A new member goes behind the last; deleting it again, or any other, leaves all the others as they are spelled."""
    parent = data.draw(st.sampled_from(paths(json.loads(laid.text))))
    added = json_text.set_value(laid.text, (*parent, "new"), {"x": 1.0, "y": [2.0]})
    document = raw(laid.text)
    at(document, parent)["new"] = {"x": ("number", "1.0"), "y": [("number", "2.0")]}
    assert raw(added) == document
    assert list(at(raw(added), parent)) == list(at(document, parent))
    del at(document, parent)["new"]
    assert raw(json_text.delete_value(added, (*parent, "new"))) == document
    if laid.members:
        path = data.draw(st.sampled_from(sorted(laid.members)))
        start, end = laid.members[path]
        del at(document, path[:-1])[path[-1]]
        deleted = json_text.delete_value(laid.text, path)
        assert raw(deleted) == document
        # what was cut lies between the member's neighbours: nothing but its text, white space and one comma
        common = len(laid.text) - len(deleted)
        cut = laid.text[start:end]
        assert common <= len(cut) + len(laid.text) - len(laid.text.strip()) + 40
        outside = [s for p, s in laid.members.items() if p[: len(path)] != path and s[0] >= end]
        for member_start, member_end in outside:
            assert laid.text[member_start:member_end] in deleted


# Refusals -------------------------------------------------------------------------------------------------------------

DEEP = 10_000
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not JSON"),
    "an HTML error page": (b"<!doctype html><html></html>", "is not JSON: .* at line 1 column 1"),
    "cut in the middle": (b'{"rope_theta": 10', "is not JSON"),
    "two documents": (b"{}{}", "Extra data"),
    "a comment": (b'{"a": 1} // why', "Extra data"),
    "single quotes": (b"{'a': 1}", "is not JSON"),
    "trailing comma": (b'{"a": 1,}', "is not JSON"),
    "repeated key": (b'{"rope_theta": 1.0, "rope_theta": 2.0}', "has the key 'rope_theta' twice"),
    "repeated key inside": (b'{"rope_scaling": {"factor": 1.0, "factor": 2.0}}', "has the key 'factor' twice"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8 at offset 0"),
    "Latin-1": (b'{"a": "\xe9"}', "not UTF-8 at offset 7"),
    "NaN": (b'{"rope_theta": NaN}', "holds NaN"),
    "Infinity": (b'{"rope_theta": Infinity}', "holds Infinity"),
    "-Infinity": (b'{"rope_theta": -Infinity}', "holds -Infinity"),
    "a list": (b"[1, 2]", "is a JSON list, not an object"),
    "a number": (b"5", "is a JSON number, not an object"),
    "null": (b"null", "is a JSON null, not an object"),
    "a text": (b'"{}"', "is a JSON text, not an object"),
    "deep lists": (b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested too deeply"),
    "deep and open": (b"[" * 100_000, "nested too deeply"),
    "an integer of 100000 digits": (b'{"a": ' + b"9" * 100_000 + b"}", "a number has thousands of digits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """What readers disagree about, or cannot read, is refused with the file, the reason and no traceback."""
    data, message = REFUSED[name]
    path = tmp_path / "config.json"
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(InputError, match=message) as caught:
        json_text.read(path)
    assert time.process_time() - start < 2
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_file_of_200_megabytes_is_not_read(tmp_path: Path) -> None:
    """Size is looked at first."""
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="209715200 bytes are too many"):
            json_text.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    """The operating system's reason stands in the message."""
    with pytest.raises(InputError, match="No such file"):
        json_text.read(tmp_path / "config.json")
    with pytest.raises(InputError, match="cannot be read"):
        json_text.read(tmp_path)


def test_values_that_json_cannot_hold_are_not_written() -> None:
    """NaN never reaches a file."""
    with pytest.raises(ValueError, match="NaN"):
        json_text.set_value("{}", ("a",), float("nan"))
