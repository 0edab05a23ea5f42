"""Checkpoints to write, undo and repeat patches of, as fixtures, and what holds them against each other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support import tiny

SPEC = tiny.ModelSpec(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=64, vocab=16, context=256)


def digest(path: Path) -> str:
    """sha256 by hashlib alone."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(root: Path) -> dict[str, str]:
    """sha256 of everything below a folder (or of a file) by relative name."""
    if root.is_file():
        return {"": digest(root)}
    return {str(p.relative_to(root)): digest(p) for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A tiny llama."""
    return tiny.write_gguf(tmp_path / "model.gguf", SPEC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same with a tokenizer file, a subfolder, and weights large enough to be linked."""
    path = tiny.write_hf(tmp_path / "model", SPEC.with_(vocab=5000))
    (path / "tokenizer.json").write_text("{}")
    (path / "extra").mkdir()
    (path / "extra" / "notes.txt").write_text("kept")
    assert (path / "model.safetensors").stat().st_size > 1 << 20
    return path


@pytest.fixture(params=["gguf", "hf"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Each kind in turn."""
    path: Path = request.getfixturevalue({"gguf": "gguf_file", "hf": "folder"}[request.param])
    return path
