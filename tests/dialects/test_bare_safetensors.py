"""A ``.safetensors`` file alone: by the config in its metadata, by its frequencies, or refused for want of both."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import ropepatch
from ropepatch.dialects import safetensors_file
from ropepatch.errors import InputError, MethodUnsupported
from tests.support import shards
from tests.support.shards import LLAMA, buffer, plain, weight

NAME = "rotary_emb.inv_freq"


def with_config(path: Path, indent: int | None = None, **more: Any) -> Path:
    """A file that carries its config, other metadata around it, weights and a buffer."""
    text = json.dumps(LLAMA, indent=indent)
    metadata = {"format": "pt", "note": 'ü "quoted" \\ ', "config": text, "zeta": "last", **more}
    return shards.write(path, {"a.weight": weight(1), NAME: buffer(plain()), "b.weight": weight(2)}, metadata)


def metadata(path: Path) -> dict[str, str]:
    """The metadata as the safetensors library reads it."""
    with safe_open(path, framework="numpy") as handle:
        return dict(handle.metadata())


def tail(path: Path) -> bytes:
    """The bytes behind the header."""
    data = path.read_bytes()
    return data[8 + struct.unpack("<Q", data[:8])[0] :]


def test_config_in_the_metadata_is_read(tmp_path: Path) -> None:
    """The profile is that of the same config beside the file, except for the format that it names."""
    alone = ropepatch.open(with_config(tmp_path / "model.safetensors")).profile
    shards.folder(tmp_path / "m", LLAMA, {})
    beside = ropepatch.open(tmp_path / "m").profile
    assert alone.source.format == "safetensors"
    assert alone.groups == beside.groups
    assert (alone.trained_context, alone.declared_context) == (256, 256)
    assert any("1 frequency buffers are stored" in note for note in alone.notes)


@pytest.mark.parametrize("indent", [None, 2])
def test_patch_rewrites_config_and_buffer(tmp_path: Path, indent: int | None) -> None:
    """The config inside grows, tensors move as one, the header stays aligned, and every other byte of it is kept."""
    source = with_config(tmp_path / "model.safetensors", indent)
    patch = ropepatch.open(source).patch("yarn", 4.0)
    patch.write(tmp_path / "out.safetensors")
    old, new = metadata(source), metadata(tmp_path / "out.safetensors")
    assert set(new) == set(old)
    assert {key: value for key, value in new.items() if key != "config"} == {
        key: value for key, value in old.items() if key != "config"
    }
    written = json.loads(new["config"])
    assert written.pop("rope_scaling") == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    assert written == {**LLAMA, "max_position_embeddings": 1024}
    assert ("\n" in new["config"]) == (indent is not None)
    header = (tmp_path / "out.safetensors").read_bytes()
    assert struct.unpack("<Q", header[:8])[0] % 8 == 0
    before, after = tail(source), tail(tmp_path / "out.safetensors")
    assert (before[:256], before[-256:]) == (after[:256], after[-256:])
    found = ropepatch.open(tmp_path / "out.safetensors").frequencies()["default"].inv_freq
    np.testing.assert_allclose(shards.values(tmp_path / "out.safetensors", NAME), found, rtol=1e-6)
    restored = ropepatch.revert(tmp_path / "out.safetensors", output=tmp_path / "back.safetensors")
    assert restored.read_bytes() == source.read_bytes()


def test_order_of_the_header_is_kept(tmp_path: Path) -> None:
    """The header's own key order, unusual spacing and escapes outside the config's value survive."""
    source = with_config(tmp_path / "model.safetensors")
    ropepatch.open(source).patch("linear", 2.0).write(tmp_path / "out.safetensors")
    texts = []
    for path in (source, tmp_path / "out.safetensors"):
        data = path.read_bytes()
        text = data[8 : 8 + struct.unpack("<Q", data[:8])[0]].decode().rstrip(" ")
        start, end = text.index('"config":') + 9, text.index(',"zeta"')
        texts.append((text[:start], text[end:]))
    assert texts[0] == texts[1]


def test_in_place_grows_and_comes_back(tmp_path: Path) -> None:
    """A header that grows is changed in place, and revert gives the input's bytes back."""
    source = with_config(tmp_path / "model.safetensors")
    before = source.read_bytes()
    ropepatch.open(source).patch("yarn", 4.0).write(in_place=True)
    assert len(source.read_bytes()) > len(before)
    assert metadata(source)["note"] == 'ü "quoted" \\ '
    ropepatch.revert(source, in_place=True)
    assert source.read_bytes() == before


def test_config_beside_comes_first(tmp_path: Path) -> None:
    """A config.json in the folder counts, as it does for every engine."""
    with_config(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "rope_theta": 5e5}))
    assert ropepatch.open(tmp_path / "model.safetensors").profile.groups["default"].rope_theta == 5e5


def test_folder_with_one_file_opens_it(tmp_path: Path) -> None:
    """A folder without a config whose only file carries one is that file; two files are too many to guess."""
    with_config(tmp_path / "model.safetensors")
    assert ropepatch.open(tmp_path).profile.source.format == "safetensors"
    with_config(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"holds 2 safetensors files and no config\.json"):
        ropepatch.open(tmp_path)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1000000.0, 123456.0])
def test_base_is_solved_from_the_frequencies(tmp_path: Path, theta: float, dtype: str) -> None:
    """Frequencies alone give back a base that makes them, exactly where the dtype can tell bases apart."""
    path = shards.write(tmp_path / "x.safetensors", {NAME: buffer(plain(theta, 64), dtype)})
    profile = ropepatch.open(path).profile
    group = profile.groups["default"]
    assert (group.rotary_dim, group.scaling.name, profile.declared_context) == (64, "none", None)
    if dtype in ("F64", "F32"):
        assert group.rope_theta == theta
    assert group.rope_theta == pytest.approx(theta, rel=0.01)
    made = group.spectrum().inv_freq
    assert np.max(np.abs(made / shards.values(path, NAME) - 1)) < 2e-2
    assert any("is solved from" in note for note in profile.notes)


def test_scaled_frequencies_have_no_base() -> None:
    """Frequencies of a ramp, of a constant and of a single pair are not taken for a base."""
    ramp = plain(10000.0, 64) / np.linspace(1, 4, 32)
    assert safetensors_file.base_of(ramp, "F32") is None
    assert safetensors_file.base_of(np.ones(8), "F32") is None
    assert safetensors_file.base_of(np.ones(1), "F32") is None
    assert safetensors_file.base_of(np.zeros(8), "F32") is None


@pytest.mark.parametrize("method", ["linear", "ntk"])
def test_bare_frequencies_take_what_can_be_told_again(tmp_path: Path, method: str) -> None:
    """A base and a division are written into the buffer and read again; revert gives the input's bytes back."""
    source = shards.write(tmp_path / "x.safetensors", {"w": weight(1), NAME: buffer(plain(5e5, 64), "F64")})
    ropepatch.open(source).patch(method, 4.0).write(tmp_path / "out.safetensors")
    old, new = (shards.values(path, NAME) for path in (source, tmp_path / "out.safetensors"))
    assert new[-1] / old[-1] == pytest.approx(0.25, rel=1e-6)
    assert new[0] == (0.25 if method == "linear" else 1.0)
    again = ropepatch.open(tmp_path / "out.safetensors").profile.groups["default"]
    assert again.scaling.name == ("linear" if method == "linear" else "none")
    restored = ropepatch.revert(tmp_path / "out.safetensors", output=tmp_path / "back.safetensors")
    assert restored.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("method", ["yarn", "dynamic", "llama3"])
def test_bare_frequencies_refuse_the_rest(tmp_path: Path, method: str) -> None:
    """What frequencies alone cannot say is refused, with what would work."""
    path = shards.write(tmp_path / "x.safetensors", {NAME: buffer(plain())})
    with pytest.raises(MethodUnsupported, match=f"do not say that they are {method}; they can be linear, ntk"):
        ropepatch.open(path).patch(method, 4.0, original=256)


@pytest.mark.parametrize(
    ("tensors", "extra", "message"),
    [
        (
            {"w": weight(1)},
            None,
            "no config in its __metadata__ and no stored frequencies",
        ),
        ({"w": weight(1)}, {"config": "{"}, "config in __metadata__: is not JSON"),
        ({"w": weight(1)}, {"config": "[1]"}, "config in __metadata__: is a JSON list, not an object"),
        (
            {NAME: buffer(plain() / np.linspace(1, 4, 16))},
            None,
            "is not plain or linear RoPE of one base",
        ),
        (
            {"layers.0.rotary_emb.inv_freq": buffer(plain()), "layers.1.rotary_emb.inv_freq": buffer(plain(5e5))},
            None,
            "differ; a config.json is needed to tell the layers",
        ),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, tensors: dict[str, Any], extra: dict[str, str] | None, message: str
) -> None:
    """A file that cannot say its RoPE is refused in one line that names what would help."""
    path = shards.write(tmp_path / "x.safetensors", tensors, extra)
    with pytest.raises(InputError) as caught:
        _ = ropepatch.open(path).profile
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 8, b"\xff" * 16, struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"\xff\xff"]
)
def test_broken_files_are_one_line(tmp_path: Path, data: bytes) -> None:
    """A file that is no safetensors is refused before anything of the stated size is read."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a safetensors file"):
        ropepatch.open(path)
