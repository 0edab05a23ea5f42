"""Shapes beyond llama, patched by the command line in both formats: transformers and llama.cpp compute the same."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.command import Ended
from tests.support.command import inside as run
from tests.support.llamacpp_formula import keys_of, tensors_of

pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

from tests.support.hf import transformers_logprobs
from tests.support.llamacpp import logprobs

CONTEXT, FACTOR = 64, 4
LENGTH = 3 * CONTEXT
FAR = [CONTEXT + 40, LENGTH - 1]
AGREE, DIFFER = 1e-3, 1e-2
FREQS = "rope_freqs.weight"

Array = np.ndarray[Any, np.dtype[np.float64]]
Pair = tuple[Path, Path]


def distance(a: Array, b: Array) -> Array:
    """Largest absolute difference of log-probabilities at each position."""
    return np.abs(a - b).max(axis=1)


@functools.cache
def spec_of(arch: str) -> tiny.ModelSpec:
    """A tiny model of an architecture, trained at `CONTEXT`."""
    return tiny.ModelSpec(arch=arch, context=CONTEXT)


def pair(arch: str, root: Path, layout: str = "v4") -> Pair:
    """The model as a folder and as a GGUF."""
    spec = spec_of(arch)
    return tiny.write_hf(root / "hf", spec, layout=layout), tiny.write_gguf(root / "model.gguf", spec)


def apply(path: Path, name: str, *options: object) -> Path:
    """`ropepatch apply` which must succeed."""
    target = path.with_name(name + path.suffix)
    ended = run("apply", *options, path, "-o", target)
    assert ended.code == 0, ended.err
    return target


def computed(models: Pair, arch: str) -> Array:
    """What both runtimes compute, after checking that they agree."""
    prompt = tiny.tokens(spec_of(arch), LENGTH)
    hf, llama = transformers_logprobs(models[0], prompt, FAR), logprobs(models[1], prompt, positions=FAR)
    assert distance(hf, llama).max() < AGREE
    return hf


@functools.cache
def unpatched(arch: str) -> Array:
    """What transformers computes without a patch."""
    with tempfile.TemporaryDirectory() as root:
        return transformers_logprobs(tiny.write_hf(root, spec_of(arch)), tiny.tokens(spec_of(arch), LENGTH), FAR)


YARN = ("--method", "yarn")
CASES = [
    ("deepseek2", YARN),
    ("deepseek2", (*YARN, "--set", "mscale=1", "--set", "mscale_all_dim=1")),
    ("deepseek2", (*YARN, "--set", "mscale=0.707", "--set", "mscale_all_dim=0.707")),
    ("deepseek2", (*YARN, "--set", "mscale=1", "--set", "mscale_all_dim=0.5")),
    ("deepseek2", (*YARN, "--set", "attention_factor=1")),
    ("deepseek2", ("--method", "linear")),
    ("deepseek2", ("--method", "ntk")),
    ("gpt-oss", YARN),
    ("gpt-oss", ("--method", "linear")),
    ("gemma3", YARN),
]


@pytest.mark.parametrize(("arch", "options"), CASES, ids=[f"{arch} {' '.join(o[1::2])}" for arch, o in CASES])
def test_patched_shapes_agree(arch: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """Latent attention with its softmax scale, sinks and experts, two bases: one patch, one result, far from before."""
    models = pair(arch, tmp_path)
    folder, file = (apply(path, "out", *options, "--factor", FACTOR) for path in models)
    assert distance(computed((folder, file), arch), unpatched(arch)).min() > DIFFER


@pytest.mark.parametrize(
    "options", [YARN, (*YARN, "--set", "mscale=1", "--set", "mscale_all_dim=0.5"), ("--method", "linear")]
)
def test_mistral4_has_deepseek_s_graph_and_other_magnitudes(options: tuple[str, ...], tmp_path: Path) -> None:
    """The same weights under this name: the keys written differ, what is computed does not."""
    models = pair("deepseek2", tmp_path)
    other = tiny.write_gguf(tmp_path / "mistral4.gguf", spec_of("deepseek2"), arch="mistral4")
    folder, file = (apply(path, f"{path.stem}-out", *options, "--factor", FACTOR) for path in (models[0], other))
    assert distance(computed((folder, file), "deepseek2"), unpatched("deepseek2")).min() > DIFFER


def test_ntk_on_gpt_oss_agrees_in_the_new_layout(tmp_path: Path) -> None:
    """A base that reaches the sliding layers as well, as in both runtimes it does."""
    models = pair("gpt-oss", tmp_path, "v5")
    folder, file = (apply(path, "out", "--method", "ntk", "--factor", FACTOR) for path in models)
    assert distance(computed((folder, file), "gpt-oss"), unpatched("gpt-oss")).min() > DIFFER


def test_the_softmax_scale_is_a_second_magnitude(tmp_path: Path) -> None:
    """DeepSeek's pair written by hand without the multiplier is another model to llama.cpp, which diff tells."""
    spec = spec_of("deepseek2")
    keys = {".context_length": 256, ".rope.scaling.original_context_length": CONTEXT, ".rope.scaling.type": "yarn"}
    keys |= {".rope.scaling.factor": 4.0}
    plain = tiny.write_gguf(tmp_path / "plain.gguf", spec, keys)
    told = tiny.write_gguf(tmp_path / "told.gguf", spec, {**keys, ".rope.scaling.yarn_log_multiplier": 0.1})
    prompt = tiny.tokens(spec, LENGTH)
    assert distance(logprobs(plain, prompt, positions=FAR), logprobs(told, prompt, positions=FAR)).min() > DIFFER
    ended = run("diff", plain, told, "--json")
    group = ended.document["groups"][0]
    settings = {item["name"]: (item["a"], item["b"]) for item in group["settings"]}
    usual = 1 + 0.1 * np.log(4)
    assert (ended.code, ended.document["equivalent"]) == (1, False)
    assert settings["softmax_scale"] == pytest.approx((usual**2, usual**2))
    assert [item["attention_scale"] for item in group["frequencies"]] == [pytest.approx([usual, 1.0])] * 2


@pytest.mark.parametrize("arch", ["gpt-oss", "deepseek2"])
def test_what_the_architecture_cannot_hold_is_refused(arch: str, tmp_path: Path) -> None:
    """YaRN without truncation, as gpt-oss was trained with, fits its config; the GGUF is refused, saying what fits."""
    models = pair(arch, tmp_path)
    options = (*YARN, "--set", "truncate=false", "--factor", FACTOR)
    folder = apply(models[0], "out", *options)
    assert json.loads((folder / "config.json").read_text())["rope_scaling"]["truncate"] is False
    ended = run("apply", *options, models[1], "-o", tmp_path / "out.gguf")
    assert ended.code == 3
    assert f"llama.cpp reads no per-pair factors for {arch}, and has no key for this yarn" in ended.err
    assert not (tmp_path / "out.gguf").exists()


def test_a_magnitude_that_would_reach_gemma3_s_sliding_layers_is_refused(tmp_path: Path) -> None:
    """attn_factor multiplies into layers that the factor leaves alone; what a file with it computes is not hidden."""
    models = pair("gemma3", tmp_path)
    ended = run("apply", *YARN, "--set", "attention_factor=1", "--factor", FACTOR, models[1], "-o", tmp_path / "o.gguf")
    assert (ended.code, (tmp_path / "o.gguf").exists()) == (3, False)
    assert "multiplies rope.scaling.attn_factor into the sliding layers of gemma3 too" in ended.err
    keys = {".context_length": 256, ".attention.sliding_window_pattern": [True, True]}
    spec, prompt = spec_of("gemma3"), tiny.tokens(spec_of("gemma3"), LENGTH)
    plain = tiny.write_gguf(tmp_path / "plain.gguf", spec, keys)
    louder = tiny.write_gguf(tmp_path / "louder.gguf", spec, {**keys, ".rope.scaling.attn_factor": 0.9})
    assert distance(logprobs(plain, prompt, positions=FAR), logprobs(louder, prompt, positions=FAR)).min() > DIFFER
    groups = run("freqs", louder, "--json").document["groups"]
    assert groups["sliding_attention"]["attention_scale"] == pytest.approx(0.9)


BAKED = ["yarn", "ntk", "mrrope-uni", "linear+resonance"]


@pytest.mark.parametrize("method", BAKED)
def test_any_static_method_can_be_baked(method: str, tmp_path: Path) -> None:
    """With --bake it is a list in both formats, and still the same model in both runtimes."""
    models = pair("llama", tmp_path)
    folder, file = (apply(path, "out", "--method", method, "--factor", FACTOR, "--bake") for path in models)
    assert json.loads((folder / "config.json").read_text())["rope_scaling"]["rope_type"] == "longrope"
    assert tensors_of(file)[FREQS].shape == (16,)
    assert distance(computed((folder, file), "llama"), unpatched("llama")).min() > DIFFER


def test_one_list_of_factors_on_llama_is_static(tmp_path: Path) -> None:
    """Equal short and long factors from a file hold for every context, whichever list a runtime takes."""
    models = pair("llama", tmp_path)
    lists = tmp_path / "factors.json"
    factors = [1 + 0.2 * index for index in range(16)]
    lists.write_text(json.dumps({"short_factor": factors, "long_factor": factors}))
    options = ("--method", "longrope", "--factors", lists, "--factor", FACTOR)
    folder, file = (apply(path, "out", *options) for path in models)
    np.testing.assert_allclose(tensors_of(file)["rope_factors_long.weight"], factors, rtol=1e-6)
    assert distance(computed((folder, file), "llama"), unpatched("llama")).min() > DIFFER


def test_lists_that_the_new_method_does_not_use_are_still_looked_for(tmp_path: Path) -> None:
    """NTK in place of LongRoPE on llama leaves tensors of ones: a type without them would make the load fail."""
    models = pair("llama", tmp_path)
    lists = tmp_path / "factors.json"
    factors = [1 + 0.2 * index for index in range(16)]
    lists.write_text(json.dumps({"short_factor": factors, "long_factor": factors}))
    options = ("--method", "longrope", "--factors", lists, "--factor", FACTOR)
    first = [apply(path, "first", *options) for path in models]
    again = ("--method", "ntk", "--factor", FACTOR, "--existing", "replace")
    folder, file = (apply(path, "second", *again) for path in first)
    direct = apply(models[0], "direct", "--method", "ntk", "--factor", FACTOR)
    prompt = tiny.tokens(spec_of("llama"), LENGTH)
    wanted = transformers_logprobs(direct, prompt, FAR)
    assert distance(computed((folder, file), "llama"), wanted).max() < AGREE
    assert (tensors_of(file)["rope_factors_long.weight"] == 1).all()
    ended = run("apply", *YARN, "--factor", FACTOR, "--existing", "replace", first[1], "-o", tmp_path / "out.gguf")
    assert (ended.code, "loads only with rope.scaling.type longrope" in ended.err) == (3, True)


def test_yarn_on_top_of_llama3_keeps_the_factors(tmp_path: Path) -> None:
    """A stack on a file with rope_freqs leaves the tensor as it is and adds YaRN's keys."""
    first = apply(pair("llama", tmp_path)[1], "first", "--method", "llama3", "--factor", 2)
    second = apply(first, "second", *YARN, "--factor", 2, "--existing", "compose")
    np.testing.assert_array_equal(tensors_of(first)[FREQS], tensors_of(second)[FREQS])
    keys = keys_of(second)
    assert (keys["llama.rope.scaling.type"], keys["llama.rope.scaling.factor"]) == ("yarn", 2.0)
    assert keys["llama.context_length"] == 4 * CONTEXT


REPLACED = [
    ("llama", (*YARN, "--factor", 2), (*YARN, "--factor", FACTOR)),
    ("llama", ("--method", "mrrope-pro", "--factor", 2), ("--method", "linear", "--factor", FACTOR)),
    ("gemma3", ("--method", "linear", "--factor", 2), ("--method", "yarn", "--factor", FACTOR)),
    ("deepseek2", ("--method", "linear", "--factor", 2), ("--method", "yarn", "--factor", FACTOR)),
    (
        "deepseek2",
        (*YARN, "--set", "mscale=1", "--set", "mscale_all_dim=1", "--factor", 2),
        (*YARN, "--factor", FACTOR),
    ),
]


@pytest.mark.parametrize(("arch", "before", "after"), REPLACED)
def test_replacing_starts_from_the_trained_model(
    arch: str, before: tuple[object, ...], after: tuple[object, ...], tmp_path: Path
) -> None:
    """--existing replace gives what the method gives on the unscaled model; YaRN keeps its trained parameters."""
    models = pair(arch, tmp_path)
    original = ("--original-length", CONTEXT)  # a linear config does not say it
    first = [apply(path, "first", *before) for path in models]
    folder, file = (apply(path, "second", *after, "--existing", "replace", *original) for path in first)
    inherited = [option for option in before[2:-2] if option]
    direct = [apply(path, "direct", *after, *inherited) for path in models]
    replaced = computed((folder, file), arch)
    assert distance(replaced, computed((direct[0], direct[1]), arch)).max() < AGREE
    assert distance(replaced, unpatched(arch)).min() > DIFFER


def test_compose_on_an_architecture_without_factors_is_refused(tmp_path: Path) -> None:
    """A stack on DeepSeek's YaRN fits no key, and the message says so in one line."""
    first = apply(pair("deepseek2", tmp_path)[1], "first", *YARN, "--factor", 2)
    ended: Ended = run("apply", *YARN, "--factor", 2, "--existing", "compose", first, "-o", tmp_path / "out.gguf")
    assert (ended.code, ended.err.count("\n")) == (3, 1)
    assert "reads no per-pair factors for deepseek2" in ended.err
