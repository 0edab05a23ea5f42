"""Texts of ``params.json`` of our own, spelled as Mistral, Meta, ExecuTorch and tt-metal spell theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

#: the shape that all of them share: heads of 32 dimensions
SHAPE = {"dim": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 64}
MISTRAL = {**SHAPE, "head_dim": 32, "hidden_dim": 256, "rope_theta": 1000000.0, "max_position_embeddings": 4096}
META = {**SHAPE, "ffn_dim_multiplier": 1.3, "multiple_of": 64, "rope_theta": 500000.0}


def write(folder: Path, *parts: Mapping[str, Any], name: str = "params.json", indent: int | None = 2) -> Path:
    """Write the union of ``parts`` (None takes a key away) into ``folder``; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {}
    for part in parts:
        content |= part
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / name).write_text(json.dumps(kept, indent=indent) + "\n", encoding="utf-8")
    return folder


def read(folder: Path, name: str = "params.json") -> dict[str, Any]:
    """The object in a file of ``folder``."""
    found: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return found


def corpus(name: str) -> Path:
    """A published config's text; the test that asks for it is skipped where there is no corpus."""
    root = os.environ.get("ROPEPATCH_CORPUS")
    if not root:
        pytest.skip(f"ROPEPATCH_CORPUS is not set: configs/{name} is not here")
    path = Path(root) / "configs" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def rotary(config: Any, module: str, name: str) -> tuple[Any, float]:
    """``inv_freq`` (float64) and attention scaling of transformers' rotary class ``name`` built from ``config``."""
    import importlib

    import numpy as np

    built = getattr(importlib.import_module(f"transformers.models.{module}"), name)(config)
    return built.inv_freq.double().numpy().astype(np.float64), float(built.attention_scaling)
