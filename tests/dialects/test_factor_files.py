"""Files of per-pair factors that people give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropepatch.dialects import factor_files
from ropepatch.errors import InputError

LISTS = {"short_factor": [1.0, 1.5], "long_factor": [2, 4.5]}


@pytest.mark.parametrize(
    "document",
    [
        LISTS,
        {"model_type": "phi3", "rope_scaling": {"type": "longrope", **LISTS}},
        {"rope_parameters": {"rope_type": "longrope", **LISTS}},
        {"rope_parameters": {"full_attention": LISTS, "sliding_attention": {"rope_type": "default"}}},
        {"text_config": {"rope_scaling": LISTS}},
    ],
)
def test_json_objects(document: object, tmp_path: Path) -> None:
    """The two lists are found in an object of their own and where a config keeps them."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))

    assert factor_files.read(path) == {"short_factor": [1.0, 1.5], "long_factor": [2.0, 4.5]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.json", "[2, 4.5]"),
        ("f.csv", "2\n4.5\n"),
        ("f.csv", "factor\n2\n\n4.5"),
        ("f.txt", "# found at 4x\n2,\n4.5  # slowest\n"),
        ("f.json", '{"long_factor": [2, 4.5], "short_factor": null}'),
    ],
)
def test_one_list(name: str, text: str, tmp_path: Path) -> None:
    """A bare list, or a column, is the long list."""
    path = tmp_path / name
    path.write_text(text)

    assert factor_files.read(path) == {"long_factor": [2.0, 4.5]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no list of numbers"),
        ("[]", "no list of numbers"),
        ("{}", "long_factor"),
        ("[1, -1]", "value 1 must be a positive number"),
        ("[1, 0]", "positive"),
        ("[1, NaN]", "positive"),
        ("[1e999]", "positive"),
        ("[1" + "0" * 4000 + "]", "positive"),
        ('[1, "2"]', "value 1 is no number"),
        ("[true]", "value 0 is no number"),
        ("[[1], [2]]", "value 0 is no number"),
        ("[1, 2", "not JSON"),
        ('{"long_factor": 3}', "long_factor is no list"),
        ("1\ntwo\n3", "line 2 is no number"),
        ("1\nnan\n", "positive"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "1," * 40_000 + "1]", "values"),
    ],
)
def test_refused(text: str, expected: str, tmp_path: Path) -> None:
    """What is no list of positive numbers is refused by name and place."""
    path = tmp_path / "factors"
    path.write_text(text)

    with pytest.raises(InputError, match=expected) as caught:
        factor_files.read(path)
    assert str(path) in str(caught.value)


def test_bounds(tmp_path: Path) -> None:
    """A file too large for a list of factors is refused before it is read; a missing one and binary ones are named."""
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(factor_files.MAX_SIZE + 1)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")

    for path, expected in ((large, "too large"), (binary, "UTF-8"), (tmp_path / "gone", "cannot be read")):
        with pytest.raises(InputError, match=expected):
            factor_files.read(path)
