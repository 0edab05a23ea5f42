"""What verify finds in checkpoints that are right, and in those that are wrong in ways that happen."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import ropepatch
from ropepatch import schemas
from ropepatch.cli import main
from ropepatch.containers import gguf, gguf_rewrite
from ropepatch.errors import InputError
from ropepatch.verify import forward, live, probes, promise, shape, surroundings
from ropepatch.verify.promise import Check
from ropepatch.verify.verification import Verification
from tests.support.command import ROOT
from tests.support.command import ropepatch as command


def edit(folder: Path, **members: Any) -> None:
    """Change members of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **members}))


def scaling(folder: Path, **members: Any) -> dict[str, Any]:
    """The scaling of config.json, with members changed, under the name that it has there."""
    config = json.loads((folder / "config.json").read_text())
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    return {name: {**config[name], **members}}


def set_key(path: Path, key: str, value: Any) -> None:
    """Overwrite a value of a GGUF where it stands."""
    header = gguf.scan(path)
    record = header.keys[key]
    new = gguf_rewrite.encode_key(header, key, gguf.TYPE_NAMES[record.type], value)
    assert len(new) == record.end - record.start
    data = bytearray(path.read_bytes())
    data[record.start : record.end] = new
    path.write_bytes(data)


def failed(result: Verification) -> set[str]:
    """The checks that failed."""
    return {check.name for check in result.checks if check.result == "FAILED"}


def check(result: Verification, name: str) -> Check:
    """The check of that name."""
    return next(item for item in result.checks if item.name == name)


def forget(path: Path) -> None:
    """Remove the manifest."""
    (path / "ropepatch.json" if path.is_dir() else path.with_suffix(".ropepatch.json")).unlink()


# ---- right ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["yarn", "yarn_gguf"])
def test_a_patched_checkpoint_passes(kind: str, request: pytest.FixtureRequest) -> None:
    """What apply wrote passes all checks, far positions among them, and is seen to differ from the base."""
    result = ropepatch.verify(request.getfixturevalue(kind))

    assert result.result == "PASSED"
    by_name = {check.name: check for check in result.checks}
    assert by_name["changed"].numbers["deviation"] == pytest.approx(0.75)
    assert by_name["finite"].numbers["position"] == 1023
    assert by_name["relative positions"].numbers["bfloat16"] > 0.1
    assert by_name["relative positions"].numbers["bfloat16_distinct"] < 20
    assert 0.01 < by_name["drift"].numbers["kl"] < by_name["drift"].numbers["interpolation_kl"]


@pytest.mark.parametrize(("kind", "engine"), [("yarn", "transformers"), ("yarn_gguf", "llama.cpp")])
def test_engines_agree(kind: str, engine: str, request: pytest.FixtureRequest) -> None:
    """transformers and llama.cpp say on a patched checkpoint what the built-in decoder says."""
    pytest.importorskip("xllamacpp" if engine == "llama.cpp" else engine)
    result = ropepatch.verify(request.getfixturevalue(kind), engine=engine, layers=None)

    assert failed(result) == set()
    agreement = next(check for check in result.checks if check.name == "agreement")
    assert agreement.result == "PASSED"
    # as measured: 2.1e-05 where our decoder takes the module's own frequencies, 9.5e-05 where llama.cpp shows none
    assert agreement.numbers["difference"] < {"transformers": 1e-4, "llama.cpp": 3e-4}[engine]
    assert engine in result.environment["engines"]
    schemas.validator("verify").validate(result.to_json())
    library = "xllamacpp" if engine == "llama.cpp" else engine
    assert {"torch", "numpy", "ropepatch", library} <= set(result.environment["libraries"])


def test_engines_agree_far_away(tmp_path: Path) -> None:
    """Far positions are no excuse: what the last bit of a frequency is worth there is left out of the comparison."""
    pytest.importorskip("transformers")
    shutil.copytree(ROOT / "fixtures" / "tiny-llama", tmp_path / "model")
    ropepatch.open(tmp_path / "model").patch("yarn", 16.0).write(tmp_path / "far")
    result = ropepatch.verify(tmp_path / "far", engine="transformers")

    assert failed(result) == set()
    numbers = check(result, "agreement").numbers
    assert numbers["position"] == 32767
    assert numbers["difference"] < 1e-4  # 1.4e-05 as measured, and 3.4e-03 with frequencies and angles of float64


def test_llama_cpp_answers_whatever_it_samples() -> None:
    """Where half of the vocabulary are bytes, which are no text alone, each position has probabilities all the same."""
    pytest.importorskip("xllamacpp")
    from ropepatch.verify.llama_engine import LlamaCppEngine

    tokens = np.random.default_rng(1).integers(3, 250, 64).tolist()
    engine = LlamaCppEngine(ROOT / "fixtures" / "tiny-llama.gguf", 256)
    found = engine.log_probabilities(tokens, range(64), range(0, 64, 2))

    assert found.shape == (32, 307)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)


def test_llama_cpp_takes_a_gguf_of_any_name(tmp_path: Path) -> None:
    """A blob of Ollama's has no suffix; what is no GGUF is refused under any name, with what takes it."""
    pytest.importorskip("xllamacpp")
    from ropepatch.verify.llama_engine import LlamaCppEngine

    blob = shutil.copy(ROOT / "fixtures" / "tiny-llama.gguf", tmp_path / "sha256-0123abcd")
    assert LlamaCppEngine(Path(blob), 256).log_probabilities([5, 9], [0, 1], [1]).shape == (1, 307)
    for path in (ROOT / "fixtures" / "tiny-llama", ROOT / "fixtures" / "tiny-llama" / "config.json"):
        with pytest.raises(InputError, match=r"llama\.cpp is given GGUF files only; --engine torch takes folders"):
            LlamaCppEngine(path, 256)


def test_the_token_that_llama_cpp_samples_changes_nothing(base_gguf: Path) -> None:
    """The probabilities are those before any bias: the same to the last bit, whichever token is made to follow."""
    pytest.importorskip("xllamacpp")
    from ropepatch.verify import llama_engine

    asked = {"model": str(base_gguf), "tokens": [5, 9, 7, 4], "at": [1, 3], "n_ctx": 256, "threads": 1}
    replies, log = llama_engine.ask([asked, {**asked, "sampled": 3}, {**asked, "sampled": 8}])

    assert len(replies) == 3, log
    assert replies[0]["logprobs"] == replies[1]["logprobs"] == replies[2]["logprobs"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_engines_agree_in_half_precision(yarn: Path, dtype: str) -> None:
    """In 16 bits transformers and the built-in decoder differ by more than in 32, and within the stated bound."""
    pytest.importorskip("transformers")
    result = ropepatch.verify(yarn, engine="transformers", dtype=dtype)

    assert failed(result) == set()
    numbers = check(result, "agreement").numbers
    assert 1e-3 < numbers["difference"] < numbers["limit"] < 1


def test_an_unscaled_checkpoint_drifts_nowhere(base: Path) -> None:
    """Without scaling there is nothing to change, and the pass gives the base's own numbers."""
    result = ropepatch.verify(base)

    assert result.result == "PASSED"
    drift = next(check for check in result.checks if check.name == "drift")
    assert drift.numbers == {"kl": 0.0, "top1_agreement": 1.0, "positions": 32, "tokens": 256}


@pytest.mark.parametrize(("method", "inside"), [("linear", True), ("yarn", True), ("ntk", False)])
def test_attention_leaves_its_range_unpatched(base: Path, method: str, inside: bool) -> None:
    """Far logits are far outside unpatched, inside with interpolation and YaRN, and not quite with a raised base."""
    ropepatch.open(base).patch(method, 4).write(base.with_name("out"))
    found = check(ropepatch.verify(base.with_name("out"), layers=None), "attention range")

    assert found.numbers["overshoot"]["base"] > 0.5
    assert (found.numbers["overshoot"]["patched"] <= probes.OVERSHOOT) is inside
    assert found.result == ("PASSED" if inside else "WARNED")


def test_waves_are_the_scores_at_other_distances(yarn: Path) -> None:
    """Logits put at another distance are those that the decoder computes for tokens which stand so far apart."""
    model = ropepatch.open(yarn)
    work = forward.Pass(model, None, promise.of(model, None), forward.Settings())
    decoder = work.ours(model.profile, 1024).decoder
    with torch.inference_mode():
        y = decoder.first_norm(decoder.embed(torch.tensor([[5, 60, 77, 90]])))
        near = torch.tensor([3, 8, 20, 41])
        q, k, _ = decoder.queries_and_keys(y, 0, near)
        waves = probes._Waves(decoder, 0, q[0, :, [3, 2]], k[0, :, [0, 1]], near[[3, 2]] - near[:2])
        q, k, _ = decoder.queries_and_keys(y, 0, torch.tensor([0, 200, 700, 950]))
        scores = decoder.scores(q, k)[0] / decoder.attention_scale[0] ** 2

    found = waves.at(torch.tensor([950.0, 500.0], dtype=torch.float64), decoder)
    torch.testing.assert_close(found[:, 0, 0].float(), scores[:, 3, 0], atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(found[:, 1, 1].float(), scores[:, 2, 1], atol=2e-6, rtol=2e-6)


def test_float32_products_stay_float32(yarn: Path) -> None:
    """A process that allows shorter products gets exact ones inside the pass, and its own setting back."""
    seen = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        right = probes.shift
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(probes, "shift", lambda *a: seen.append(torch.get_float32_matmul_precision()) or right(*a))
            ropepatch.verify(yarn)
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_llama_cpp_allocates_what_it_needs(base_gguf: Path) -> None:
    """A long context is not allocated for a short prompt, unless its length is what chooses the factors."""
    model = ropepatch.open(base_gguf)
    plain = promise.Promise(model.patch("yarn", 512).after, model.profile, "manifest")
    by_length = ropepatch.open(ROOT / "fixtures" / "tiny-retriever").patch("dynamic", 512)
    chosen = promise.Promise(by_length.after, by_length.before, "manifest")

    assert forward.llama_context(plain, 256, 131072) == 4097
    assert forward.llama_context(chosen, 32768, 131072) == 32768 + 256


# ---- wrong ones ------------------------------------------------------------------------------------------------------


def test_scaling_ignored_by_the_loader(yarn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that builds plain frequencies whatever the config says is seen in its module."""
    pytest.importorskip("transformers")
    from transformers import modeling_rope_utils

    def plain(config: Any, device: Any = None, *_: Any, **__: Any) -> tuple[Any, float]:
        pairs = torch.arange(0, 32, 2, dtype=torch.float32, device=device)
        return 1000.0 ** (-pairs / 32), 1.0

    monkeypatch.setitem(modeling_rope_utils.ROPE_INIT_FUNCTIONS, "yarn", plain)
    result = ropepatch.verify(yarn, engine="transformers")

    assert {"frequencies", "changed", "agreement"} <= failed(result)


def test_scaling_ignored_by_llama_cpp(yarn_gguf: Path, base_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp shows no frequencies; an engine that goes by the base's is known by its numbers."""
    pytest.importorskip("xllamacpp")
    from ropepatch.verify.llama_engine import LlamaCppEngine

    set_key(base_gguf, "llama.context_length", 1024)
    right = LlamaCppEngine.log_probabilities

    def ignoring(self: LlamaCppEngine, *arguments: Any) -> Any:
        self.path = base_gguf
        return right(self, *arguments)

    monkeypatch.setattr(LlamaCppEngine, "log_probabilities", ignoring)
    assert {"changed", "agreement"} <= failed(ropepatch.verify(yarn_gguf, engine="llama.cpp"))


@pytest.mark.parametrize(
    ("to_promised", "to_base", "result"),
    [(1e-5, 1e-1, "PASSED"), (1e-1, 1e-5, "FAILED"), (1e-2, 2e-2, "WARNED"), (2e-2, 1e-2, "WARNED")],
)
def test_an_engine_that_is_near_to_both_rotations_is_no_proof(
    monkeypatch: pytest.MonkeyPatch, to_promised: float, to_base: float, result: str
) -> None:
    """Only a clear distance says which of two rotations an engine runs that does not show its frequencies."""
    expected = object.__new__(live.Expected)
    monkeypatch.setattr(live.Expected, "nothing_to_change", False)
    found = {check.name: check.result for check in expected.unseen("llama.cpp", to_promised, to_base)}
    assert found == {"frequencies": "SKIPPED", "changed": result}


def test_drift_beyond_interpolation(yarn: Path) -> None:
    """A method that disturbs short texts more than plain interpolation would is warned of."""
    edit(yarn, **scaling(yarn, attention_factor=0.05))
    forget(yarn)
    found = check(ropepatch.verify(yarn), "drift")

    assert found.result == "WARNED"
    assert "it should be nearer to the base" in found.detail
    assert found.numbers["top1_agreement"] < found.numbers["interpolation_top1_agreement"]


def test_scaling_ignored_by_our_own_loader(yarn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in decoder is not trusted either: frequencies are read from where it rotates."""
    right = shape.ropes
    monkeypatch.setattr(shape, "ropes", lambda profile, *rest: right(promise.unscaled(profile), *rest))

    assert {"frequencies", "changed"} <= failed(ropepatch.verify(yarn))


def test_a_module_without_frequencies(yarn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that do not rotate keep no promise, and are not said to rotate as the base does."""
    right = shape.ropes
    monkeypatch.setattr(
        shape, "ropes", lambda *given: [dataclasses.replace(rope, inv_freq=np.empty(0)) for rope in right(*given)]
    )
    result = ropepatch.verify(yarn)

    assert {"frequencies", "changed"} <= failed(result)
    assert "holds no frequencies" in check(result, "frequencies").detail
    assert check(result, "frequencies").detail.endswith("promised: default")
    assert "as the base does" not in check(result, "changed").detail


def test_scaling_lost_from_the_config(yarn: Path) -> None:
    """A config that was saved again without its scaling does not keep the manifest's promise."""
    edit(yarn, **dict.fromkeys(scaling(yarn)), rope_theta=1000.0)

    assert {"metadata", "frequencies", "changed"} <= failed(ropepatch.verify(yarn))


@pytest.mark.parametrize("with_manifest", [True, False])
def test_wrong_original_context(yarn: Path, base: Path, with_manifest: bool) -> None:
    """A ramp counted from another context than the base's is seen with the manifest, and without it by the base."""
    edit(yarn, **scaling(yarn, original_max_position_embeddings=512))
    if not with_manifest:
        forget(yarn)
    result = ropepatch.verify(yarn, base)

    assert ("metadata" if with_manifest else "original context") in failed(result)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_factor_applied_twice(yarn: Path, base: Path, with_manifest: bool) -> None:
    """A factor multiplied by itself is seen with the manifest, and without it by the base."""
    edit(yarn, **scaling(yarn, factor=16.0))
    if not with_manifest:
        forget(yarn)
    result = ropepatch.verify(yarn, base)

    assert {"factor", "metadata" if with_manifest else "factor"} <= failed(result)
    assert "in force twice" in next(check.detail for check in result.checks if check.name == "factor")


def test_factor_applied_twice_by_two_mechanisms(base_gguf: Path, tmp_path: Path) -> None:
    """A linear factor beside factor tensors of the same is seen without base and manifest."""
    ropepatch.open(base_gguf).patch("linear", 4).write(tmp_path / "linear.gguf")
    ropepatch.open(tmp_path / "linear.gguf").patch("linear", 4, existing="compose").write(tmp_path / "twice.gguf")
    set_key(tmp_path / "twice.gguf", "llama.context_length", 1024)
    forget(tmp_path / "twice.gguf")

    assert failed(ropepatch.verify(tmp_path / "twice.gguf", base_gguf)) >= {"factor"}


@pytest.mark.parametrize("wrong", [1.1386294361119891**2, 2 * 1.1386294361119891])
def test_doubled_attention_scale(yarn: Path, wrong: float) -> None:
    """A magnitude that is applied twice, or doubled, is seen without base and manifest, and with the manifest."""
    edit(yarn, **scaling(yarn, attention_factor=wrong))
    assert {"metadata", "attention scale", "frequencies"} <= failed(ropepatch.verify(yarn))
    forget(yarn)

    assert failed(ropepatch.verify(yarn)) == {"attention scale"}


def test_stale_buffers(yarn: Path) -> None:
    """Frequencies of before the patch, stored beside the weights, are found."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(yarn / "model.safetensors")
    plain = torch.tensor(1000.0 ** (-np.arange(0, 32, 2) / 32), dtype=torch.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = plain
    (yarn / "model.safetensors").unlink()
    save_file(tensors, yarn / "model.safetensors")
    result = ropepatch.verify(yarn)

    assert failed(result) == {"buffers"}
    assert "stale" in next(check.detail for check in result.checks if check.name == "buffers")


@pytest.mark.parametrize("with_manifest", [True, False])
def test_context_length_not_raised(yarn_gguf: Path, with_manifest: bool) -> None:
    """A GGUF that is scaled and still declares the old context is seen: llama.cpp's server would stop there."""
    set_key(yarn_gguf, "llama.context_length", 256)
    if not with_manifest:
        forget(yarn_gguf)

    assert failed(ropepatch.verify(yarn_gguf)) == {"context"}


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command_writes_the_statement_and_says_what_it_takes(yarn: Path) -> None:
    """The estimate comes first, the statement stands beside the manifest, and the folder can still be reverted."""
    ended = command("verify", yarn)

    assert ended.code == 0, ended.err
    assert ended.err.startswith("memory: the forward pass takes at most about")
    document = json.loads((yarn / "ropepatch-verify.json").read_text())
    assert document["predicate"]["result"] == "PASSED"
    assert document["subject"][0]["digest"]["sha256"]
    assert command("revert", yarn).code == 0


def test_command_refuses_what_does_not_fit(yarn: Path) -> None:
    """An estimate above the limit ends before anything is loaded."""
    ended = command("verify", yarn, "--memory", "0.01", "-q")

    assert ended.code == 3
    assert "the forward pass needs about" in ended.err
    assert "fewer --layers" in ended.err


def test_command_exits_with_1_for_a_failed_check(yarn_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is exit code 1, and the document names it."""
    set_key(yarn_gguf, "llama.context_length", 256)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(yarn_gguf), "--json", "--no-record"])
    document = json.loads(capsys.readouterr().out)

    assert ended.value.code == 1
    schemas.validator("verify").validate(document)
    assert document["predicate"]["failedTests"] == ["context"]
    assert not yarn_gguf.with_suffix(".ropepatch-verify.json").exists()


# ---- CUDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["yarn", "yarn_gguf"])
def test_cuda(kind: str, dtype: str, request: pytest.FixtureRequest) -> None:
    """On a CUDA device a patched checkpoint passes as it does on the CPU, and the device is named."""
    result = ropepatch.verify(request.getfixturevalue(kind), device="cuda", dtype=dtype)

    assert failed(result) == set()
    assert result.environment["device"].startswith("cuda (")
    assert result.environment["cuda"]
    schemas.validator("verify").validate(result.to_json())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_says_what_the_cpu_says(yarn: Path) -> None:
    """The device's float32 log-probabilities are the CPU's within 1e-3, even where the process allows TF32."""
    model = ropepatch.open(yarn)
    told = promise.of(model, None)
    tokens = np.random.default_rng(5).integers(1, 137, 256).tolist()
    places = forward.far_positions(1024, 256)
    found = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for device in ("cpu", "cuda"):
            with surroundings.exact():
                work = forward.Pass(model, None, told, forward.Settings(device=device, layers=None))
                found.append(work.ours(model.profile, 1024).log_probabilities(tokens, places, [0, 100, 200, 255]))
    finally:
        torch.set_float32_matmul_precision(before)

    assert np.abs(found[0] - found[1]).max() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuda_agrees_with_transformers(yarn: Path, dtype: str) -> None:
    """transformers on the device and the built-in decoder there agree: within 1e-3, in 16 bits within the bound."""
    pytest.importorskip("transformers")
    result = ropepatch.verify(yarn, device="cuda", dtype=dtype, engine="transformers", layers=None)

    assert failed(result) == set()
    assert check(result, "agreement").result == "PASSED"
