"""Frequencies stored as tensors: found, held against the config, rewritten so that none goes stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.dialects import inv_freq_tensors
from ropepatch.errors import CheckFailed, InputError
from ropepatch.verify import structure
from tests.support import shards
from tests.support.shards import LLAMA, buffer, folder, plain, weight

BUFFER = "model.layers.0.self_attn.rotary_emb.inv_freq"
SECOND = "model.layers.1.self_attn.rotary_emb.inv_freq"
#: half a step of each dtype, relative; float32 code is off by a few steps
STEP = {"F64": 1e-6, "F32": 1e-6, "F16": 2.0**-11, "BF16": 2.0**-8}


def one_file(root: Path, dtype: str = "F32", theta: float = 10000.0) -> Path:
    """A folder whose only weights file holds a buffer between two weights."""
    tensors = {"a.weight": weight(1), BUFFER: buffer(plain(theta), dtype), "z.weight": weight(2)}
    return folder(root, LLAMA, {"model.safetensors": tensors})


def notes(path: Path) -> str:
    """What inspect says."""
    return "\n".join(ropepatch.open(path).profile.notes)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (BUFFER, True),
        ("transformer.rotary_pos_emb.inv_freq", True),
        ("gpt_neox.layers.3.attention.rotary_emb.inv_freq", True),
        ("model.rotary_emb_local.inv_freq", True),
        ("encoder.layer.0.attention.self.rotary_embeddings.inv_freq", True),
        ("rope.freqs", True),
        ("visual.rotary_pos_emb.inv_freq", False),
        ("model.vision_tower.blocks.0.rotary_emb.inv_freq", False),
        ("audio_tower.rotary_emb.inv_freq", False),
        ("model.layers.0.self_attn.q_proj.weight", False),
        ("scope.freqs", False),
        ("model.position.inv_freq", False),
    ],
)
def test_names(name: str, wanted: bool) -> None:
    """The text model's buffers are known by name, and those of other towers are left alone."""
    assert inv_freq_tensors.is_rope_buffer(name) is wanted


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_encoding_is_the_librarys(tmp_path: Path, dtype: str) -> None:
    """What is encoded reads back through the safetensors library as torch rounds it, and decodes to the same."""
    torch = pytest.importorskip("torch")
    kind = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    wanted = plain(3e6, 128).astype(np.float64) / 3
    data = inv_freq_tensors.encode(wanted, dtype)
    path = shards.write(tmp_path / "x.safetensors", {"x": (dtype, (64,), data)})
    expected = torch.tensor(wanted).to(torch.float32 if dtype == "BF16" else kind).to(kind).double().numpy()
    np.testing.assert_array_equal(shards.values(path, "x"), expected)
    np.testing.assert_array_equal(inv_freq_tensors.decode(data, dtype), expected)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_agreeing_buffers_are_only_mentioned(tmp_path: Path, dtype: str) -> None:
    """A buffer that is off by the rounding of its own dtype does not count as wrong."""
    found = notes(one_file(tmp_path / "m", dtype))
    assert "1 frequency buffers are stored as tensors" in found
    assert "disagree" not in found


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_disagreeing_buffers_are_told_with_their_ratio(tmp_path: Path, dtype: str) -> None:
    """A buffer of another base is reported with the pair that is worst off, and by how much."""
    found = notes(one_file(tmp_path / "m", dtype, theta=40000.0))
    assert "1 of 1 stored frequency buffers disagree with the config: model.safetensors: " + BUFFER in found
    ratio = float(found.split("config / buffer = ")[1].split(" ")[0])
    assert "pair 15" in found
    assert ratio == pytest.approx(4 ** (30 / 32), rel=2 * STEP[dtype] + 1e-3)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_patch_rewrites_the_buffer_and_nothing_else(tmp_path: Path, dtype: str) -> None:
    """After a patch the buffer holds the config's new frequencies, every other byte stays, and revert restores all."""
    source = one_file(tmp_path / "m", dtype)
    patch = ropepatch.open(source).patch("yarn", 4.0)
    manifest = patch.write(tmp_path / "out")
    wanted = patch_frequencies(tmp_path / "out")
    np.testing.assert_allclose(
        shards.values(tmp_path / "out/model.safetensors", BUFFER), wanted, rtol=1.1 * STEP[dtype]
    )
    assert np.max(np.abs(wanted / plain() - 1)) > 0.5
    old, new = (root / "model.safetensors" for root in (source, tmp_path / "out"))
    changed = np.flatnonzero(np.frombuffer(old.read_bytes(), "u1") != np.frombuffer(new.read_bytes(), "u1"))
    width = {"F64": 8, "F32": 4}.get(dtype, 2)
    start = old.stat().st_size - 64 * 4 - 16 * width
    assert start <= changed.min()
    assert changed.max() < start + 16 * width
    checks = (manifest.verification or {})["checks"]
    assert any("safetensors reads 1 edits" in check["detail"] for check in checks)
    assert "disagree" not in notes(tmp_path / "out")
    restored = ropepatch.revert(tmp_path / "out", output=tmp_path / "back")
    for name in ("config.json", "model.safetensors"):
        assert (restored / name).read_bytes() == (source / name).read_bytes()


def patch_frequencies(path: Path) -> Any:
    """What transformers computes from the config that was written."""
    pytest.importorskip("torch")
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    return LlamaRotaryEmbedding(AutoConfig.from_pretrained(path)).inv_freq.double().numpy()


def test_in_place_and_back(tmp_path: Path) -> None:
    """Config and buffer are changed in place together, and both come back."""
    source = one_file(tmp_path / "m")
    before = {name: (source / name).read_bytes() for name in ("config.json", "model.safetensors")}
    ropepatch.open(source).patch("linear", 4.0).write(in_place=True)
    np.testing.assert_allclose(shards.values(source / "model.safetensors", BUFFER), plain() / 4, rtol=1e-6)
    ropepatch.revert(source, in_place=True)
    assert {name: (source / name).read_bytes() for name in before} == before


def test_hard_linked_input_is_not_touched(tmp_path: Path) -> None:
    """A shard whose buffer changes is written anew, also where the other files are linked."""
    source = one_file(tmp_path / "m")
    before = (source / "model.safetensors").read_bytes()
    ropepatch.open(source).patch("yarn", 4.0).write(tmp_path / "out", weights="link")
    assert (source / "model.safetensors").read_bytes() == before
    assert (tmp_path / "out/model.safetensors").stat().st_nlink == 1


def sharded(root: Path) -> Path:
    """Two shards with a buffer each, one without, and the index."""
    files = {
        "model-00001-of-00003.safetensors": {"a.weight": weight(1), BUFFER: buffer(plain())},
        "model-00002-of-00003.safetensors": {SECOND: buffer(plain(), "F16"), "b.weight": weight(2)},
        "model-00003-of-00003.safetensors": {"c.weight": weight(3)},
    }
    return folder(root, LLAMA, files, index=True)


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    """Only shards that the index gives a buffer are opened: one that is broken and holds none does not matter."""
    root = sharded(tmp_path / "m")
    (root / "model-00003-of-00003.safetensors").write_bytes(b"not a header")
    assert "2 frequency buffers" in notes(root)
    assert "model-00003" not in notes(root)


def test_every_shard_is_rewritten(tmp_path: Path) -> None:
    """Buffers in several shards and dtypes are all rewritten, the other shard is linked, and revert restores all."""
    root = sharded(tmp_path / "m")
    patch = ropepatch.open(root).patch("ntk", 4.0)
    assert [edit.file for edit in patch.edits if edit.target == "tensor"] == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
    ]
    patch.write(tmp_path / "out")
    wanted = patch_frequencies(tmp_path / "out")
    first = shards.values(tmp_path / "out/model-00001-of-00003.safetensors", BUFFER)
    second = shards.values(tmp_path / "out/model-00002-of-00003.safetensors", SECOND)
    np.testing.assert_allclose(first, wanted, rtol=1e-6)
    np.testing.assert_allclose(second, wanted, rtol=STEP["F16"])
    restored = ropepatch.revert(tmp_path / "out", output=tmp_path / "back")
    for path in root.iterdir():
        assert (restored / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "model.safetensors.index.json", "config.json"])
def test_any_file_opens_the_folder(tmp_path: Path, name: str) -> None:
    """A shard, the index or the config as ref means the whole folder, also for writing."""
    root = sharded(tmp_path / "m")
    ropepatch.open(root / name).patch("linear", 2.0).write(tmp_path / "out")
    assert sorted(path.name for path in root.iterdir()) == sorted(
        path.name for path in (tmp_path / "out").iterdir() if path.name != "ropepatch.json"
    )
    found = shards.values(tmp_path / "out/model-00001-of-00003.safetensors", BUFFER)
    np.testing.assert_allclose(found, plain() / 2, rtol=1e-6)


def test_missing_shard_is_told(tmp_path: Path) -> None:
    """A shard that the index names and that is not here cannot be checked, and the patch says that it may go stale."""
    root = sharded(tmp_path / "m")
    (root / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors holds stored frequencies by the index and is not here" in notes(root)
    patch = ropepatch.open(root).patch("yarn", 4.0)
    assert any("is not here" in note for note in patch.notes)


def test_groups_get_their_own_frequencies(tmp_path: Path) -> None:
    """Buffers of sliding layers keep the local base when the patch goes to the full layers, by number or by name."""
    config = {
        **LLAMA,
        "model_type": "gemma3_text",
        "head_dim": 32,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 32,
    }
    tensors = {
        BUFFER: buffer(plain()),
        SECOND: buffer(plain(1e6)),
        "model.rotary_emb_local.inv_freq": buffer(plain()),
        "model.rotary_emb.inv_freq": buffer(plain(1e6)),
    }
    root = folder(tmp_path / "m", config, {"model.safetensors": tensors})
    assert "disagree" not in notes(root)
    patch = ropepatch.open(root).patch("linear", 8.0)
    assert [edit.name for edit in patch.edits if edit.target == "tensor"] == [SECOND, "model.rotary_emb.inv_freq"]


def test_what_is_no_such_buffer_is_left_alone(tmp_path: Path) -> None:
    """Wrong widths, matrices, integers and broken numbers are noted, kept, and no reason to fail."""
    tensors = {
        BUFFER: buffer(plain(dims=16)),
        SECOND: ("F32", (4, 4), plain().tobytes()),
        "a.rotary_emb.inv_freq": ("I32", (16,), shards.stored(np.ones(16), "I32")),
        "b.rotary_emb.inv_freq": buffer(np.full(16, np.nan)),
    }
    root = folder(tmp_path / "m", LLAMA, {"model.safetensors": tensors})
    found = notes(root)
    assert "holds 8 frequencies, the config 16" in found
    assert "has the shape (4, 4)" in found
    assert "is I32; such a buffer is neither read nor rewritten" in found
    assert "infinite numbers or none" in found
    patch = ropepatch.open(root).patch("yarn", 4.0)
    assert all(edit.target == "json" for edit in patch.edits)


def test_unreadable_weights_do_not_hide_the_config(tmp_path: Path) -> None:
    """A file that is no safetensors (a pointer of a large-file store) is noted, and the config is still read."""
    root = folder(tmp_path / "m", LLAMA, {})
    (root / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "it was not searched for stored frequencies" in notes(root)


def test_narrow_dtype_that_stops_pairs_is_told(tmp_path: Path) -> None:
    """Half precision has no number for the slowest pairs of a large base; the note says that they stop."""
    tensors = {BUFFER: buffer(plain(), "F16")}
    root = folder(tmp_path / "m", LLAMA, {"model.safetensors": tensors})
    patch = ropepatch.open(root).patch("theta", rope_theta=1e12)
    assert any("too narrow for its slowest pairs" in note for note in patch.notes)


@pytest.mark.parametrize("place", ["../evil.safetensors", "/etc/evil.safetensors", "model.bin", 7])
def test_index_that_points_elsewhere_is_refused(tmp_path: Path, place: object) -> None:
    """An index may name files beside it and no others."""
    root = folder(tmp_path / "m", LLAMA, {})
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {BUFFER: place}}))
    with pytest.raises(InputError, match="which is no file beside it"):
        _ = ropepatch.open(root).profile


def test_patch_for_another_checkpoint_does_not_apply(tmp_path: Path) -> None:
    """A buffer with other values than the patch starts from is not overwritten."""
    source = one_file(tmp_path / "m")
    patch = ropepatch.open(source).patch("yarn", 4.0)
    one_file(tmp_path / "m", theta=20000.0)
    with pytest.raises(InputError, match="the patch was made for another checkpoint"):
        patch.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_reader_sees_a_wrong_value(tmp_path: Path, dtype: str) -> None:
    """The check after writing reads the values through the library and fails on a single wrong one."""
    source = one_file(tmp_path / "m", dtype)
    patch = ropepatch.open(source).patch("yarn", 4.0)
    patch.write(tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    edits = [edit for edit in patch.edits if edit.target == "tensor"]
    structure.safetensors_reader(path, edits)
    data = bytearray(path.read_bytes())
    data[-64 * 4 - 1] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(CheckFailed, match="other values of"):
        structure.safetensors_reader(path, edits)
