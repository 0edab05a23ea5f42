"""The table of what llama.cpp reads, against the engine itself where a tiny model can ask it."""

from __future__ import annotations

import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ropepatch.runtimes.llama_cpp_table import _TABLE, ARCHITECTURES, FREQS, LONG, SHORT, Row
from tests.support import tiny
from tests.support.llamacpp import LoadRefused, load_report, logprobs

CONTEXT, LENGTH = 64, 192
FAR = [LENGTH - 20, LENGTH - 1]
ROOM = {
    ".context_length": 256,
    ".rope.scaling.original_context_length": CONTEXT,
    ".attention.layer_norm_epsilon": 1e-5,
}
# Keys that one architecture or another insists on; the others do not look at them.
REQUIRED_SOMEWHERE = {
    ".attention.sliding_window": 16,
    ".expert_feed_forward_length": 16,
    ".expert_shared_count": 1,
    ".interleave_moe_layer_step": 1,
    ".leading_dense_block_count": 1,
    ".logit_scale": 1.0,
    ".ssm.conv_kernel": 16,
    ".ssm.inner_size": 16,
    ".ssm.state_size": 16,
    ".ssm.time_step_rank": 16,
    ".ssm.group_count": 16,
}
# llama.cpp's numbers for the layouts, as its log prints them.
ENGINE_PAIRS = {"-1": "none", "0": "norm", "2": "neox", "8": "mrope", "40": "imrope"}
# Architectures that load the tensors of a tiny llama or qwen3 under their own name.
RELABELLED = {
    "deci": "llama",
    "exaone": "llama",
    "hunyuan-dense": "qwen3",
    "internlm2": "llama",
    "k2-horizon": "llama",
    "llada": "llama",
    "llama": "llama",
    "llama-embed": "llama",
    "maincoder": "qwen3",
    "minicpm": "llama",
    "mistral3": "llama",
    "nanbeige": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "llama",
    "xverse": "llama",
    "phi3": "phi3",
}

engine = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the llamacpp extra")


def write(path: Path, arch: str, keys: dict[str, Any], tensors: dict[str, Any] | None = None) -> Path:
    """A tiny model under an architecture's name."""
    spec = tiny.ModelSpec(arch=RELABELLED[arch], context=CONTEXT)
    return tiny.write_gguf(path, spec, {**ROOM, **keys}, tensors, arch=arch)


def far(path: Path) -> np.ndarray:
    """Log-probabilities at far positions."""
    return logprobs(path, tiny.tokens(tiny.ModelSpec(), LENGTH), positions=FAR)


def change(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest, over the positions, of the largest difference of log-probabilities."""
    return float(np.abs(a - b).max(axis=1).min())


def test_every_architecture_of_the_gguf_library_has_a_row() -> None:
    """No architecture that the installed gguf library names is missing."""
    assert set(gguf.MODEL_ARCH_NAMES.values()) <= set(ARCHITECTURES)


def test_rows_are_unique_sorted_and_say_only_what_the_columns_allow() -> None:
    """Each line became one row, in order, and every cell is one of its column's values."""
    assert len(ARCHITECTURES) == len(_TABLE.strip().splitlines()) - 1
    assert list(ARCHITECTURES) == sorted(ARCHITECTURES)
    hints = typing.get_type_hints(Row)
    for row in ARCHITECTURES.values():
        for column, hint in hints.items():
            if typing.get_origin(hint) is typing.Literal:
                assert getattr(row, column) in typing.get_args(hint), (row.arch, column)


def test_columns_do_not_contradict_each_other() -> None:
    """What does not rotate reads nothing of rotation, and only models with sliding layers have their columns."""
    for row in ARCHITECTURES.values():
        if not row.rotates:
            assert (row.rot, row.betas, row.log_mul, row.swa, row.nope) == ("-", False, "-", "-", "-"), row
            assert row.factors in ("-", "x"), row
        else:
            assert row.rot != "-", row
        assert (row.swa == "-") == (row.swa_base == "-"), row
        assert row.nope != "full" or row.swa != "-", row


def test_lists_of_the_reference() -> None:
    """The lists gathered independently (what takes factors, betas, a log multiplier) are those of the table."""

    def with_(column: str, *values: object) -> set[str]:
        return {row.arch for row in ARCHITECTURES.values() if getattr(row, column) in values}

    assert with_("factors", "Fc") == {
        *("llama", "llama-embed", "deci", "apertus", "granite", "granitemoe", "minicpm"),
        *("granite_swa", "mistral3", "step35"),
    }
    assert with_("factors", "L") == {"phi3", "phimoe", "minicpm3"}
    assert with_("factors", "F") >= {
        *("arcee", "eagle3", "exaone", "exaone4", "exaone-moe", "granitehybrid"),
        *("llama4", "nanbeige", "gemma4", "gemma4-assistant"),
    }
    assert with_("betas", True) == {"grok", "mistral3", "k2-horizon"}
    assert with_("log_mul", "tenth") == {"deepseek2", "deepseek32", "mistral4"}
    assert with_("log_mul", "raw") == {"mistral3"}
    assert with_("swa", "one") >= {"gemma3", "gemma3n", "gemma4", "mimo2", "plamo3", "modern-bert"}
    assert with_("swa", "off") == {"laguna", "mellum", "olmo2"}
    assert with_("swa", "same") >= {"afmoe", "cohere2", "exaone4", "gemma2", "llama4", "gpt-oss", "smallthinker"}


def test_factor_tensors_follow_the_scaling_type() -> None:
    """Which tensors take effect depends on the scaling type only where the row says so."""
    tensors = {arch: ARCHITECTURES[arch].factor_tensors for arch in ("llama", "exaone", "phi3", "llada", "qwen2")}
    assert [tensors["llama"](kind) for kind in (None, "yarn", "longrope")] == [(FREQS,), (FREQS,), (LONG, SHORT)]
    assert tensors["exaone"]("longrope") == (FREQS,)
    assert tensors["phi3"]() == (LONG, SHORT)
    assert tensors["llada"]() == tensors["qwen2"]("longrope") == ()


@engine
@pytest.mark.parametrize(
    "arch",
    [
        *("afmoe", "chatglm", "cohere2", "falcon-h1", "gemma2", "gemma3", "gemma3n", "glm4", "gpt-oss", "gpt2"),
        *("laguna", "llama4", "mamba", "mimo2", "mistral3", "muse-glimmer", "neo-bert", "olmo2", "plamo3"),
        *("qwen2vl", "qwen35", "qwen3vl", "smallthinker", "step35", "talkie"),
    ],
)
def test_the_engine_prints_what_the_row_says(arch: str, tmp_path: Path) -> None:
    """Layout, log multiplier, and the sliding layers' scale and base, as the engine prints them on reading the keys."""
    row = ARCHITECTURES[arch]
    keys = {
        **ROOM,
        **REQUIRED_SOMEWHERE,
        ".rope.freq_base": 20000.0,
        ".rope.scaling.factor": 4.0,
        ".rope.scaling.yarn_log_multiplier": 0.05,
    }
    if "rope.dimension_sections required" in row.note:
        keys[".rope.dimension_sections"] = [8, 4, 4, 0]
    if arch in ("mimo2", "step35"):
        keys[".attention.sliding_window_pattern"] = [True, True, True, False]
    # The engine prints all of this before it looks for tensors, so those of a llama will do.
    info = load_report(tiny.write_gguf(tmp_path / "m.gguf", tiny.ModelSpec(layers=4), keys, arch=arch)).info
    assert ENGINE_PAIRS[info["rope type"]] == row.pairs
    assert ("freq_base_swa" in info) == (row.swa != "-")
    if row.swa != "-":
        assert float(info["freq_scale_swa"]) == {"same": 0.25, "one": 1.0, "off": 1.0}[row.swa]
        assert float(info["freq_base_swa"]) == {"copy": 20000.0, "main": 20000.0, "10000": 10000.0}[row.swa_base]
    if "rope_yarn_log_mul" in info:
        assert float(info["rope_yarn_log_mul"]) == pytest.approx({"-": 0.0, "raw": 0.05, "tenth": 0.5}[row.log_mul])


@engine
@pytest.mark.parametrize("arch", sorted(RELABELLED))
def test_rope_freqs_load_and_matter_where_the_row_says(arch: str, tmp_path: Path) -> None:
    """rope_freqs.weight loads where the row knows it, changes the logits where it is used, and is refused elsewhere."""
    row = ARCHITECTURES[arch]
    factors = np.linspace(1.0, 4.0, tiny.ModelSpec().head_dim // 2, dtype=np.float32)
    patched = write(tmp_path / "patched.gguf", arch, {}, {FREQS: factors})
    if row.factors in ("-", "L"):
        assert "wrong number of tensors" in load_report(patched).error
        return
    assert load_report(patched).loaded
    if arch in ("llada", "llama-embed"):
        return  # not causal: the server has no next token to score
    assert change(far(write(tmp_path / "plain.gguf", arch, {})), far(patched)) > 1e-2


@engine
@pytest.mark.parametrize("arch", ["llama", "minicpm", "mistral3", "exaone", "qwen2", "phi3"])
def test_long_factors_load_where_the_row_says(arch: str, tmp_path: Path) -> None:
    """The long and short tensors load, and matter, for `L` and, with type longrope, for `Fc`; else the load fails."""
    row = ARCHITECTURES[arch]
    pairs = tiny.ModelSpec().head_dim // 2
    tensors = {LONG: np.linspace(1, 4, pairs, dtype=np.float32), SHORT: np.ones(pairs, np.float32)}
    typed = {".rope.scaling.type": "longrope"}
    with_type = write(tmp_path / "typed.gguf", arch, typed, tensors)
    assert load_report(with_type).loaded == (row.factors in ("L", "Fc"))
    assert load_report(write(tmp_path / "untyped.gguf", arch, {}, tensors)).loaded == (row.factors == "L")
    if row.factors in ("L", "Fc"):
        assert change(far(write(tmp_path / "plain.gguf", arch, typed)), far(with_type)) > 1e-2


@engine
@pytest.mark.parametrize("arch", ["llama", "qwen2", "mistral3", "k2-horizon"])
def test_betas_matter_where_the_row_says(arch: str, tmp_path: Path) -> None:
    """yarn_beta_fast and yarn_beta_slow change the logits exactly where the row says that they are read."""
    yarn = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0}
    betas = {".rope.scaling.yarn_beta_fast": 4.0, ".rope.scaling.yarn_beta_slow": 0.25}
    plain, moved = (far(write(tmp_path / f"{len(keys)}.gguf", arch, keys)) for keys in (yarn, yarn | betas))
    if ARCHITECTURES[arch].betas:
        assert change(plain, moved) > 1e-2
    else:
        np.testing.assert_array_equal(plain, moved)


@engine
def test_raw_log_multiplier_of_one_cancels_the_magnitude(tmp_path: Path) -> None:
    """For mistral3, a log multiplier of 1 equals an attn_factor that divides YaRN's magnitude away."""
    yarn = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0}
    by_multiplier = {**yarn, ".rope.scaling.yarn_log_multiplier": 1.0}
    by_factor = {**yarn, ".rope.scaling.attn_factor": 1 / (1 + 0.1 * float(np.log(4)))}
    plain, multiplied, divided = (
        far(write(tmp_path / f"{index}.gguf", "mistral3", keys))
        for index, keys in enumerate((yarn, by_multiplier, by_factor))
    )
    assert np.abs(multiplied - divided).max() < 1e-3
    assert change(plain, multiplied) > 1e-2


@engine
@pytest.mark.parametrize("arch", ["deci", "exaone", "llama", "nanbeige", "phi3", "qwen2", "qwen3", "xverse"])
def test_partial_rotation_is_refused_where_the_row_says(arch: str, tmp_path: Path) -> None:
    """A rope.dimension_count below the head dimension loads exactly where the row says `any`."""
    path = write(tmp_path / "m.gguf", arch, {".rope.dimension_count": 16})
    if ARCHITECTURES[arch].rot == "any":
        assert np.isfinite(far(path)).all()
    else:
        with pytest.raises(LoadRefused, match="n_rot"):
            far(path)


@engine
def test_factor_leaves_gemma_3_sliding_layers_alone(tmp_path: Path) -> None:
    """A Gemma 3 whose layers all slide ignores the factor; one with a full layer does not."""
    spec = tiny.ModelSpec(arch="gemma3", context=CONTEXT)
    prompt = tiny.tokens(spec, LENGTH)

    def compute(name: str, pattern: list[bool], factor: float) -> np.ndarray:
        keys = {**ROOM, ".attention.sliding_window_pattern": pattern, ".rope.scaling.factor": factor}
        return logprobs(tiny.write_gguf(tmp_path / name, spec, keys), prompt, positions=FAR)

    sliding = [compute(f"sliding{factor}.gguf", [True, True], factor) for factor in (1.0, 4.0)]
    mixed = [compute(f"mixed{factor}.gguf", [True, False], factor) for factor in (1.0, 4.0)]
    np.testing.assert_array_equal(*sliding)
    assert change(*mixed) > 1e-2
