"""Checkpoints that people stumbled over: doctor says in words what goes wrong where, diff says that it does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import schemas
from ropepatch.doctor import Finding, doctor, fix, report, subject_of
from ropepatch.errors import InputError
from tests.doctor.cases import GEMMA, OSS, PHI, PHI_LISTS, File, llama3_factors, write_hf, yarn
from tests.support import tiny

#: the shapes that rotate like the real ones: heads of 128, or of 64 for gpt-oss
HEADS = {"hidden_size": 512, "num_attention_heads": 4}
LLAMA31 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def found(code: str, path: Path, runtimes: str | None = None) -> Finding:
    """The one finding of a rule."""
    hits = [one for one in doctor(path, runtimes) if one.rule == code]
    assert len(hits) == 1, hits
    return hits[0]


def test_qwen25_model_card(tmp_path: Path) -> None:
    """The model card's YaRN dict with an unchanged context: off in exllama and transformers 4.5x, capped elsewhere."""
    card = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    path = write_hf(tmp_path / "qwen", {**HEADS, "model_type": "qwen2", "rope_scaling": card})
    one = found("RP201", path)

    assert one.where == "config.json: max_position_embeddings"
    assert "factor 4 of 32,768 reaches 131,072" in one.message
    assert "exllamav3, transformers 4.50-4.55: takes 1 for the factor: scaling off, plain rotation;" in one.message
    assert "vllm, sglang, tgi: serves 32,768 tokens" in one.message
    assert "transformers" not in one.runtimes
    assert one.severity == "warning"
    assert found("RP201", path, "exllamav3").severity == "error"
    assert found("RP201", path, "transformers@4.53").severity == "error"

    patch, _ = fix(path)
    patch.write(tmp_path / "mended")
    assert json.loads((tmp_path / "mended" / "config.json").read_text())["max_position_embeddings"] == 131072
    assert doctor(tmp_path / "mended", "exllamav3,transformers@4.53,vllm,sglang") == []


def test_deepseek_r1_0528_qwen3(tmp_path: Path) -> None:
    """attn_factor makes the magnitude 1 for SGLang and older vLLM, and leaves it at 1.1386 for transformers."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    rope["attn_factor"] = 0.8782488562869419
    path = write_hf(tmp_path, {**HEADS, "model_type": "qwen3", "max_position_embeddings": 131072, "rope_scaling": rope})
    one = found("RP302", path)

    assert one.where == "config.json: rope_scaling.attn_factor"
    assert "attention scale 1 instead of 1.139" in one.message
    assert set(one.runtimes) == {"sglang", "vllm@0.11", "vllm@0.21", "vllm@0.29"}
    assert "attention scale 1.139 everywhere" in one.fix
    assert one.edits == ()


def test_gpt_oss_in_gguf(tmp_path: Path) -> None:
    """truncate: false is lost in GGUF: llama.cpp's pair 17 turns 1.76 times as fast as the config's."""
    spec = tiny.ModelSpec(
        arch="gpt-oss", layers=1, hidden=64, heads=2, kv_heads=2, head_dim=64, intermediate=32, vocab=8
    )
    path = tiny.write_gguf(tmp_path / "oss.gguf", spec, OSS)
    rope = {
        "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
        "beta_slow": 1.0, "truncate": False,
    }  # fmt: skip
    config = {"model_type": "gpt_oss", "head_dim": 64, "rope_theta": 150000, "max_position_embeddings": 131072}
    folder = write_hf(tmp_path / "oss", {**config, "rope_scaling": rope})
    one = found("RP615", path)

    assert "pair 17 turns 1.76 times as fast as trained" in one.message
    assert one.runtimes == ("llama.cpp", "ollama")
    difference = ropepatch.diff(folder, path)
    assert not difference.equivalent
    worst = max((item for group in difference.groups for item in group.frequencies), key=lambda item: 1 / item.ratio)
    assert (worst.pair, 1 / worst.ratio) == (17, pytest.approx(1.76, abs=0.01))
    assert "1.76 times too fast" in found("RP305", folder, "mlx-lm").message


def test_phi3_longrope(tmp_path: Path) -> None:
    """Who chooses which list when, who serves 4096 tokens, and which spelling stops whom."""
    path = write_hf(tmp_path / "su", {**PHI, "rope_scaling": {"type": "su", **PHI_LISTS}})
    su = found("RP107", path)
    assert "stops with a KeyError" in su.message
    assert {"transformers", "vllm", "sglang"} <= set(su.runtimes)

    path = write_hf(tmp_path / "longrope", {**PHI, "rope_scaling": {"type": "longrope", **PHI_LISTS}})
    lists = found("RP404", path)
    assert "mlx-lm: long_factor is in force at every length" in lists.message
    assert "sglang: one position beyond the original context turns the whole batch" in lists.message
    assert "vllm" in found("RP205", path).runtimes
    assert "serves 4,096" in found("RP205", path).message

    path = write_hf(tmp_path / "new", {**PHI, "rope_scaling": {"rope_type": "longrope", **PHI_LISTS}})
    assert "its class refuses" in found("RP405", path).title
    assert "mlx-lm" in found("RP405", path).runtimes


def test_phi3_longrope_in_gguf(tmp_path: Path) -> None:
    """A Phi file has no scaling type; the list is chosen for the allocated context, and the magnitude is a key."""
    names = ("rope_factors_long.weight", "rope_factors_short.weight")
    tensors = {name: np.linspace(1, last, 16, dtype=np.float32) for name, last in zip(names, (8, 2), strict=True)}
    path = File("phi3", {".rope.scaling.original_context_length": 64}, tensors).write(tmp_path / "phi.gguf")

    assert "long factors in force for short prompts" in found("RP709", path).message
    assert "rope.scaling.attn_factor" in found("RP708", path).where


def test_gemma3(tmp_path: Path) -> None:
    """TGI's linear scaling does nothing; a flat rope_parameters never reaches the full-attention layers."""
    linear = {"rope_type": "linear", "factor": 8.0}
    path = write_hf(tmp_path / "v4", {**GEMMA, "rope_scaling": linear})
    one = found("RP502", path)
    assert one.runtimes == ("tgi",)
    assert "linear scaling is accepted and does nothing" in one.message

    path = write_hf(tmp_path / "flat", {**GEMMA, "rope_parameters": {**linear, "rope_theta": 1e6}})
    one = found("RP124", path)
    assert "keeps one dict for each of full_attention, sliding_attention, this one is flat" in one.message
    assert "transformers" in one.runtimes
    patch, _ = fix(path)
    patch.write(tmp_path / "mended")
    assert ropepatch.diff(tmp_path / "v4", tmp_path / "mended").equivalent
    assert "scaling off" in one.message


def test_v5_only_llama31(tmp_path: Path) -> None:
    """Saved by transformers 5, read by 4, TGI, mlx-lm and exllamav2 as base 10000 without scaling."""
    new = {**LLAMA31, "rope_theta": 500000.0}
    config: dict[str, Any] = {**HEADS, "max_position_embeddings": 131072, "rope_theta": None}
    path = write_hf(tmp_path / "v5", {**config, "rope_parameters": new})
    one = found("RP121", path)

    assert one.where == "config.json: rope_parameters"
    assert {"tgi", "mlx-lm", "exllamav2", "transformers@4.57"} <= set(one.runtimes)
    assert not {"transformers", "vllm", "sglang", "exllamav3"} & set(one.runtimes)
    assert "376 times too fast" in one.message
    assert [hit.severity for hit in doctor(path, "mlx-lm") if hit.rule == "RP121"] == ["error"]

    patch, _ = fix(path)
    patch.write(tmp_path / "both")
    written = json.loads((tmp_path / "both" / "config.json").read_text())
    assert (written["rope_theta"], written["rope_scaling"], written["rope_parameters"]) == (500000.0, LLAMA31, new)
    assert doctor(tmp_path / "both") == []
    old = write_hf(tmp_path / "v4", {**config, "rope_theta": 500000.0, "rope_scaling": LLAMA31})
    assert ropepatch.diff(tmp_path / "both", old).equivalent


def test_llama31_in_gguf(tmp_path: Path) -> None:
    """The scaling stands in a tensor, not in a key; a file without the tensor is unscaled; more keys come on top."""
    path = File(tensors=llama3_factors()).write(tmp_path / "llama.gguf")
    one = found("RP706", path)
    assert one.where == "llama.gguf: rope_freqs.weight"
    assert "llama3 with factor 8" in one.message
    assert "the keys alone look unscaled" in one.message

    stacked = File(keys=yarn(), tensors=llama3_factors()).write(tmp_path / "stacked.gguf")
    assert "the scaling by keys comes on top" in found("RP706", stacked).message
    bare = File(keys={".context_length": 131072, ".rope.freq_base": 500000.0}).write(tmp_path / "bare.gguf")
    assert "nothing is scaled" in found("RP707", bare).message
    wrong = File("qwen2", tensors=llama3_factors()).write(tmp_path / "wrong.gguf")
    assert found("RP701", wrong).severity == "error"


#: an error page under a config's name, and a config with a bare Infinity
NOT_JSON = ("broken__Meta-Llama-3-8B-error-page.params.json", "nvidia__Nemotron-H-56B-Base-8K.json")


def corpus() -> list[Any]:
    """Every text and file of the corpus; one case, which is skipped, where there is none."""
    root = os.environ.get("ROPEPATCH_CORPUS")
    if not root:
        return [pytest.param(None, id="ROPEPATCH_CORPUS")]
    folder = Path(root)
    found = sorted([*folder.glob("configs/*.json"), *folder.glob("gguf/*.gguf")])
    return [pytest.param(path, id=path.name) for path in found]


@pytest.mark.parametrize("path", corpus())
def test_published_files(path: Path | None) -> None:
    """Every published config is examined without a crash, each deviating engine is named, and the report validates."""
    if path is None:
        pytest.skip("ROPEPATCH_CORPUS is not set: no published configs here")
    if path.name in NOT_JSON:
        with pytest.raises(InputError, match="JSON"):
            subject_of(path)
        return
    subject = subject_of(path)
    findings = doctor(path)

    schemas.validator("doctor").validate(json.loads(json.dumps(report(subject, findings))))
    if subject.profile is not None:
        named = {spec for one in findings for spec in one.runtimes}
        assert set(subject.deviating()) <= named
        if any(one.edits for one in findings):
            patch, mended = fix(path)
            assert patch.edits
            assert mended
