"""Dual chunk attention as a key, and Self-Extend as what no file can say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch.errors import MethodUnsupported, UsageError
from tests.support.command import ROOT
from tests.support.command import ropepatch as command

FIXTURES = ROOT / "fixtures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Qwen 2 config of 32,768 tokens."""
    config = {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
              "rope_theta": 1e6, "max_position_embeddings": 32768, "vocab_size": 32}  # fmt: skip
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path / "qwen"


def test_the_key_is_written_and_read_again(folder: Path, tmp_path: Path) -> None:
    """Chunks within the trained context, the new context, the same frequencies; reverting gives the input back."""
    output = tmp_path / "out"
    arguments = (
        "apply",
        "--method",
        "dca",
        "--factor",
        4,
        folder,
        "--for",
        "sglang",
        "-o",
        output,
        "--weights",
        "none",
    )
    done = command(*arguments)
    assert done.code == 0, done.err
    assert "dual_chunk_flash_attn" in done.out + done.err
    assert "vllm serve" not in done.out
    written = json.loads((output / "config.json").read_text("utf-8"))
    assert written["dual_chunk_attention_config"] == {
        "chunk_size": 32768, "local_size": 8192, "original_max_position_embeddings": 32768
    }  # fmt: skip
    assert written["max_position_embeddings"] == 131072
    profile = ropepatch.open(output).profile
    assert (profile.trained_context, profile.declared_context) == (32768, 131072)
    assert any("dual_chunk_attention_config" in note for note in profile.notes)
    assert command("revert", output, "-o", tmp_path / "back").code == 0
    before, after = ((path / "config.json").read_bytes() for path in (folder, tmp_path / "back"))
    assert before == after


@pytest.mark.parametrize(
    ("wanted", "told"),
    [((), "say with --for"), (("--for", "vllm"), "does not load"), (("--for", "vllm@0.20"), "does not load"),
     (("--for", "sglang,transformers"), "transformers does not read")],
)  # fmt: skip
def test_engines_that_do_not_read_it_are_refused(wanted: tuple[str, ...], told: str, folder: Path) -> None:
    """Without an engine that reads the key, or with one that does not, nothing is written."""
    done = command("apply", "--method", "dca", "--factor", 4, folder, *wanted)
    assert done.code == 3
    assert told in done.err
    assert [path.name for path in folder.parent.iterdir()] == ["qwen"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"chunk_size": 65536}, "0 < local_size"), ({"local_size": 32768}, "0 < local_size"),
     ({"beta": 1}, "no parameter"), ({"local_size": "many"}, "whole number")],
)  # fmt: skip
def test_impossible_chunks(settings: dict[str, Any], told: str, folder: Path) -> None:
    """Chunks beyond the trained context, or without room, are refused."""
    with pytest.raises(UsageError, match=told):
        ropepatch.open(folder).patch("dca", 4, **settings)


@pytest.mark.parametrize("name", ["tiny-retriever", "tiny-retriever.gguf"])
def test_formats_without_the_key(name: str) -> None:
    """A GGUF, and a model whose class does not read it, are refused with what would work."""
    with pytest.raises(MethodUnsupported, match="SGLang reads it from"):
        ropepatch.open(FIXTURES / name).patch("dca", 4)


def test_self_extend_is_refused_with_lines_that_run_it() -> None:
    """The reason, and where it still runs, with numbers: the window is a multiple of the group, as llama.cpp asks."""
    done = command("apply", "--method", "self-extend", "--factor", 4, FIXTURES / "tiny-retriever.gguf")
    assert done.code == 3
    assert "no key of any format" in done.err
    assert "self_extend(model, group=9, window=72)" in done.err
    assert "-c 1024 -gan 9 -gaw 72" in done.err
    assert command("explain", "self-extend").code == command("explain", "dca").code == 0
