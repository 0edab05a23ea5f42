"""The oracle itself: tiny models mean the same to transformers and to llama.cpp, far beyond the trained length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny

pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

from tests.support.hf import transformers_logprobs
from tests.support.llamacpp import LoadRefused, load_report, logprobs

CONTEXT = 64
LENGTH = 3 * CONTEXT
FAR = [0, 1, CONTEXT - 1, CONTEXT + 40, LENGTH - 30, LENGTH - 2, LENGTH - 1]
# llama-server serves no more than context_length, whatever the scaling.
ROOM = {".context_length": 256, ".rope.scaling.original_context_length": CONTEXT}
YARN_KEYS = {**ROOM, ".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0}
YARN_HF = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT}


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest absolute difference of log-probabilities at each position."""
    return np.abs(a - b).max(axis=1)


def spec_of(arch: str) -> tiny.ModelSpec:
    """A tiny model of an architecture, trained at `CONTEXT`."""
    return tiny.ModelSpec(arch=arch, context=CONTEXT)


@pytest.mark.parametrize("arch", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("layout", ["v4", "v5"])
def test_unpatched_models_agree(arch: str, layout: str, tmp_path: Path) -> None:
    """The same weights give the same log-probabilities at three times the trained length, in both config layouts."""
    spec = spec_of(arch)
    prompt = tiny.tokens(spec, LENGTH)
    hf = transformers_logprobs(tiny.write_hf(tmp_path / "hf", spec, layout=layout), prompt, FAR)
    llama = logprobs(tiny.write_gguf(tmp_path / "m.gguf", spec, ROOM), prompt, positions=FAR)
    assert difference(hf, llama).max() < 1e-3


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_yarn_agrees_and_changes_the_model(arch: str, tmp_path: Path) -> None:
    """YaRN x4 written by hand in both formats agrees, and is far from the unpatched model at far positions."""
    spec = spec_of(arch)
    prompt = tiny.tokens(spec, LENGTH)
    hf = transformers_logprobs(
        tiny.write_hf(tmp_path / "hf", spec, scaling=YARN_HF, extra_config={"max_position_embeddings": 4 * CONTEXT}),
        prompt,
        FAR,
    )
    plain = logprobs(tiny.write_gguf(tmp_path / "plain.gguf", spec, ROOM), prompt, positions=FAR)
    yarn = logprobs(tiny.write_gguf(tmp_path / "yarn.gguf", spec, YARN_KEYS), prompt, positions=FAR)
    assert difference(hf, yarn).max() < 1e-3
    assert difference(plain, yarn)[-3:].min() > 1e-2


def test_longrope_factors_follow_the_allocated_context(tmp_path: Path) -> None:
    """Phi-3 takes the long factors once the allocated context exceeds the original one, and transformers agrees."""
    spec = spec_of("phi3")
    pairs = np.arange(spec.head_dim // 2, dtype=np.float32)
    short, long = 1 + 0.01 * pairs, 1 + 0.4 * pairs
    scaling = {"type": "longrope", "short_factor": short.tolist(), "long_factor": long.tolist()}
    config = {"max_position_embeddings": 512, "original_max_position_embeddings": 256}
    magnitude = float(np.sqrt(1 + np.log(2) / np.log(256)))
    keys = {
        ".context_length": 512,
        ".rope.scaling.original_context_length": 256,
        ".rope.scaling.attn_factor": magnitude,
    }
    path = tiny.write_gguf(
        tmp_path / "m.gguf", spec, keys, {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    )
    directory = tiny.write_hf(tmp_path / "hf", spec, scaling=scaling, extra_config=config)
    for length, n_ctx in ((192, 256), (300, 512)):
        prompt = tiny.tokens(spec, length)
        hf = transformers_logprobs(directory, prompt, [-1])
        assert difference(hf, logprobs(path, prompt, n_ctx, [-1])).max() < 1e-3
    prompt = tiny.tokens(spec, 192)
    chosen_short, chosen_long = logprobs(path, prompt, 256, [-1]), logprobs(path, prompt, 512, [-1])
    assert difference(chosen_short, chosen_long).min() > 1e-2


def test_all_positions_by_default(tmp_path: Path) -> None:
    """Without positions there is a row for every token, each a distribution, equal to the row asked for alone."""
    spec = spec_of("llama")
    path = tiny.write_gguf(tmp_path / "m.gguf", spec)
    prompt = tiny.tokens(spec, 20)
    rows = logprobs(path, prompt)
    assert rows.shape == (20, spec.vocab)
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(rows[[3, -1]], logprobs(path, prompt, positions=[3, -1]), atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "keys", "tensors", "reason"),
    [
        ("llama", {".rope.scaling.type": "llama3"}, {}, "LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED"),
        ("llama", {".rope.freq_base": np.float64(10000.0)}, {}, "has wrong type f64 but expected type f32"),
        ("llama", {".rope.dimension_count": 16}, {}, "invalid n_rot"),
        ("qwen2", {}, {"rope_freqs.weight": np.ones(16, np.float32)}, "wrong number of tensors"),
        ("llama", {}, {"rope_freqs.weight": np.ones(8, np.float32)}, "has wrong shape"),
    ],
)
def test_refusals_carry_the_engine_s_reason(
    arch: str, keys: dict[str, object], tensors: dict[str, np.ndarray], reason: str, tmp_path: Path
) -> None:
    """A file that llama.cpp aborts on or rejects raises `LoadRefused` with the line of its log that says why."""
    path = tiny.write_gguf(tmp_path / "m.gguf", spec_of(arch), keys, tensors)
    with pytest.raises(LoadRefused, match=reason):
        logprobs(path, [3, 4, 5])
    assert reason in load_report(path).error


def test_prompt_beyond_the_context_is_refused(tmp_path: Path) -> None:
    """The server serves no more than `context_length`, however much context was allocated."""
    path = tiny.write_gguf(tmp_path / "m.gguf", spec_of("llama"))
    with pytest.raises(LoadRefused, match="exceeds the available context size"):
        logprobs(path, tiny.tokens(spec_of("llama"), LENGTH), n_ctx=512)
