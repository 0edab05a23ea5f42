"""A split GGUF, opened by any shard: only the shard that changes is rewritten, and llama.cpp loads the result."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.command import inside as run
from tests.support.gguf_split import split
from tests.support.llamacpp_formula import keys_of, tensors_of

pytest.importorskip("xllamacpp")

from tests.support.llamacpp import logprobs

CONTEXT, SHARDS = 64, 3
LENGTH = 3 * CONTEXT
SPEC = tiny.ModelSpec(context=CONTEXT)
FREQS = "rope_freqs.weight"

Array = np.ndarray[Any, np.dtype[np.float64]]


def computed(path: Path) -> Array:
    """What llama.cpp computes far beyond the trained length."""
    return logprobs(path, tiny.tokens(SPEC, LENGTH), positions=[CONTEXT + 40, LENGTH - 1])


def contents(paths: list[Path]) -> list[str]:
    """A digest of each file."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def shards_of(first: Path) -> list[Path]:
    """All shards that belong to a first one."""
    return [first.with_name(first.name.replace("-00001-", f"-{n:05d}-")) for n in range(1, SHARDS + 1)]


@pytest.fixture(params=[False, True], ids=["tensors in every shard", "bare head"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """The model in three shards, the whole one taken away."""
    whole = tiny.write_gguf(tmp_path / "model.gguf", SPEC)
    parts = split(whole, SHARDS, bare_head=request.param)
    whole.rename(tmp_path / "whole.gguf")
    return parts


@pytest.fixture(scope="module")
def whole_patched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """What the unsplit file computes once patched, by method."""
    folder = tmp_path_factory.mktemp("whole")
    path, found = tiny.write_gguf(folder / "model.gguf", SPEC), {}
    for method in ("yarn", "mrrope-pro"):
        target = folder / f"{method}.gguf"
        assert run("apply", "--method", method, "--factor", 4, path, "-o", target).code == 0
        found[method] = computed(target)
    return found


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_the_model(opened: int, shards: list[Path]) -> None:
    """The profile is the unsplit file's, whichever shard is named."""
    ended = run("diff", shards[opened], shards[0].with_name("whole.gguf"), "--json")
    assert (ended.code, ended.document["identical"]) == (0, True)


@pytest.mark.parametrize("method", ["yarn", "mrrope-pro"])
def test_only_the_first_shard_is_rewritten(
    method: str, shards: list[Path], whole_patched: dict[str, Array], tmp_path: Path
) -> None:
    """Opened by its second shard: the engine computes what it does for the unsplit file, and revert restores all."""
    before = contents(shards)
    (tmp_path / "out").mkdir()
    ended = run("apply", "--method", method, "--factor", 4, shards[1], "-o", tmp_path / "out" / "long.gguf")
    assert ended.code == 0, ended.err
    written = shards_of(tmp_path / "out" / "long-00001-of-00003.gguf")
    assert contents(written)[1:] == before[1:]
    assert contents(written)[0] != before[0]
    assert contents(shards) == before
    keys, tensors = keys_of(written[0]), tensors_of(written[0])
    added = method == "mrrope-pro"
    assert keys["split.tensors.count"] == keys_of(shards[0])["split.tensors.count"] + added
    assert (FREQS in tensors) == added
    np.testing.assert_allclose(computed(written[0]), whole_patched[method], atol=1e-6)
    back = run("revert", written[2], "-o", tmp_path / "out" / "back.gguf")
    assert back.code == 0, back.err
    assert contents(shards_of(tmp_path / "out" / "back-00001-of-00003.gguf")) == before


def test_in_place_and_back(shards: list[Path], whole_patched: dict[str, Array]) -> None:
    """In place one shard changes, the others keep their very files; reverted, every byte is as it was."""
    before, inodes = contents(shards), [path.stat().st_ino for path in shards]
    assert run("apply", "--method", "mrrope-pro", "--factor", 4, shards[2], "--in-place").code == 0
    assert contents(shards)[1:] == before[1:]
    assert [path.stat().st_ino for path in shards][1:] == inodes[1:]
    np.testing.assert_allclose(computed(shards[0]), whole_patched["mrrope-pro"], atol=1e-6)
    assert run("revert", shards[0], "--in-place").code == 0
    assert contents(shards) == before


def test_a_second_patch_changes_the_tensor_in_its_shard(shards: list[Path], tmp_path: Path) -> None:
    """Replacing factors that are there raises no count and adds no tensor."""
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    assert run("apply", "--method", "mrrope-pro", "--factor", 2, shards[0], "-o", first).code == 0
    opened = tmp_path / "first-00003-of-00003.gguf"
    ended = run("apply", "--method", "llama3", "--factor", 4, "--existing", "replace", opened, "-o", second)
    assert ended.code == 0, ended.err
    head, again = tmp_path / "first-00001-of-00003.gguf", tmp_path / "second-00001-of-00003.gguf"
    assert keys_of(head)["split.tensors.count"] == keys_of(again)["split.tensors.count"]
    assert not np.array_equal(tensors_of(head)[FREQS], tensors_of(again)[FREQS])
    assert np.isfinite(computed(again)).all()


@pytest.mark.parametrize("command", [("inspect",), ("apply", "--method", "yarn", "--factor", "4"), ("revert",)])
@pytest.mark.parametrize("missing", [0, 2])
def test_a_missing_shard_is_one_line(command: tuple[str, ...], missing: int, shards: list[Path]) -> None:
    """Exit 3 and the name of what is not there; nothing is written."""
    shards[missing].unlink()
    left = sorted(shards[0].parent.iterdir())
    ended = run(*command, shards[1])
    assert (ended.code, ended.err.count("\n")) == (3, 1)
    assert f"shard {shards[missing].name} is missing" in ended.err
    assert "all 3 shards have to be there" in ended.err
    assert sorted(shards[0].parent.iterdir()) == left
