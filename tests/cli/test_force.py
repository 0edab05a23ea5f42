"""``apply --force``: layers that see no farther than their window are patched only when told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.command import inside as run

SPEC = tiny.ModelSpec(arch="qwen3", hidden=32, heads=2, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)
#: only the sliding layers rotate, in both formats
CONFIG = {
    "model_type": "cohere2",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "max_position_embeddings": 256,
    "rope_theta": 50000.0,
    "sliding_window": 48,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
}
KEYS = {".attention.sliding_window": 48, ".attention.sliding_window_pattern": 4, ".block_count": 4}


@pytest.fixture(params=["hf", "gguf"])
def windowed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose full-attention layers carry no RoPE."""
    if request.param == "gguf":
        return tiny.write_gguf(tmp_path / "model.gguf", SPEC, KEYS, arch="cohere2")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG, indent=2))
    return tmp_path / "model"


def test_a_window_is_refused_with_the_reason(windowed: Path) -> None:
    """Exit 3, one line with the window and the way out, and nothing is written."""
    ended = run("apply", "--method", "yarn", "--factor", 4, windowed)
    assert ended.code == 3
    assert "rotate within a sliding window of 48 tokens" in ended.err
    assert "--force patches these all the same" in ended.err
    assert ended.err.count("\n") == 1
    assert list(windowed.parent.iterdir()) == [windowed]


@pytest.mark.parametrize("method", ["yarn", "ntk"])
def test_forced_it_is_patched(method: str, windowed: Path, tmp_path: Path) -> None:
    """With --force the one group is scaled, and still known to be windowed, with the same layers left out."""
    target = tmp_path / f"out{windowed.suffix}"
    ended = run("apply", "--method", method, "--factor", 4, "--force", windowed, "-o", target)
    assert ended.code == 0, ended.err
    before, after = (run("inspect", path, "--json").document for path in (windowed, target))
    old, new = before["groups"]["default"], after["groups"]["default"]
    assert (new["window"], new["layers"], after["nope_layers"]) == (48, [0, 1, 2], [3])
    assert (new["scaling"], new["rope_theta"]) != (old["scaling"], old["rope_theta"])
    assert after["declared_context"] == 1024


def test_a_patch_brings_its_own_decision(windowed: Path, tmp_path: Path) -> None:
    """A kept patch is applied without the option: what it reaches was decided when it was made."""
    ended = run("apply", "--method", "yarn", "--factor", 4, "--force", windowed, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    kept = tmp_path / "patch.json"
    kept.write_text(ended.out)
    target = tmp_path / f"out{windowed.suffix}"
    ended = run("apply", kept, windowed, "-o", target)
    assert ended.code == 0, ended.err


def test_force_is_no_parameter_of_a_method(windowed: Path) -> None:
    """--set points to the option, as it does for the others."""
    ended = run("apply", "--method", "yarn", "--factor", 4, "--set", "force=1", windowed)
    assert (ended.code, "--set cannot set force; use --force" in ended.err) == (2, True)


@pytest.mark.parametrize("arguments", [[], ["--force"]])
def test_no_key_scales_sliding_layers_alone(arguments: list[str], tmp_path: Path) -> None:
    """Beside full-attention layers that rotate, a GGUF's sliding ones are refused, forced or not."""
    path = tiny.write_gguf(tmp_path / "model.gguf", SPEC.with_(arch="gemma3"))
    ended = run("apply", "--method", "yarn", "--factor", 4, "--group", "sliding_attention", *arguments, path)
    assert (ended.code, ended.err.count("\n")) == (3, 1)
    assert ("none the sliding ones alone" if arguments else "sliding_attention") in ended.err
    assert list(tmp_path.iterdir()) == [path]
