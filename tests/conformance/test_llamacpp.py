"""One random llama in two formats, patched by the command line: transformers and llama.cpp compute the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.containers import gguf
from ropepatch.errors import MethodUnsupported
from ropepatch.methods import Spectrum, Target, extend
from tests.support import tiny
from tests.support.command import inside as run

pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

from tests.support.hf import transformers_logprobs
from tests.support.llamacpp import LoadRefused, logprobs

CONTEXT, FACTOR = 64, 4
LENGTH = 3 * CONTEXT
#: near and far; at 0 an ignored scaling has no error
FAR = [0, CONTEXT - 1, CONTEXT + 40, LENGTH - 30, LENGTH - 2, LENGTH - 1]
AGREE, DIFFER = 1e-3, 1e-2
SPEC = tiny.ModelSpec(context=CONTEXT)
PROMPT = tiny.tokens(SPEC, LENGTH)

Array = np.ndarray[Any, np.dtype[np.float64]]
METHODS: dict[str, list[str]] = {
    "linear": ["--method", "linear"],
    "ntk": ["--method", "ntk"],
    "yarn": ["--method", "yarn"],
    "yarn beta_fast 16": ["--method", "yarn", "--set", "beta_fast=16"],
    "llama3": ["--method", "llama3"],
    "ntk-by-parts": ["--method", "ntk-by-parts"],
    "mrrope-pro": ["--method", "mrrope-pro"],
    "ntk-critical": ["--method", "ntk-critical"],
    "yarn attention_factor 1.3": ["--method", "yarn", "--set", "attention_factor=1.3"],
    "yarn betas 64 and 2": ["--method", "yarn", "--set", "beta_fast=64", "--set", "beta_slow=2"],
    "yarn+resonance": ["--method", "yarn+resonance"],
    "linear baked": ["--method", "linear", "--bake"],
}


def distance(a: Array, b: Array) -> Array:
    """Largest absolute difference of log-probabilities at each position."""
    return np.abs(a - b).max(axis=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model as a folder and as a GGUF."""
    root = tmp_path_factory.mktemp("models")
    return tiny.write_hf(root / "hf", SPEC), tiny.write_gguf(root / "model.gguf", SPEC)


@pytest.fixture(scope="module")
def unpatched(models: tuple[Path, Path]) -> tuple[Array, Array]:
    """Both runtimes on the model as it is; llama.cpp's server needs the room, so that one key is raised by hand."""
    roomy = tiny.write_gguf(models[1].with_name("roomy.gguf"), SPEC, {".context_length": FACTOR * CONTEXT})
    return transformers_logprobs(models[0], PROMPT, FAR), logprobs(roomy, PROMPT, positions=FAR)


def apply(path: Path, target: Path, options: list[str], factor: int = FACTOR) -> Path:
    """`ropepatch apply` which must succeed."""
    ended = run("apply", *options, "--factor", factor, path, "-o", target)
    assert ended.code == 0, ended.err
    return target


def test_the_unpatched_model_agrees(unpatched: tuple[Array, Array]) -> None:
    """Without a patch both runtimes give the same log-probabilities at three times the trained length."""
    assert distance(*unpatched).max() < AGREE


@pytest.mark.parametrize("name", list(METHODS))
def test_both_runtimes_compute_the_patched_model_alike(
    name: str, models: tuple[Path, Path], unpatched: tuple[Array, Array], tmp_path: Path
) -> None:
    """Patched in both formats by the command line, log-probabilities agree within 1e-3 and left the unpatched model."""
    folder = apply(models[0], tmp_path / "hf", METHODS[name])
    file = apply(models[1], tmp_path / "model.gguf", METHODS[name])
    hf, llama = transformers_logprobs(folder, PROMPT, FAR), logprobs(file, PROMPT, positions=FAR)
    assert distance(hf, llama).max() < AGREE
    for patched, plain in ((hf, unpatched[0]), (llama, unpatched[1])):
        assert distance(patched, plain)[-3:].min() > DIFFER


@pytest.mark.parametrize("method", ["linear", "yarn", "mrrope-pro"])
def test_a_patch_on_top_of_llama3_factors_agrees(method: str, models: tuple[Path, Path], tmp_path: Path) -> None:
    """Stacked with --existing compose on Llama 3's scaling, both formats still compute the same."""
    again = ["--method", method, "--existing", "compose"]
    # transformers infers no Llama 3 from a list: both start from their own spelling of the same scaling.
    first = [apply(path, tmp_path / f"first{path.suffix}", METHODS["llama3"], 2) for path in models]
    folder, file = (apply(path, tmp_path / f"second{path.suffix}", again, 2) for path in first)
    hf, llama = transformers_logprobs(folder, PROMPT, FAR), logprobs(file, PROMPT, positions=FAR)
    assert distance(hf, llama).max() < AGREE
    once = transformers_logprobs(first[0], PROMPT, FAR)
    assert distance(hf, once)[-3:].min() > DIFFER


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "phi3", "gemma3"])
@pytest.mark.parametrize("method", ["linear", "ntk", "yarn"])
def test_other_architectures_agree(arch: str, method: str, tmp_path: Path) -> None:
    """Methods with keys of their own hold on architectures without factor tensors, sliding layers included."""
    spec = SPEC.with_(arch=arch)
    folder = apply(tiny.write_hf(tmp_path / "m", spec), tmp_path / "hf", METHODS[method])
    file = apply(tiny.write_gguf(tmp_path / "m.gguf", spec), tmp_path / "model.gguf", METHODS[method])
    positions = FAR[-2:]
    hf, llama = transformers_logprobs(folder, PROMPT, positions), logprobs(file, PROMPT, positions=positions)
    assert distance(hf, llama).max() < AGREE
    plain = transformers_logprobs(tmp_path / "m", PROMPT, positions)
    assert distance(hf, plain).min() > DIFFER


def test_longrope_on_phi3_switches_at_the_original_context(tmp_path: Path) -> None:
    """Both lists reach both runtimes: the short one up to the original context, the long one beyond it."""
    spec = SPEC.with_(arch="phi3", context=256)
    pairs = spec.head_dim // 2
    lists = tmp_path / "factors.json"
    short, long = [1 + 0.01 * i for i in range(pairs)], [1 + 0.4 * i for i in range(pairs)]
    lists.write_text(f'{{"short_factor": {short}, "long_factor": {long}}}')
    options = ["--method", "longrope", "--factors", str(lists)]
    folder = apply(tiny.write_hf(tmp_path / "m", spec), tmp_path / "hf", options, 2)
    file = apply(tiny.write_gguf(tmp_path / "m.gguf", spec), tmp_path / "model.gguf", options, 2)
    rows = []
    for length, n_ctx in ((192, 256), (300, 512)):
        prompt = tiny.tokens(spec, length)
        hf, llama = transformers_logprobs(folder, prompt, [-1]), logprobs(file, prompt, n_ctx, [-1])
        assert distance(hf, llama).max() < AGREE
        rows.append(distance(hf, transformers_logprobs(tmp_path / "m", prompt, [-1])).min())
    assert min(rows) > DIFFER


def test_a_reverted_file_is_loaded_again(
    models: tuple[Path, Path], unpatched: tuple[Array, Array], tmp_path: Path
) -> None:
    """Patched in place and reverted, the engine sees the old model; patched, it serves the longer context."""
    path = Path(shutil.copy(models[1], tmp_path / "model.gguf"))
    with pytest.raises(LoadRefused, match="exceeds the available context size"):
        logprobs(path, PROMPT, positions=[-1])
    assert run("apply", "--method", "mrrope-pro", "--factor", 4, path, "--in-place").code == 0
    assert distance(logprobs(path, PROMPT, positions=FAR[-1:]), unpatched[1][-1:]).min() > DIFFER
    assert run("revert", path, "--in-place").code == 0
    assert path.read_bytes() == models[1].read_bytes()


# Files that this project did not write -------------------------------------------------------------------------------

CORPUS = os.environ.get("ROPEPATCH_CORPUS")
corpus = pytest.mark.skipif(not CORPUS, reason="ROPEPATCH_CORPUS names no folder")
KEYED = ("linear", "ntk", "ntk-critical", "yarn")
FACTORED = ("ntk-by-parts", "llama3", "mrrope-pro", "yarn+resonance")
#: architecture, trained context, rotated dimensions, base, whether the architecture reads factors
FILES: dict[str, tuple[str, int, int, float, bool]] = {
    "phi-3": ("phi3", 4096, 96, 10000.0, False),
    "llama-spm": ("llama", 4096, 128, 10000.0, True),
    "deepseek-llm": ("llama", 4096, 128, 10000.0, True),
    "starcoder": ("starcoder2", 16384, 128, 999999.4375, False),
    "falcon": ("falcon", 2048, 64, 10000.0, False),
}


def corpus_file(name: str) -> Path:
    """A file of the corpus."""
    return Path(str(CORPUS), "gguf", f"{name}.gguf")


@corpus
@pytest.mark.corpus
def test_the_table_names_every_file_of_the_corpus() -> None:
    """No file is left out of the tests below."""
    found = {path.stem for path in Path(str(CORPUS), "gguf").glob("*.gguf")}
    assert found == {*FILES, "deepseek-coder", "gpt-2"}


@corpus
@pytest.mark.corpus
@pytest.mark.parametrize("name", list(FILES))
def test_corpus_files_are_inspected(name: str) -> None:
    """Architecture, contexts, dimensions and base of published models are those of their cards."""
    arch, context, dims, theta, _ = FILES[name]
    ended = run("inspect", corpus_file(name), "--json")
    assert ended.code == 0, ended.err
    profile = ropepatch.open(corpus_file(name)).profile
    assert profile.source.architecture == arch
    assert (profile.trained_context, profile.declared_context) == (context, context)
    group = profile.groups["default"]
    assert (group.rotary_dim, group.rope_theta, group.scaling.name) == (dims, theta, "none")


@corpus
@pytest.mark.corpus
@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("method", [*KEYED, *FACTORED])
def test_corpus_files_are_patched_or_refused(name: str, method: str, tmp_path: Path) -> None:
    """Every file takes the methods with keys; those that need factors are refused where no engine reads them."""
    arch, context, dims, theta, factors = FILES[name]
    target = tmp_path / "out.gguf"
    model = ropepatch.open(corpus_file(name))
    if method in FACTORED and not factors:
        with pytest.raises(MethodUnsupported, match=f"llama.cpp reads no per-pair factors for {arch}"):
            model.patch(method, 4.0)
        return
    model.patch(method, 4.0).write(target)
    profile = ropepatch.open(target).profile
    rope = Spectrum.plain(theta, dims)
    wanted = extend(method, Target(4.0, context, rope), {}).apply(rope, None)
    found = ropepatch.open(target).frequencies()["default"]
    np.testing.assert_allclose(found.inv_freq, wanted.inv_freq, rtol=1e-6)
    assert found.attention_scale == pytest.approx(wanted.attention_scale, rel=1e-6)
    assert (profile.trained_context, profile.declared_context) == (context, 4 * context)


@corpus
@pytest.mark.corpus
def test_a_scaled_corpus_file_is_refused_until_told(tmp_path: Path) -> None:
    """DeepSeek Coder is linear 4x already; how long it was trained stands nowhere and has to be said."""
    path, target = corpus_file("deepseek-coder"), tmp_path / "out.gguf"
    ended = run("apply", "--method", "yarn", "--factor", 2, path, "-o", target)
    assert (ended.code, "is scaled already (linear 4x" in ended.err) == (3, True)
    ended = run("apply", "--method", "yarn", "--factor", 8, path, "-o", target, "--existing", "replace")
    assert (ended.code, "--original-length" in ended.err) == (2, True)
    assert not list(tmp_path.iterdir())
    replace = ["--existing", "replace", "--original-length", 4096]
    ended = run("apply", "--method", "yarn", "--factor", 8, path, "-o", target, *replace)
    assert ended.code == 0, ended.err
    header = gguf.scan(target)
    keys = {name: header.get(name) for name in header.keys}
    assert keys["llama.context_length"] == 32768
    assert keys["llama.rope.scaling.original_context_length"] == 4096
    assert (keys["llama.rope.scaling.type"], keys["llama.rope.scaling.factor"]) == ("yarn", 8.0)


@corpus
@pytest.mark.corpus
def test_a_corpus_file_without_rope_is_refused(tmp_path: Path) -> None:
    """GPT-2 has learned positions: exit 3, and no file."""
    ended = run("apply", "--method", "yarn", "--factor", 4, corpus_file("gpt-2"), "-o", tmp_path / "out.gguf")
    assert ended.code == 3
    assert "no rotary position embedding" in ended.err
    assert not list(tmp_path.iterdir())
