"""An output held against its manifest: whatever is not as declared is found, and the part that failed is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch import schemas
from ropepatch.bundle import bundle_of
from ropepatch.errors import InputError, UsageError
from ropepatch.provenance import ManifestCheck
from tests.support import gguf_split, tiny
from tests.support.command import ropepatch as run

SPEC = tiny.ModelSpec(layers=2, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)


def source(folder: Path, kind: str) -> Path:
    """A tiny llama: gguf, split, hf."""
    folder.mkdir(exist_ok=True)
    if kind == "hf":
        return tiny.write_hf(folder / "model", SPEC)
    whole = tiny.write_gguf(folder / "model.gguf", SPEC)
    return gguf_split.split(whole, 3)[0] if kind == "split" else whole


def patched(folder: Path, kind: str, method: str = "yarn", **options: Any) -> Path:
    """Such a llama patched, at the path that a person would name."""
    model = source(folder, kind)
    target = model.with_name("out" if kind == "hf" else "out.gguf")
    ropepatch.open(model).patch(method, 4.0).write(target, **{"digest": "full", **options})
    return target if kind != "split" else folder / "out-00001-of-00003.gguf"


def results(check: ManifestCheck) -> dict[str, str]:
    return {item.name: item.result for item in check.checks}


def change(output: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Rewrite the manifest; ``edit`` gets the document and its internal parameters."""
    path = bundle_of(output).manifest
    document = json.loads(path.read_text())
    edit(document, document["predicate"]["buildDefinition"]["internalParameters"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("kind", "method"), [("gguf", "yarn"), ("gguf", "mrrope-pro"), ("split", "mrrope-pro"), ("hf", "yarn")]
)
def test_an_untouched_output_holds(kind: str, method: str, tmp_path: Path) -> None:
    """Digests, inversion, edits and frequencies all hold, against the given input too, and nothing is written."""
    output = patched(tmp_path, kind, method)
    model = tmp_path / {"hf": "model", "gguf": "model.gguf", "split": "model-00001-of-00003.gguf"}[kind]
    before = sorted(path.name for path in output.parent.rglob("*"))

    check = ropepatch.verify_manifest(output, input=model)

    found = results(check)
    assert check.ok, [item.detail for item in check.checks]
    assert found["digests"] == found["input"] == found["edits"] == found["frequencies"] == "PASSED"
    assert found["given input"] == "PASSED"
    assert found["tensor data"] == ("SKIPPED" if kind == "hf" else "PASSED")
    assert sorted(path.name for path in output.parent.rglob("*")) == before
    assert list(schemas.validator("manifest-verify").iter_errors(check.to_json())) == []


def test_a_second_patch_in_place_holds(tmp_path: Path) -> None:
    """After two patches in place the files are held against the newer manifest."""
    model = source(tmp_path, "gguf")
    ropepatch.open(model).patch("yarn", 2.0).write(in_place=True, digest="full")
    ropepatch.open(model).patch("yarn", 4.0, existing="replace").write(in_place=True, digest="full")

    assert ropepatch.verify_manifest(model).ok


@pytest.mark.parametrize("digest", ["header", "full"])
def test_an_overlay_holds(digest: str, tmp_path: Path) -> None:
    """Head and body of an overlay are checked, the body against the input that it came from."""
    model = source(tmp_path, "gguf")
    ropepatch.open(model).patch("yarn", 4.0).write(tmp_path / "over.gguf", overlay=True, digest=digest)
    head = tmp_path / "over-00001-of-00002.gguf"

    assert ropepatch.verify_manifest(head, input=model).ok
    body = tmp_path / "over-00002-of-00002.gguf"
    data = bytearray(body.read_bytes())
    data[-1] ^= 1
    body.unlink()
    body.write_bytes(data)
    assert results(ropepatch.verify_manifest(head))["digests"] == "FAILED"


@pytest.mark.parametrize("kind", ["gguf", "split", "hf"])
def test_a_changed_weight_is_found(kind: str, tmp_path: Path) -> None:
    """One flipped bit in a weight fails the digests and, where they are kept, those of the tensor data."""
    output = patched(tmp_path, kind, weights="copy")
    victim = output / "model.safetensors" if kind == "hf" else output
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(data)

    check = ropepatch.verify_manifest(output)

    assert not check.ok
    assert victim.name in next(item.detail for item in check.checks if item.name == "digests")
    assert results(check)["edits"] == results(check)["frequencies"] == "PASSED"
    assert results(check)["tensor data"] == ("SKIPPED" if kind == "hf" else "FAILED")


def test_without_digests_the_edits_still_speak(tmp_path: Path) -> None:
    """Where no sha256 was taken the exchanged bytes, the edits and the frequencies are checked, and that is said."""
    output = patched(tmp_path, "gguf", digest="none")
    clean = ropepatch.verify_manifest(output)
    from ropepatch.containers import gguf

    header = gguf.scan(output)
    at = output.read_bytes().index(b"llama.context_length") + len("llama.context_length") + 4
    assert header.get("llama.context_length") == 1024
    data = bytearray(output.read_bytes())
    data[at : at + 4] = (512).to_bytes(4, "little")
    output.write_bytes(data)

    check = ropepatch.verify_manifest(output)

    assert (clean.result, results(clean)["digests"], results(clean)["input"]) == ("WARNED", "SKIPPED", "WARNED")
    assert results(check)["input"] == results(check)["edits"] == results(check)["frequencies"] == "FAILED"


def _other_input(document: dict[str, Any], _: dict[str, Any]) -> None:
    document["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = "0" * 64


def _other_old_value(_: dict[str, Any], inner: dict[str, Any]) -> None:
    edit = next(item for item in inner["edits"] if item.get("before"))
    edit["before"]["value"] = 128


def _other_new_value(_: dict[str, Any], inner: dict[str, Any]) -> None:
    edit = next(item for item in inner["edits"] if item["path"][-1].endswith("context_length") and item.get("before"))
    edit["after"]["value"] = 4096


def _other_profile(_: dict[str, Any], inner: dict[str, Any]) -> None:
    inner["after"]["groups"]["default"]["rope_theta"] = 20000.0


def _other_old_profile(_: dict[str, Any], inner: dict[str, Any]) -> None:
    inner["before"]["groups"]["default"]["rope_theta"] = 20000.0


def _other_context(_: dict[str, Any], inner: dict[str, Any]) -> None:
    inner["after"]["declared_context"] += 1


def _other_old_context(_: dict[str, Any], inner: dict[str, Any]) -> None:
    inner["before"]["declared_context"] += 1


def _other_weights(_: dict[str, Any], inner: dict[str, Any]) -> None:
    next(iter(inner["ropepatch_tensorData"].values()))["before"]["sha256"] = "1" * 64


def _unknown_member(document: dict[str, Any], _: dict[str, Any]) -> None:
    document["predicate"]["buildDefinition"]["externalParameters"]["more"] = 1


@pytest.mark.parametrize(
    ("lie", "failed"),
    [
        (_other_input, {"input"}),
        (_other_old_value, {"edits"}),
        (_other_new_value, {"edits"}),
        (_other_profile, {"frequencies"}),
        (_other_old_profile, {"frequencies"}),
        (_other_context, {"frequencies"}),
        (_other_old_context, {"frequencies"}),
        (_other_weights, {"tensor data"}),
        (_unknown_member, {"document"}),
    ],
)
def test_a_manifest_that_lies_is_found(lie: Any, failed: set[str], tmp_path: Path) -> None:
    """Each false statement in the manifest fails the part that it concerns, and no other."""
    output = patched(tmp_path, "gguf")
    change(output, lie)

    check = ropepatch.verify_manifest(output)

    assert {name for name, result in results(check).items() if result == "FAILED"} == failed


def test_names_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    """A manifest that speaks of ../ is a failure, not a file that is read."""
    output = patched(tmp_path, "hf")

    def outside(document: dict[str, Any], _: dict[str, Any]) -> None:
        document["subject"][0]["name"] = "../model/config.json"

    change(output, outside)
    check = ropepatch.verify_manifest(output)

    assert results(check)["digests"] == "FAILED"
    assert "outside" in next(item.detail for item in check.checks if item.name == "digests")


def test_a_card_and_strange_files_warn(tmp_path: Path) -> None:
    """A card that was rewritten is no failure; a file that nobody spoke of is a warning; a missing one is a failure."""
    model = source(tmp_path, "hf")
    (model / "README.md").write_text("# base\n")
    output = tmp_path / "out"
    ropepatch.open(model).patch("yarn", 4.0).write(output, digest="full")
    (output / "README.md").write_text("# mine\n")
    carded = results(ropepatch.verify_manifest(output))
    (output / "extra.py").write_text("print()\n")
    extra = results(ropepatch.verify_manifest(output))
    (output / "model.safetensors").unlink()
    missing = results(ropepatch.verify_manifest(output))

    assert (carded["digests"], carded["other files"]) == ("WARNED", "PASSED")
    assert extra["other files"] == "WARNED"
    assert missing["digests"] == "FAILED"


def test_another_input_is_told(tmp_path: Path) -> None:
    """A file that was not the input fails as such."""
    output = patched(tmp_path, "gguf")
    other = tiny.write_gguf(tmp_path / "other.gguf", SPEC.with_(seed=5))

    assert results(ropepatch.verify_manifest(output, input=other))["given input"] == "FAILED"


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    """No manifest, no such file, and half of a signature's options are errors of their own."""
    model = source(tmp_path, "gguf")
    with pytest.raises(InputError, match="there is no manifest"):
        ropepatch.verify_manifest(model)
    with pytest.raises(InputError, match="no such file"):
        ropepatch.verify_manifest(tmp_path / "nothing")
    with pytest.raises(UsageError, match="belong together"):
        ropepatch.verify_manifest(model, key=model)


def test_commands(tmp_path: Path) -> None:
    """show prints the manifest, verify the checks; a failure ends with 1 and names the part."""
    output = patched(tmp_path, "gguf")
    shown = run("manifest", "show", output, "--json")
    good = run("manifest", "verify", output, "--json")
    change(output, _other_input)
    bad = run("manifest", "verify", output)

    assert shown.document == json.loads(bundle_of(output).manifest.read_text()) | shown.document
    assert list(schemas.validator("manifest").iter_errors(shown.document)) == []
    assert "yarn 4x" in run("manifest", "show", bundle_of(output).manifest).out
    assert (good.code, good.document["result"]) == (0, "PASSED")
    assert bad.code == 1
    assert "✗  input" in bad.out
    assert bad.out.count("✗") == 1
