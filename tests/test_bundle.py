"""The files of a checkpoint, and the names that an output gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropepatch.bundle import Bundle, bundle_of
from ropepatch.errors import InputError

SHARDS = tuple(f"big-{number:05d}-of-00003.gguf" for number in (1, 2, 3))


def test_split_model_keeps_its_numbers() -> None:
    """Every shard of an output has its number once, whether the name is the default, a stem, a file or a shard."""
    split = Bundle(Path("models"), SHARDS, "split")
    assert split.stem == "big"
    assert split.manifest == Path("models/big.ropepatch.json")
    for name in (split.default("yarn-4x"), Path("models/big-yarn-4x"), Path("models/big-yarn-4x.gguf")):
        assert split.renamed(name).names == tuple(shard.replace("big", "big-yarn-4x") for shard in SHARDS)


def test_any_shard_names_the_whole(tmp_path: Path) -> None:
    """A split model is found by each of its shards; one that is missing is named."""
    for name in SHARDS:
        (tmp_path / name).touch()
    assert all(bundle_of(tmp_path / name) == Bundle(tmp_path, SHARDS, "split") for name in SHARDS)
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(InputError, match=SHARDS[1]):
        bundle_of(tmp_path / SHARDS[0])


def test_names_of_a_file_and_a_folder() -> None:
    """The default output stands beside its input under the input's name and a tag."""
    file = Bundle(Path("models"), ("model.gguf",), "file")
    assert file.default("yarn-4x") == Path("models/model-yarn-4x.gguf")
    assert file.manifest == Path("models/model.ropepatch.json")
    folder = Bundle(Path("models/llama"), ("config.json",), "folder")
    assert folder.default("yarn-4x") == Path("models/llama-yarn-4x")
    assert folder.manifest == Path("models/llama/ropepatch.json")
