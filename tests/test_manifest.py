"""The manifest: whole, valid, and read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch import manifest, schemas
from ropepatch.bundle import bundle_of
from ropepatch.errors import InputError
from tests.support import tiny

SPEC = tiny.ModelSpec(layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)


@pytest.fixture(params=["gguf", "hf"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny llama in each format."""
    if request.param == "gguf":
        return tiny.write_gguf(tmp_path / "model.gguf", SPEC)
    return tiny.write_hf(tmp_path / "model", SPEC)


def written(checkpoint: Path, method: str = "yarn", **options: Any) -> Path:
    """Patch, and give the output."""
    target = checkpoint.with_name(f"out{checkpoint.suffix}")
    ropepatch.open(checkpoint).patch(method, 4.0).write(target, **options)
    return target


@pytest.mark.parametrize("method", ["yarn", "ntk", "mrrope-pro", "yarn+resonance"])
@pytest.mark.parametrize("verify", [True, False])
def test_it_validates_against_its_schema(checkpoint: Path, method: str, verify: bool) -> None:
    """Every manifest that is written is what the published schema says."""
    path = bundle_of(written(checkpoint, method, verify=verify)).manifest
    document = json.loads(path.read_text("utf-8"))
    errors = [f"{list(e.absolute_path)}: {e.message}" for e in schemas.validator("manifest").iter_errors(document)]
    assert errors == []


def test_in_place_twice_validates_and_nests(checkpoint: Path) -> None:
    """The manifest of a second patch holds the first one's, whole."""
    ropepatch.open(checkpoint).patch("yarn", 2.0).write(in_place=True)
    first = json.loads(bundle_of(checkpoint).manifest.read_text())
    ropepatch.open(checkpoint).patch("yarn", 4.0, existing="replace").write(in_place=True)
    second = manifest.read(bundle_of(checkpoint).manifest)
    assert second.previous == first
    assert list(schemas.validator("manifest").iter_errors(second.document)) == []


def test_it_is_an_in_toto_statement_of_slsa_provenance(checkpoint: Path) -> None:
    """Type, predicate, subjects and dependencies stand where the specifications put them."""
    document = json.loads(bundle_of(written(checkpoint, digest="full")).manifest.read_text())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    digests = [item["digest"]["sha256"] for item in document["subject"]]
    assert digests
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    definition, run = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    assert definition["externalParameters"]["method"] == "yarn"
    assert definition["externalParameters"]["factor"] == 4.0
    assert definition["externalParameters"]["declared_context"] == 1024
    for name in ("startedOn", "finishedOn"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run["metadata"][name])
    assert run["builder"]["version"]["ropepatch"] == ropepatch.__version__


def test_reading_back_gives_the_patch(checkpoint: Path) -> None:
    """Edits, profiles, method and parameters survive the file."""
    patch = ropepatch.open(checkpoint).patch("mrrope-pro", 4.0)
    target = written(checkpoint, "mrrope-pro")
    record = manifest.read(bundle_of(target).manifest)
    assert tuple(record.edits) == patch.edits
    assert record.method == "mrrope-pro"
    assert record.patch.after.groups == patch.after.groups
    assert record.patch.before.groups == patch.before.groups
    assert record.patch.parameters == patch.parameters
    report = record.verification
    assert report is not None
    assert report["result"] == "PASSED"
    assert {"reader", "unchanged", "frequencies"} <= {check["name"] for check in report["checks"]}


def test_the_time_can_be_fixed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH makes the times of a build reproducible."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    record = manifest.read(bundle_of(written(checkpoint)).manifest)
    assert record.document["predicate"]["runDetails"]["metadata"]["startedOn"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.clear(), "is not a ropepatch manifest"),
        (lambda d: d.update(schema="other/1"), "is not a ropepatch manifest"),
        (lambda d: d.pop("subject"), "is not a whole manifest"),
        (lambda d: d.update(subject=5), "is not a whole manifest"),
        (lambda d: d.update(predicate=[]), "is not a whole manifest"),
        (lambda d: d["predicate"]["buildDefinition"].pop("internalParameters"), "is not a whole manifest"),
        (
            lambda d: d["predicate"]["buildDefinition"]["internalParameters"].update(
                ropepatch_splices={"f": [{"offset": 0, "before": "xy", "after": ""}]}
            ),
            "is not a whole manifest",
        ),
    ],
)
def test_broken_manifests_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    """Another document, or one with a part missing, is refused in one line with the file's name."""
    checkpoint = tiny.write_gguf(tmp_path / "model.gguf", SPEC)
    path = bundle_of(written(checkpoint)).manifest
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        manifest.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda d: d.clear(), lambda d: d.pop("edits"), lambda d: d.update(before=None)])
def test_broken_patches_are_refused(tmp_path: Path, change: Any) -> None:
    """A patch document that is not whole is an input error, not a traceback."""
    checkpoint = tiny.write_gguf(tmp_path / "model.gguf", SPEC)
    document = ropepatch.open(checkpoint).patch("yarn", 4.0).to_json()
    change(document)
    with pytest.raises(InputError, match="is not a"):
        ropepatch.Patch.from_json(document)
