"""Journals of results: what is in one is not lost, and what is of something else is not taken for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ropepatch.errors import InputError, WouldOverwrite
from ropepatch.storage.lines import Lines

PLAN = {"ref": "model.gguf", "seed": 1}


class Numbers(Lines):
    """A journal whose results are numbers."""

    kind = "audit"

    def __init__(self, path: Path | None, plan: Mapping[str, Any] = PLAN, resume: bool = False) -> None:
        self.taken: list[int] = []
        super().__init__(path, plan, resume)

    def take(self, line: Mapping[str, Any]) -> bool:
        if "number" not in line:
            return False
        self.taken.append(line["number"])
        return True


def written(path: Path, *numbers: int) -> Path:
    """A journal with these results."""
    journal = Numbers(path)
    for number in numbers:
        journal.append({"number": number})
    return path


def test_each_result_is_there_at_once(tmp_path: Path) -> None:
    """The plan is the first line, each result one more; none is written where there is no file."""
    path = written(tmp_path / "a.jsonl", 1, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"schema": "ropepatch.audit-journal/1", "plan": PLAN}, {"number": 1}, {"number": 2}]
    Numbers(None).append({"number": 3})
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("tail", [b'{"number": 3', b'{"number": 3}', b"{\xff}\n", b'{"other": 3}\n{"number": 4}\n'])
def test_it_goes_on_behind_the_last_whole_result(tail: bytes, tmp_path: Path) -> None:
    """What was being written, or is no result, is cut off, so that the next one stands on a line of its own."""
    path = written(tmp_path / "a.jsonl", 1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    again = Numbers(path, resume=True)
    assert again.taken == [1, 2]
    assert path.read_bytes() == whole
    again.append({"number": 5})
    assert Numbers(path, resume=True).taken == [1, 2, 5]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no journal of an audit"),
        (b"GGUF\x03\x00", "is no journal of an audit"),
        (b'["ropepatch.audit-journal/1"]\n', "is no journal of an audit"),
        (b'{"schema": "ropepatch.search-journal/1"}\n', "is no journal of an audit"),
        (b'{"schema": "ropepatch.audit-journal/1"}\n', "another audit (without a plan)"),
        (b'{"schema": "ropepatch.audit-journal/1", "plan": {"seed": 2}}\n', "another audit (other ref, seed)"),
    ],
)
def test_of_something_else_it_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    """Another plan's numbers, or another file, are neither used nor written to; what differs is named."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Numbers(path, resume=True)
    assert told in str(caught.value)
    with pytest.raises(WouldOverwrite, match="--resume goes on with it"):
        Numbers(path)
    assert path.read_bytes() == content
