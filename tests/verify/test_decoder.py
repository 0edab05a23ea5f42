"""The built-in decoder against transformers: families, windows, partial rotation, formats, slices and caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

import ropepatch
from ropepatch.errors import InputError
from ropepatch.verify import shape, tensors, weights
from ropepatch.verify.cache import Cache
from ropepatch.verify.decoder import Decoder
from tests.support import tiny
from tests.support.command import ROOT
from tests.support.hf import transformers_logprobs

LENGTH = 192
FAR = [0, 63, 100, LENGTH - 1]
COMMON: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
#: model type -> what makes it different
MODELS: dict[str, dict[str, Any]] = {
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 32},
    "qwen2": {},
    "qwen3": {},
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 100},
}


def built(ref: Path, length: int | None = LENGTH, **options: Any) -> Decoder:
    """The decoder of all layers."""
    model = ropepatch.open(ref)
    sizes = shape.read(model)
    return Decoder(
        weights.open_weights(model), sizes, shape.ropes(model.profile, sizes, sizes.layers, length), **options
    )


def answers(model: Decoder, tokens: list[int], at: list[int]) -> np.ndarray:
    """Log-probabilities at ``at``."""
    with torch.inference_mode():
        states, _ = model.states(torch.tensor([tokens]), torch.arange(len(tokens)))
        return np.asarray(model.log_probabilities(states[0, at]).numpy())


@pytest.mark.parametrize("arch", ["llama", "phi3", "qwen2", "qwen3"])
@pytest.mark.parametrize("form", ["hf", "gguf"])
def test_agrees_with_transformers(arch: str, form: str, tmp_path: Path) -> None:
    """Both formats of a random model give transformers' log-probabilities at three times the trained length."""
    spec = tiny.ModelSpec(arch=arch, context=64)
    folder = tiny.write_hf(tmp_path / "hf", spec)
    tokens = tiny.tokens(spec, LENGTH)
    path = folder if form == "hf" else tiny.write_gguf(tmp_path / "m.gguf", spec)

    assert np.abs(answers(built(path), tokens, FAR) - transformers_logprobs(folder, tokens, FAR)).max() < 1e-4


@pytest.mark.parametrize("case", MODELS)
def test_agrees_on_what_families_differ_in(case: str, tmp_path: Path) -> None:
    """Biases, sliding windows, norms on queries and keys and partial rotation are transformers'."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.split("-")[0], **{**COMMON, **MODELS[case]})
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else torch.nn.init.uniform_(parameter, 0.5, 1)
    model.save_pretrained(tmp_path / "m")
    tokens = np.random.default_rng(1).integers(3, 96, LENGTH).tolist()

    mine, theirs = answers(built(tmp_path / "m"), tokens, FAR), transformers_logprobs(tmp_path / "m", tokens, FAR)
    assert np.abs(mine - theirs).max() < 1e-4


def test_experts_are_left_out(tmp_path: Path) -> None:
    """A model with experts runs up to each layer's attention, and says so."""
    config = transformers.AutoConfig.for_model("mixtral", **COMMON, num_local_experts=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    model = built(tmp_path / "m")

    assert model.stops_at_attention
    assert np.isfinite(answers(model, [1, 2, 3], [2])).all()


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices read a few rows at a time give the same numbers as whole ones."""
    tokens = list(range(137))
    whole = answers(built(ROOT / "fixtures" / "tiny-retriever"), tokens, [136])
    monkeypatch.setattr(tensors, "SLICE", 4 * 64 * 7)
    sliced = answers(built(ROOT / "fixtures" / "tiny-retriever"), tokens, [136])

    np.testing.assert_allclose(sliced, whole, atol=1e-5)


def test_cache_continues_a_prefix() -> None:
    """Tokens behind a cached prefix give the same states as the whole text, for several continuations at once."""
    model = built(ROOT / "fixtures" / "tiny-retriever", keep=True)
    whole = torch.tensor(np.random.default_rng(3).integers(1, 137, (2, 100)))
    whole[1, :60] = whole[0, :60]
    with torch.inference_mode():
        expected, _ = model.states(whole, torch.arange(100))
        _, cache = model.states(whole[:1], torch.arange(100))
        found, _ = model.states(whole[:, 60:], torch.arange(60, 100), cache.cut(60))

    torch.testing.assert_close(found, expected[:, 60:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["mistral", "phi3", "qwen3"])
def test_a_cache_with_room_is_written_over(case: str, tmp_path: Path) -> None:
    """Chunks in place, a second continuation over the first, and only the last states asked for: as the whole text."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case, **{**COMMON, **MODELS[case]})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    model = built(tmp_path / "m", keep=True)
    texts = torch.tensor(np.random.default_rng(3).integers(3, 96, (2, 2, LENGTH)))
    texts[1, :, :100] = texts[0, :, :100]
    with torch.inference_mode():
        cache = Cache(room=LENGTH)
        for a, b in ((0, 70), (70, 150)):
            nothing, cache = model.states(texts[0][:, a:b], torch.arange(a, b), cache, asked=0)
        assert nothing.shape[1] == 0
        held = cache.keys[0]
        found = [model.states(texts[0][:, 150:], torch.arange(150, LENGTH), cache, asked=3)[0]]
        found.append(model.states(texts[1][:, 100:], torch.arange(100, LENGTH), cache.cut(100), asked=3)[0])
        expected = [model.states(text, torch.arange(LENGTH))[0][:, -3:] for text in texts]

    assert cache.keys[0].data_ptr() == held.data_ptr() == cache.whole[0][0].data_ptr()
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_quantised_blocks_are_near() -> None:
    """Q8_0 says nearly what F32 says: the same best token, with other log-probabilities."""
    tokens = [*np.random.default_rng(4).integers(1, 41, 100).tolist(), 41, 80, 81, 82, 5, 6, 41, 80, 81]
    at = [106, 107, 108]
    one, two = (
        answers(built(ROOT / "fixtures" / name), tokens, at)
        for name in ("tiny-retriever.gguf", "tiny-retriever-Q8_0.gguf")
    )

    assert (one.argmax(-1) == [80, 81, 82]).all()
    assert (two.argmax(-1) == [80, 81, 82]).all()
    assert 1e-4 < np.abs(one - two)[:, [80, 81, 82]].max() < 0.5


def test_other_families_are_refused(tmp_path: Path) -> None:
    """A model that the decoder does not compute is refused by name, with what would run it."""
    folder = tiny.write_hf(tmp_path / "hf", tiny.ModelSpec(arch="gemma3", context=64))

    with pytest.raises(InputError, match=r"not gemma3_text; --engine transformers"):
        built(folder)


def test_shapes_are_held_against_the_metadata(tmp_path: Path) -> None:
    """A config that claims other sizes than the tensors have is refused, naming the tensor."""
    import json
    import shutil

    folder = Path(shutil.copytree(ROOT / "fixtures" / "tiny-retriever", tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 1}))

    with pytest.raises(InputError, match=r"k_proj\.weight has shape \[64, 64\], not \[32, 64\]"):
        built(folder)
