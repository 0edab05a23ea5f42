"""The trained fixture and YaRN copies of it, in a folder of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import ropepatch
from tests.support.command import ROOT

pytest.importorskip("torch")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The trained fixture as Hugging Face folder."""
    return Path(shutil.copytree(ROOT / "fixtures" / "tiny-retriever", tmp_path / "base"))


@pytest.fixture
def base_gguf(tmp_path: Path) -> Path:
    """The trained fixture as GGUF."""
    return Path(shutil.copy(ROOT / "fixtures" / "tiny-retriever.gguf", tmp_path / "base.gguf"))


@pytest.fixture
def yarn(base: Path) -> Path:
    """The folder with YaRN x4 and its manifest."""
    ropepatch.open(base).patch("yarn", 4).write(base.with_name("yarn"))
    return base.with_name("yarn")


@pytest.fixture
def yarn_gguf(base_gguf: Path) -> Path:
    """The GGUF with YaRN x4 and its manifest."""
    ropepatch.open(base_gguf).patch("yarn", 4).write(base_gguf.with_name("yarn.gguf"))
    return base_gguf.with_name("yarn.gguf")
