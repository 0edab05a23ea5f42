"""`ropepatch plan` and its formulas as a person meets them, on checkpoints of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ropepatch import schemas
from tests.planner.test_cost import GEMMA3, LLAMA2_7B
from tests.planner.test_plan import LLAMA31, QWEN_VL, YARN
from tests.support.command import ROOT
from tests.support.command import ropepatch as run

GPT2 = {"model_type": "gpt2", "n_positions": 1024}


def at(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "length", "code", "said"),
    [
        (LLAMA2_7B, 16384, 0, ("yarn, 4 times the 4,096 tokens that it was trained on", "USABLE-WITH-CARE")),
        (LLAMA2_7B, 1 << 20, 1, ("DEGRADES", "beyond 64x")),
        (LLAMA31, 131072, 0, ("nothing: scaled for 131,072 tokens already", "USABLE-WITH-CARE")),
        (LLAMA31, 262144, 0, ("2 times the 131,072 tokens that it declares", "--existing compose")),
        (GEMMA3, 131072, 0, ("group full_attention", "sliding_attention stays as it is")),
        (YARN, 262144, 0, ("64 times the 4,096 tokens", "1.6 times the 163,840 that it", "latent cache")),
        (QWEN_VL, 65536, 0, ("yarn, 2 times the 32,768", "M-RoPE")),
        (GPT2, 4096, 3, ("no rotary position embedding",)),
    ],
    ids=["plain", "too far", "scaled", "scaled and beyond", "two groups", "latent", "mrope", "no rope"],
)
def test_every_kind(config: dict[str, Any], length: int, code: int, said: tuple[str, ...], tmp_path: Path) -> None:
    """The first screen says what to do with each kind of checkpoint; 1 is for what degrades, 3 for what has no RoPE."""
    ended = run("plan", at(tmp_path, config), "--length", length)

    assert ended.code == code, ended.err
    text = " ".join((ended.out + ended.err).replace("│", " ").split())
    for part in said:
        assert part in text, text


@pytest.mark.parametrize("columns", ["80", "120"])
def test_answer_comes_first(columns: str, tmp_path: Path) -> None:
    """What to do, why, the cost and the command stand above the tables, within the width of the terminal."""
    ended = run("plan", at(tmp_path, LLAMA2_7B), "--length", 16384, env={"COLUMNS": columns})
    lines = ended.out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("do it with: ropepatch apply"))

    assert first < 14
    for word in ("do ", "verdict", "because", "why this", "costs"):
        assert any(line.startswith(f"│ {word}") for line in lines[:first])
    assert all(len(line) <= int(columns) for line in lines if not line.startswith("do it with:"))


def test_document(tmp_path: Path) -> None:
    """--json is one document that validates, and its exit code is that of the verdict."""
    ended = run("plan", at(tmp_path, LLAMA2_7B), "--length", 1 << 20, "--json", "--batch", 4)

    schemas.validator("plan").validate(ended.document)
    assert (ended.code, ended.document["verdict"]) == (1, "DEGRADES")
    assert ended.document["cost"]["kv_batch_bytes"]["f16"] == 4 * ended.document["cost"]["kv_bytes"]["f16"]


def test_target_gamma_in_plan_and_apply(tmp_path: Path) -> None:
    """plan judges the designed base, its command writes it, and the base is 2.1213 times the length for γ 0.5."""
    model = ROOT / "fixtures" / "tiny-llama"
    planned = run("plan", model, "--length", 8192, "--target-gamma", 0.5, "--json").document
    assert planned["subject"] == "theta"
    assert "--method theta --length 8192 --target-gamma 0.5" in planned["command"]

    out = tmp_path / "out"
    ended = run("apply", model, "--method", "theta", "--target-gamma", 0.5, "--length", 8192, "-o", out)

    assert ended.code == 0, ended.err
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["rope_theta"] == pytest.approx(2.1213 * 8192, rel=1e-4)
    assert config["max_position_embeddings"] == 8192


def test_gamma_is_explained() -> None:
    """The formulas of γ are printed with the two identities that keep it from ranking methods."""
    text = " ".join(run("explain", "gamma").out.split())

    for part in ("(2 - z)/(2 + z)", "L√2 (1+γ) / (2(1-γ))", "θ(1-γ)√2/(1+γ)", "d_horizon(θ, γ_Padé(θ, L)) = L",
                 "cannot rank methods", "not validated", "T/θ ≥ 0.9428"):  # fmt: skip
        assert part in text, part


def test_cost_is_explained() -> None:
    """Every number of the cost has its formula."""
    text = " ".join(run("explain", "cost").out.split())

    for part in ("KV cache", "latent cache", "q8_0 34/32", "q4_0 18/32", "weights", "prefill", "L(L+1)/2", "0.9"):
        assert part in text, part
