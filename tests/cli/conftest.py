"""Small checkpoints in a folder of their own, for commands to work on."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import pytest

from tests.support.command import ROOT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A llama as GGUF, trained at 2048 tokens."""
    return Path(shutil.copy(ROOT / "fixtures" / "tiny-llama.gguf", tmp_path / "model.gguf"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same llama as Hugging Face directory."""
    return Path(shutil.copytree(ROOT / "fixtures" / "tiny-llama", tmp_path / "model"))


@pytest.fixture
def no_rope(tmp_path: Path) -> Path:
    """A GGUF of an architecture without rotary embedding."""
    path = tmp_path / "gpt2.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(1024)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A GGUF whose texts try to steer the terminal and rich's markup."""
    path = tmp_path / "hostile.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_head_count(1)
    writer.add_string("llama.rope.\x1b[31mred", "\x1b]0;title\x07 [bold]loud[/bold] :smile: \u202egnp.exe\nsecond line")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
