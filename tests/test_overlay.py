"""Overlays: a small first shard with other metadata over a body that many variants share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import ropepatch
from ropepatch import manifest, schemas
from ropepatch.bundle import bundle_of
from ropepatch.errors import InputError, UsageError
from tests.support import llamacpp, tiny
from tests.support.command import ropepatch as command

SPEC = tiny.ModelSpec(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=64, vocab=64, context=256)
FAR = [300, 700]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny llama, alone in its folder."""
    return tiny.write_gguf(tmp_path / "model.gguf", SPEC)


def overlaid(model: Path, name: str, method: str = "yarn", factor: float = 4.0, **options: str) -> Path:
    """Lay a patch over a model; returns the head."""
    patch = ropepatch.open(model).patch(method, factor, existing="replace")
    patch.write(model.with_name(name), overlay=True, **options)
    return model.with_name(name).with_name(f"{name.removesuffix('.gguf')}-00001-of-00002.gguf")


@pytest.mark.parametrize("method", ["yarn", "ntk", "mrrope-pro"])
def test_llama_cpp_computes_what_the_whole_file_gives(model: Path, method: str) -> None:
    """The engine loads the head with its body, and far positions are those of the patched file, not of the input."""
    head = overlaid(model, "over.gguf", method)
    whole = model.with_name("whole.gguf")
    ropepatch.open(model).patch(method, 4.0).write(whole)
    prompt = tiny.tokens(SPEC, 800)
    over, patched = (llamacpp.logprobs(path, prompt, 1024, FAR) for path in (head, whole))
    np.testing.assert_allclose(over, patched, atol=1e-6)
    assert head.stat().st_size < 8192 < model.stat().st_size


@pytest.mark.parametrize("body", ["auto", "hardlink", "symlink"])
def test_a_second_variant_shares_the_body(model: Path, body: str) -> None:
    """An overlay of an overlay is a head of its own over the same file, and both load."""
    first = overlaid(model, "first.gguf", "mrrope-pro")
    second = overlaid(first, "second.gguf", "yarn", 2.0, body=body)
    bodies = [path.with_name(path.name.replace("00001-of", "00002-of")) for path in (first, second)]
    if body == "symlink":
        assert os.readlink(bodies[1]) == bodies[0].name
    if body == "hardlink":
        assert os.path.samefile(*bodies)
    for head in (first, second):
        assert llamacpp.load_report(head, 512).loaded
    assert ropepatch.open(second).profile.declared_context == 512
    assert ropepatch.open(first).profile.declared_context == 1024


def test_the_input_is_as_it_was_and_the_manifest_says_what_was_made(model: Path) -> None:
    """The input keeps its bytes; the manifest validates; undoing an overlay is deleting it, which revert says."""
    before = model.read_bytes()
    head = overlaid(model, "over.gguf")
    assert model.read_bytes() == before
    record = manifest.read(bundle_of(head).manifest)
    assert list(schemas.validator("manifest").iter_errors(record.document)) == []
    assert set(record.subjects) == {head.name, head.name.replace("00001-of", "00002-of")}
    assert record.verification
    with pytest.raises(InputError, match="is an overlay; its input is as it was; to undo it, delete its two files"):
        ropepatch.revert(head)


def test_a_body_that_holds_the_tensor_is_refused(tmp_path: Path) -> None:
    """A second tensor of one name would not load: said before anything is written."""
    factors = {"rope_freqs.weight": np.ones(16, np.float32)}
    model = tiny.write_gguf(tmp_path / "model.gguf", SPEC, extra_tensors=factors)
    patch = ropepatch.open(model).patch("mrrope-pro", 4.0)
    with pytest.raises(InputError, match=r"holds rope_freqs\.weight already, and no second shard may hold it again"):
        patch.write(overlay=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_what_cannot_be_overlaid(model: Path, tmp_path: Path) -> None:
    """A folder is no GGUF; in place and overlay contradict each other."""
    folder = tiny.write_hf(tmp_path / "hf", SPEC)
    with pytest.raises(UsageError, match="an overlay is laid over a GGUF file"):
        ropepatch.open(folder).patch("yarn", 4.0).write(overlay=True)
    with pytest.raises(UsageError, match="exclude each other"):
        ropepatch.open(model).patch("yarn", 4.0).write(overlay=True, in_place=True)


def test_the_command(model: Path) -> None:
    """`apply --overlay` names the head that it wrote."""
    ended = command("apply", "--method", "yarn", "--factor", "4", "--overlay", model, "--json")
    assert ended.code == 0, ended.err
    schemas.validator("apply").validate(ended.document)
    assert ended.document["output"] == str(model.with_name("model-yarn-4x-00001-of-00002.gguf"))
    assert Path(ended.document["manifest_path"]).exists()
