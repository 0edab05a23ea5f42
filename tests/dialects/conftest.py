"""Small checkpoints for the dialects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny

#: as small as the families allow; 16 pairs, so that YaRN's ramp has pairs on both sides
SPEC = tiny.ModelSpec(layers=2, hidden=32, heads=2, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)


@pytest.fixture
def gguf_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny GGUF: `gguf_file(arch, keys, tensors)`; keys that begin with a dot get the architecture before."""

    def write(
        arch: str = "llama",
        keys: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Any] | None = None,
        *,
        label: str | None = None,
        name: str = "model.gguf",
    ) -> Path:
        return tiny.write_gguf(tmp_path / name, SPEC.with_(arch=arch), keys, tensors, arch=label)

    return write


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a `config.json` and nothing else: `config({...})` or `config(text)`; gives the folder."""

    def write(content: Mapping[str, Any] | str, indent: int | str | None = 2) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=indent) + "\n"
        (folder / "config.json").write_bytes(text.encode())
        return folder

    return write
