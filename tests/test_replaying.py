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
from tests.support import llamacpp_formula as engine
from tests.support import tiny
from tests.support.command import ROOT
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
