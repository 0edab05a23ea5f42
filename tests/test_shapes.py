"""Manifests that somebody else has written, or damaged: read, or refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch import manifest, schemas, shapes
from ropepatch.errors import InputError
from tests.support import tiny
from tests.support.command import inside
from tests.support.outputs import SPEC, digest

GONE = object()
#: what a reader is given, with {out} for the output, {record} for its manifest, {base} for its input
COMMANDS = {
    "show": ("manifest", "show", "{record}"),
    "verify": ("manifest", "verify", "{out}"),
    "replay": ("replay", "{record}", "{base}", "--dry-run"),
    "forced": ("replay", "{out}", "{base}", "--force", "--dry-run", "--json"),
    "revert": ("revert", "{out}", "-o", "{back}"),
    "card": ("card", "{out}"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A GGUF, what yarn made of it, and the manifest with every part that it can have."""
    folder = tmp_path_factory.mktemp("damaged")
    base = tiny.write_gguf(folder / "model.gguf", SPEC)
    out = folder / "out.gguf"
    ropepatch.open(base).patch("yarn", 4.0).write(out, digest="full")
    return {"base": base, "out": out, "record": folder / "out.ropepatch.json", "back": folder / "back.gguf"}


@pytest.fixture
def document(places: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """The manifest, which stands there again afterwards."""
    text = places["record"].read_text()
    yield json.loads(text)
    places["record"].write_text(text)


def members(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every member of a document, and the first entry of every list."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*at, key)
        yield from members(inner, (*at, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value (or none) in one place."""
    found = here = copy.deepcopy(document)
    for key in path[:-1]:
        here = here[key]
    if value is GONE:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return found


def damaged(document: Any) -> Iterator[tuple[str, Any]]:
    """Every member missing, and of two other kinds; numbers that no computer has."""
    for path in members(document):
        here = document
        for key in path:
            here = here[key]
        others: list[Any] = [GONE, "../x" if not isinstance(here, str) else 5, [] if here else None]
        if isinstance(here, int | float):
            others += [-1, 10**400]
        for value in others:
            told = f"{'.'.join(map(str, path))} = {'nothing' if value is GONE else repr(value)[:20]}"
            yield told, changed(document, path, value)


@pytest.fixture(scope="module")
def tried(places: dict[str, Path]) -> list[tuple[str, str]]:
    """What the commands are given: all damage that reading alone does not refuse, and a tenth of what it does."""
    text = places["record"].read_text()
    refused, read = [], []
    for told, bad in damaged(json.loads(text)):
        places["record"].write_text(json.dumps(bad))
        try:
            manifest.read(places["record"])
        except InputError:
            refused.append((told, json.dumps(bad)))
        else:
            read.append((told, json.dumps(bad)))
    places["record"].write_text(text)
    assert min(len(refused), len(read)) > 40
    return [*read, *refused[::10]]


@pytest.mark.usefixtures("document")
@pytest.mark.parametrize("name", COMMANDS)
def test_no_damage_is_a_fault_of_ours(name: str, places: dict[str, Path], tried: list[tuple[str, str]]) -> None:
    """Whatever member is missing or of another kind, the command ends with its result or with one line."""
    words = [word.format(**places) for word in COMMANDS[name]]
    for told, text in tried:
        places["record"].write_text(text)
        ended = inside(*words)
        places["back"].unlink(missing_ok=True)
        assert ended.code in (0, 1, 3), f"{told}: {ended.err}"
        assert ended.code != 3 or ended.err.count("\n") == 1, ended.err


def test_it_agrees_with_the_schema(document: dict[str, Any]) -> None:
    """What is refused is refused by jsonschema as well, which says nothing more of members, kinds and least numbers."""
    validator = schemas.validator("manifest")
    ours = {"required", "type", "enum", "minimum", "exclusiveMinimum", "minItems", "minProperties"}
    assert shapes.misfit("manifest", document) is None
    for told, bad in damaged(document):
        errors = [error for error in validator.iter_errors(bad) if error.validator in ours]
        fault = shapes.misfit("manifest", bad)
        assert (fault is not None) == bool(errors or "10000000000" in told), (told, fault, errors)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("internalParameters.ropepatch_tensorData.out.gguf.after", GONE, "tensorData.out.gguf lacks after"),
        ("internalParameters.ropepatch_tensorData.out.gguf", None, "tensorData.out.gguf is not an object"),
        ("internalParameters.after.groups.default.rotary_dim", 0, "default.rotary_dim is out of range"),
        ("internalParameters.after.groups.default.layout", "odd", "layout is none of half, interleaved"),
        ("internalParameters.after.groups", {}, "after.groups is too short"),
        ("externalParameters.factor", "4", "externalParameters.factor is not a number or null"),
        ("externalParameters.ref", GONE, "externalParameters lacks ref"),
    ],
)
def test_it_says_where(path: str, value: Any, fault: str, places: dict[str, Path], document: dict[str, Any]) -> None:
    """The line names the file, the member, and what is wrong with it."""
    keys = tuple(path.replace("out.gguf", "out/gguf").split("."))
    keys = tuple(key.replace("out/gguf", "out.gguf") for key in keys)
    bad = changed(document, ("predicate", "buildDefinition", *keys), value)
    places["record"].write_text(json.dumps(bad))
    with pytest.raises(InputError) as caught:
        manifest.read(places["record"])
    assert caught.value.where == str(places["record"])
    assert caught.value.what.startswith("is not a whole manifest: predicate.buildDefinition.")
    assert caught.value.what.endswith(fault)


def test_tensor_data_without_a_sha256(places: dict[str, Path], document: dict[str, Any]) -> None:
    """A digest of another kind proves nothing: the check fails, and says that there is none."""
    keys = ("predicate", "buildDefinition", "internalParameters", "ropepatch_tensorData", "out.gguf", "before")
    places["record"].write_text(json.dumps(changed(document, keys, {"gitBlob": "0" * 40})))
    (found,) = (one for one in ropepatch.verify_manifest(places["out"]).checks if one.name == "tensor data")
    assert (found.result, "no sha256 of it before and after: out.gguf" in found.detail) == ("FAILED", True)


def test_what_nobody_reads_may_be_missing(places: dict[str, Path], document: dict[str, Any]) -> None:
    """Without the standards' own members an output is still undone; that they are missing is what verify is for."""
    run = document["predicate"]["runDetails"]
    del document["_type"], run["metadata"]["startedOn"], run["builder"]["id"]
    places["record"].write_text(json.dumps(document))
    ropepatch.revert(places["out"], output=places["back"])
    assert digest(places["back"]) == digest(places["base"])
    places["back"].unlink()
    failed = [one.name for one in ropepatch.verify_manifest(places["out"]).checks if one.result == "FAILED"]
    assert failed == ["document"]


def test_a_manifest_within_manifests(places: dict[str, Path], document: dict[str, Any]) -> None:
    """The one of a patch before is looked at like the one that it stands in, however deep they stand."""
    inner = ("predicate", "buildDefinition", "internalParameters", "ropepatch_previous")
    bad = changed(document, inner, changed(document, ("subject", 0, "name"), 5))
    fault = shapes.misfit("manifest", bad)
    assert fault == f"{'.'.join(inner)}.subject.0.name is not a text"
    deep = document
    for _ in range(1000):  # each holds the one before
        above = deep
        deep = here = dict(document)
        for key in inner[:-1]:
            here[key] = dict(here[key])
            here = here[key]
        here[inner[-1]] = above
    assert shapes.misfit("manifest", deep) == "it is nested too deeply"


def test_a_damaged_promise_is_not_taken_for_none(places: dict[str, Path], document: dict[str, Any]) -> None:
    """verify does not pass a file by its own metadata when the manifest beside it promises what nobody can read."""
    pytest.importorskip("torch")
    keys = ("predicate", "buildDefinition", "internalParameters", "after", "groups", "default", "rotary_dim")
    places["record"].write_text(json.dumps(changed(document, keys, "32")))
    with pytest.raises(InputError, match=r"default\.rotary_dim is not a whole number"):
        ropepatch.verify(places["out"])
