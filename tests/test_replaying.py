"""Repeating a patch on a sibling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import manifest
from ropepatch.bundle import bundle_of
from ropepatch.errors import InputError
from ropepatch.frequencies import profile_frequencies
from tests.support import llamacpp_formula as engine
from tests.support import tiny
from tests.support.command import ROOT
from tests.support.gguf_split import split
from tests.support.llamacpp import load_report
from tests.support.outputs import SPEC, digest


@pytest.mark.parametrize("through", ["manifest", "patch", "json"])
def test_replay_on_a_sibling(gguf_file: Path, through: str) -> None:
    """The same edits on another quantisation give the same metadata, and leave its own tensors alone."""
    sibling = tiny.write_gguf(gguf_file.with_name("sibling.gguf"), SPEC.with_(seed=7))
    patch = ropepatch.open(gguf_file).patch("mrrope-pro", 4.0)
    written = gguf_file.with_name("out.gguf")
    document = patch.write(written)
    record: Any = {"manifest": document, "patch": patch}.get(through)
    if through == "manifest":
        record = manifest.read(bundle_of(written).manifest)
    if record is None:
        record = ropepatch.Patch.from_json(json.loads(json.dumps(patch.to_json())))
    target = gguf_file.with_name("sibling-out.gguf")
    ropepatch.replay(record, str(sibling)).write(target)
    assert engine.keys_of(target) == engine.keys_of(written)
    old, new, first = engine.tensors_of(sibling), engine.tensors_of(target), engine.tensors_of(written)
    assert set(new) - set(old) == {"rope_freqs.weight"}
    assert all(np.array_equal(old[name], new[name]) for name in old)
    assert np.array_equal(new["rope_freqs.weight"], first["rope_freqs.weight"])
    ropepatch.revert(target, output=gguf_file.with_name("back.gguf"))
    assert digest(gguf_file.with_name("back.gguf")) == digest(sibling)


def test_replay_on_what_is_no_sibling_is_refused(gguf_file: Path, folder: Path) -> None:
    """Another base, another context or another format is not what the patch starts from."""
    patch = ropepatch.open(gguf_file).patch("ntk", 4.0)
    reasons = {
        "base": r"another model .*: default.rope_theta is 5000, there it is 10000;",
        "context": r"another model .*: trained context is 512, there it is 256 \(and 1 more\);",
    }
    for name, spec in (("base", SPEC.with_(rope_theta=5000.0)), ("context", SPEC.with_(context=512))):
        other = tiny.write_gguf(gguf_file.with_name(f"{name}.gguf"), spec)
        with pytest.raises(InputError, match=reasons[name]):
            ropepatch.replay(patch, str(other)).write()
    with pytest.raises(InputError, match="is hf, the patch is for gguf; use apply --method ntk"):
        ropepatch.replay(patch, str(folder))
    assert not list(gguf_file.parent.glob("*-ntk-*"))


def test_replay_on_another_quantisation(tmp_path: Path) -> None:
    """The manifest of the float32 file patches the Q8_0 file, whose tensors stay, and the other way round."""
    fixtures = ROOT / "fixtures"
    names = ("tiny-retriever.gguf", "tiny-retriever-Q8_0.gguf")
    for first, second in (names, names[::-1]):
        record = ropepatch.open(fixtures / first).patch("yarn", 4.0).write(tmp_path / f"from-{first}")
        target = tmp_path / f"replayed-{second}"

        ropepatch.replay(record, str(fixtures / second)).write(target, digest="full")

        direct = ropepatch.open(fixtures / second).patch("yarn", 4.0)
        assert ropepatch.open(target).profile.groups == direct.after.groups
        check = {item.name: item.result for item in ropepatch.verify_manifest(target).checks}
        assert (check["input"], check["tensor data"]) == ("PASSED", "PASSED")


def test_replay_on_another_model_says_what_differs(tmp_path: Path) -> None:
    """Another model is refused with the first difference; forced, it gets the same method by edits of its own."""
    record = (
        ropepatch.open(ROOT / "fixtures" / "tiny-retriever.gguf")
        .patch("yarn", 4.0, beta_fast=16)
        .write(tmp_path / "out.gguf")
    )
    other = str(ROOT / "fixtures" / "tiny-llama.gguf")

    with pytest.raises(InputError, match=r"is another model .*: trained context is 2048, there it is 256"):
        ropepatch.replay(record, other)
    forced = ropepatch.replay(record, other, force=True)
    forced.write(tmp_path / "forced.gguf")

    own = ropepatch.open(other).patch("yarn", 4.0, beta_fast=16)
    lifted = ropepatch.open(tmp_path / "forced.gguf").profile
    assert [edit.to_json() for edit in forced.edits] == [edit.to_json() for edit in own.edits]
    assert lifted.declared_context == 8192
    assert ropepatch.verify_manifest(tmp_path / "forced.gguf").ok


def test_replay_on_what_has_the_patch_already(gguf_file: Path) -> None:
    """The output itself, or another one of the same patch, is told from another model."""
    record = ropepatch.open(gguf_file).patch("yarn", 4.0).write(gguf_file.with_name("out.gguf"))
    with pytest.raises(InputError, match="has this patch already"):
        ropepatch.replay(record, str(gguf_file.with_name("out.gguf")))


@pytest.mark.parametrize(("method", "scaled"), [("mrrope-pro", False), ("mrrope-pro", True), ("ntk", True)])
def test_replay_across_shards(method: str, scaled: bool, tmp_path: Path) -> None:
    """Between a file and models of two and three shards, each edit goes where the sibling's own patch has it."""
    path = tiny.write_gguf(tmp_path / "m.gguf", SPEC)
    if scaled:  # there is a tensor to replace, in the last shard
        ropepatch.open(path).patch("mrrope-pro", 4.0).write(in_place=True)
        path.with_name("m.ropepatch.json").unlink()
    refs = [path, *(split(path, count)[-1] for count in (2, 3))]
    wanted = [ropepatch.open(ref).patch(method, 8.0, existing="replace" if scaled else "error") for ref in refs]

    def told(patch: ropepatch.Patch) -> set[tuple[object, ...]]:
        return {(edit.file, edit.name, str(edit.before), str(edit.after)) for edit in patch.edits}

    for patch in wanted:
        assert [told(ropepatch.replay(patch, ref)) for ref in refs] == [told(own) for own in wanted]
    ropepatch.replay(wanted[0], refs[2]).write(tmp_path / "replayed.gguf")
    wanted[2].write(tmp_path / "own.gguf")
    for replayed, own in zip(
        *(sorted(tmp_path.glob(f"{name}-*-of-*.gguf")) for name in ("replayed", "own")), strict=True
    ):
        assert engine.keys_of(replayed) == engine.keys_of(own)
        assert {n: t.tobytes() for n, t in engine.tensors_of(replayed).items()} == {
            n: t.tobytes() for n, t in engine.tensors_of(own).items()
        }


def test_what_is_replayed_on_shards_is_loaded(tmp_path: Path) -> None:
    """llama.cpp, which counts the tensors of all shards, loads a model that got a further one from another's patch."""
    pytest.importorskip("xllamacpp")
    path = tiny.write_gguf(tmp_path / "m.gguf", SPEC)
    patch = ropepatch.open(path).patch("mrrope-pro", 4.0)
    ropepatch.replay(patch, split(path, 3)[0]).write(tmp_path / "out.gguf")

    report = load_report(tmp_path / "out-00001-of-00003.gguf")

    assert report.loaded, report.error


def test_a_stack_made_anew_counts_from_the_other_context(tmp_path: Path) -> None:
    """Forced on a model of another context, a stack is the one that its two methods make of that model."""

    def stacked(name: str, place: Path) -> ropepatch.Patch:
        ropepatch.open(ROOT / "fixtures" / name).patch("llama3", 4.0).write(place)
        return ropepatch.open(place).patch("yarn", 2.0, existing="compose")

    wanted = stacked("tiny-retriever.gguf", tmp_path / "direct.gguf").after
    assert (wanted.trained_context, wanted.declared_context) == (256, 2048)

    forced = ropepatch.replay(
        stacked("tiny-llama.gguf", tmp_path / "first.gguf"), str(ROOT / "fixtures" / "tiny-retriever.gguf"), force=True
    )

    assert forced.after.declared_context == wanted.declared_context
    forced.write(tmp_path / "forced.gguf")
    found = ropepatch.open(tmp_path / "forced.gguf").frequencies(2048)["default"]
    np.testing.assert_allclose(found.inv_freq, profile_frequencies(wanted, 2048)["default"].inv_freq, rtol=1e-6)
