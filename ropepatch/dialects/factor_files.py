"""Per-pair factors from a file that a person gives: JSON, CSV, or a config.json that has them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropepatch.containers import json_text
from ropepatch.errors import InputError

#: A list has one value a rotated pair; the widest head known has 512 of them.
MAX_SIZE = 1 << 20
MAX_VALUES = 1 << 15
_LISTS = ("short_factor", "long_factor")
#: where a config.json keeps its lists, the newer layout first
_HOMES = ("rope_parameters", "rope_scaling")


def read(path: str | Path) -> dict[str, list[float]]:
    """The lists in ``path`` as settings of the method longrope.

    Returns:
        ``long_factor`` and, where the file has one, ``short_factor``.

    Raises:
        InputError: the file cannot be read, or holds no list of positive numbers.
    """
    path = Path(path)
    text = _text(path)
    if path.suffix.lower() == ".csv" or not text.lstrip().startswith(("{", "[")):
        return {"long_factor": _csv(path, text)}
    if text.lstrip().startswith("["):
        return {"long_factor": _numbers(path, "the list", _bare_list(path, text))}
    found = _lists(json_text.parse(text, str(path)))
    if found is None:
        raise InputError(
            "holds no long_factor",
            where=str(path),
            hint="give JSON with long_factor and short_factor, CSV with a value a line, or a config.json that has them",
        )
    return {name: _numbers(path, name, found[name]) for name in _LISTS if found.get(name) is not None}


def search_record(path: str | Path) -> dict[str, Any] | None:
    """What ``ropepatch search`` wrote beside its lists: how they were found; None for another file.

    Raises:
        InputError: it says that it is such a record, and is not whole.
    """
    path = Path(path)
    text = _text(path)
    if not text.lstrip().startswith("{"):
        return None
    document = json_text.parse(text, str(path))
    if document.get("schema") != "ropepatch.search/1":
        return None
    from ropepatch import schemas

    wrong = next(iter(schemas.validator("search").iter_errors(document)), None)
    if wrong is not None:
        where = ".".join(map(str, wrong.absolute_path))
        raise InputError(f"is no whole record of a search: {where}: {wrong.message[:80]}", where=str(path))
    found = {name: value for name, value in document.items() if name not in _LISTS}
    return {**found, "ref": Path(str(document["ref"])).name}  # manifests are published: no folders of this machine


def usual_attention(record: Mapping[str, Any]) -> bool:
    """Whether a search went with the attention factor that engines compute for longrope where none is written."""
    usual = math.sqrt(1 + math.log(record["factor"]) / math.log(record["original_max_position_embeddings"]))
    return math.isclose(record["attention_factor"], usual, rel_tol=1e-9)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_SIZE:
            raise InputError(f"is too large for a list of factors (limit {MAX_SIZE} bytes)", where=str(path))
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at offset {error.start}", where=str(path)) from None


def _lists(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object that holds the lists: the document, its rope block, or that of its text config."""
    if "long_factor" in document:
        return document
    for holder in (document, document.get("text_config")):
        for home in _HOMES:
            block = holder.get(home) if isinstance(holder, Mapping) else None
            if isinstance(block, Mapping) and (found := _in_block(block)) is not None:
                return found
    return None


def _in_block(block: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "long_factor" in block:
        return block
    nested = [value for value in block.values() if isinstance(value, Mapping) and "long_factor" in value]
    return nested[0] if nested else None


def _bare_list(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError("is nested too deeply", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", where=str(path)) from None


def _csv(path: Path, text: str) -> list[float]:
    values: list[float] = []
    for number, line in enumerate(text.splitlines(), 1):
        cell = line.split("#")[0].strip().rstrip(",;").strip()
        if not cell:
            continue
        try:
            values.append(float(cell))
        except ValueError:
            if number == 1:
                continue  # a heading
            raise InputError(f"line {number} is no number: {cell[:40]!r}", where=str(path)) from None
    return _numbers(path, "the column", values)


def _numbers(path: Path, name: str, values: Any) -> list[float]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{name} is no list of numbers", where=str(path))
    if len(values) > MAX_VALUES:
        raise InputError(f"{name} has {len(values)} values (limit {MAX_VALUES})", where=str(path))
    numbers: list[float] = []
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{name} value {index} is no number: {str(value)[:40]!r}", where=str(path))
        number = float(value) if abs(value) < 1e300 else math.inf
        if not 0 < number < math.inf:
            raise InputError(f"{name} value {index} must be a positive number, not {str(value)[:40]}", where=str(path))
        numbers.append(number)
    return numbers
