"""Results on disk, one line of JSON each as soon as there is one, so that nothing is measured twice."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ropepatch.errors import InputError, WouldOverwrite

_LINE = 1 << 20


class Lines(ABC):
    """A JSON Lines file: a line that says what is measured, then one a result. Each is on the disk when it counts.

    Args:
        path: the file; None keeps the results in memory only.
        plan: what decides the numbers: checkpoint, seed, samples, alphabet. Another plan is another journal.
        resume: go on with an existing file.

    Raises:
        WouldOverwrite: the file exists and ``resume`` is false.
        InputError: it is of another plan, or cannot be written.
    """

    #: what is measured, as messages name it
    kind: ClassVar[str]

    def __init__(self, path: Path | None, plan: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        if path is None:
            return
        head = {"schema": f"ropepatch.{self.kind}-journal/1", "plan": json.loads(json.dumps(dict(plan)))}
        if not path.exists():
            self.append(head)
            return
        if not resume:
            raise WouldOverwrite("exists already", where=str(path), hint="--resume goes on with it")
        os.truncate(path, self._read(path, head))

    @abstractmethod
    def take(self, line: Mapping[str, Any]) -> bool:
        """Keep what a line of the file says; False where it is not a result."""

    def _read(self, path: Path, head: Mapping[str, Any]) -> int:
        """Take the results in; returns where the last whole line ends."""
        with open(path, "rb") as file:
            first = _parsed(file.readline(_LINE))
            if first.get("schema") != head["schema"]:
                raise InputError(f"is no journal of {_article(self.kind)}", where=str(path))
            if first.get("plan") != head["plan"]:
                raise InputError(
                    f"is the journal of another {self.kind} ({_differing(first.get('plan'), head['plan'])})",
                    where=str(path),
                    hint="give another --journal",
                )
            whole = file.tell()
            while line := file.readline(_LINE):
                if not line.endswith(b"\n") or not self.take(_parsed(line)):
                    break  # the run ended while it wrote this line
                whole = file.tell()
        return whole

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line where there is a file."""
        if self.path is None:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(self.path)) from None


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _differing(old: Any, new: Mapping[str, Any]) -> str:
    """The names of what is not the same."""
    if not isinstance(old, dict):
        return "without a plan"
    return "other " + ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
