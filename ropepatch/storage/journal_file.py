"""The file of a journal: one line of JSON, then the bytes that the line counts, one range after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ropepatch.errors import InputError
from ropepatch.storage import files, in_place, kernel
from ropepatch.storage.in_place import Plan
from ropepatch.storage.splice import Splice

SCHEMA = "ropepatch.journal/1"
#: a journal's first line is never longer
_LINE_LIMIT = 64 << 20


def write(journal: Path, plans: Sequence[Plan], kept: Sequence[str], *, sync: bool = True) -> int:
    """Write the journal whole: every range that will be overwritten, and every kept file.

    Returns:
        A descriptor that holds the journal's lock; it was taken before the journal had its name.
    """
    blobs: list[bytes] = []
    entries = []
    for plan in plans:
        zones = []
        for zone in plan.zones:
            after = zone.after if plan.kind == in_place.REWRITE else b""  # only a rewrite is undone by splices
            zones.append([zone.offset, len(zone.before), len(after)])
            blobs += [zone.before, after]
        entries.append(
            {
                "name": plan.name,
                "kind": plan.kind,
                "size": plan.size,
                "new_size": plan.new_size,
                "body": list(plan.body),
                "move": plan.move,
                "zones": zones,
            }
        )
    old: dict[str, int | None] = {}
    for name in kept:
        path = journal.parent / name
        old[name] = None
        if path.exists():
            blobs.append(path.read_bytes())
            old[name] = len(blobs[-1])
    line = json.dumps({"schema": SCHEMA, "process": os.getpid(), "files": entries, "kept": old}).encode() + b"\n"
    with files.appearing(journal, sync=sync) as descriptor:
        position = 0
        for blob in (line, *blobs):
            files.write_at(descriptor, blob, position)
            position += len(blob)
        kernel.lock(descriptor)
        return os.dup(descriptor)


def read(journal: Path) -> tuple[list[Plan], dict[str, bytes | None]]:
    """The plans of a journal, and what its small files held; None for one that was not there.

    Raises:
        InputError: it is not whole.
    """
    try:
        with open(journal, "rb") as file:
            document = json.loads(file.readline(_LINE_LIMIT))
            if document["schema"] != SCHEMA:
                raise ValueError("another schema")
            plans = [_plan(entry, file) for entry in document["files"]]
            kept = {_beside(name): None if n is None else _exactly(file, n) for name, n in document["kept"].items()}
            if file.read(1):
                raise ValueError("bytes behind its end")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"is not a whole journal: {error}", where=str(journal)) from None
    return plans, kept


def _plan(entry: Mapping[str, Any], file: Any) -> Plan:
    zones = []
    for offset, before, after in entry["zones"]:
        zones.append(Splice(_natural(offset), _exactly(file, before), _exactly(file, after)))
    start, end = map(_natural, entry["body"])
    if entry["kind"] not in (in_place.OVERWRITE, in_place.RANGE, in_place.SHIFT, in_place.REWRITE, in_place.NEW):
        raise ValueError(f"unknown kind {entry['kind']!r}")
    return Plan(
        _beside(entry["name"]),
        entry["kind"],
        _natural(entry["size"]),
        _natural(entry["new_size"]),
        (start, end),
        int(entry["move"]),
        tuple(zones),
    )


def _natural(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no length")
    return value


def _beside(name: str) -> str:
    """A file name that stays below the journal's folder: a journal may come with somebody else's files."""
    path = PurePath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not beside it")
    return name


def _exactly(file: Any, count: int) -> bytes:
    if _natural(count) > os.fstat(file.fileno()).st_size:
        raise ValueError("it ends early")
    data: bytes = file.read(count)
    if len(data) != count:
        raise ValueError("it ends early")
    return data
