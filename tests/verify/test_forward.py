"""What verify finds in checkpoints that are right, and in those that are wrong in ways that happen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import ropepatch
from ropepatch import schemas
from ropepatch.containers import gguf, gguf_rewrite
from ropepatch.verify import shape
from ropepatch.verify.verification import Verification
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
    assert by_name["drift"].numbers["kl"] > 0.01


@pytest.mark.parametrize(("kind", "engine"), [("yarn", "transformers"), ("yarn_gguf", "llama.cpp")])
def test_engines_agree(kind: str, engine: str, request: pytest.FixtureRequest) -> None:
    """transformers and llama.cpp say on a patched checkpoint what the built-in decoder says."""
    pytest.importorskip("xllamacpp" if engine == "llama.cpp" else engine)
    result = ropepatch.verify(request.getfixturevalue(kind), engine=engine, layers=None)

    assert failed(result) == set()
    agreement = next(check for check in result.checks if check.name == "agreement")
    assert agreement.result == "PASSED"
    assert agreement.numbers["difference"] < 1e-3
    assert engine in result.environment["engines"]


def test_an_unscaled_checkpoint_drifts_nowhere(base: Path) -> None:
    """Without scaling there is nothing to change, and the pass gives the base's own numbers."""
    result = ropepatch.verify(base)

    assert result.result == "PASSED"
    drift = next(check for check in result.checks if check.name == "drift")
    assert drift.numbers == {"kl": 0.0, "top1_agreement": 1.0, "positions": 32, "tokens": 256}


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


def test_scaling_ignored_by_our_own_loader(yarn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in decoder is not trusted either: frequencies are read from where it rotates."""
    from ropepatch.verify import promise

    right = shape.ropes
    monkeypatch.setattr(shape, "ropes", lambda profile, *rest: right(promise.unscaled(profile), *rest))

    assert {"frequencies", "changed"} <= failed(ropepatch.verify(yarn))


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


def test_command_exits_with_1_for_a_failed_check(yarn_gguf: Path) -> None:
    """A finding is exit code 1, and the document names it."""
    set_key(yarn_gguf, "llama.context_length", 256)
    ended = command("verify", yarn_gguf, "--json", "--no-record")

    assert ended.code == 1
    schemas.validator("verify").validate(ended.document)
    assert ended.document["predicate"]["failedTests"] == ["context"]
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_transformers(yarn: Path) -> None:
    """transformers on the device and the built-in decoder there give the same log-probabilities."""
    pytest.importorskip("transformers")
    result = ropepatch.verify(yarn, device="cuda", engine="transformers", layers=None)

    assert failed(result) == set()
