"""What llama.cpp and Ollama make of a lifted GGUF profile."""

from __future__ import annotations

import numpy as np
import pytest

from ropepatch import runtimes
from ropepatch.errors import RuntimeRejects
from ropepatch.methods.base import Method
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.yarn import Yarn
from ropepatch.profile import RopeGroup, RopeProfile, Source

PLAIN = 10000.0 ** (-np.arange(0, 8, 2) / 8)
LONG = LongRope((1.0,) * 4, (2.0, 3.0, 4.0, 5.0), 256, attention_factor=1.0)


def profile(scaling: Method, context: int, architecture: str = "phi3", notes: tuple[str, ...] = ()) -> RopeProfile:
    """A GGUF profile of one group with a head of 8."""
    group = RopeGroup(rope_theta=10000.0, rotary_dim=8, head_dim=8, scaling=scaling)
    source = Source("model.gguf", "gguf", architecture, "gguf-v3")
    return RopeProfile(source, {"default": group}, 256, context, notes=notes)


@pytest.mark.parametrize(("length", "long"), [(None, True), (256, False), (257, True), (1024, True)])
def test_the_list_follows_the_allocated_context(length: int | None, long: bool) -> None:
    """The long list is taken when the context, padded to 256 tokens, exceeds the original one, whatever is filled."""
    predicted = runtimes.predict("llama.cpp", profile(LONG, 1024), None, length)["default"]
    divisors = np.array(LONG.long_factor if long else LONG.short_factor)
    np.testing.assert_allclose(predicted.inv_freq, PLAIN / divisors, rtol=1e-12)
    assert predicted.switches == "at load"
    assert predicted.context == 1024


def test_a_magnitude_brings_the_warning_about_context_shift() -> None:
    """Where cos and sin are scaled, shifting the cache would scale the keys again."""
    predicted = runtimes.predict("llama.cpp", profile(Yarn(4.0, 256), 1024, "qwen2"), None)["default"]
    assert predicted.attention_scale == pytest.approx(1.1386294)
    assert any("context shift" in note for note in predicted.notes)
    assert not runtimes.predict("llama.cpp", profile(Yarn(1.0, 256), 256, "qwen2"), None)["default"].notes


def test_ollama_cuts_the_context_to_the_files() -> None:
    """A num_ctx beyond context_length is cut, so that the list of the shorter context stays in force."""
    short = profile(LONG, 256)
    asked = runtimes.predict("ollama", short, None, 1024)["default"]
    np.testing.assert_allclose(asked.inv_freq, PLAIN, rtol=1e-12)
    assert any("cut" in note for note in asked.notes)
    beyond = runtimes.predict("llama.cpp", short, None, 1024)["default"]
    np.testing.assert_allclose(beyond.inv_freq, PLAIN / np.array(LONG.long_factor), rtol=1e-12)


def test_what_the_loader_refuses_is_refused() -> None:
    """An unknown architecture, a tensor that its loader does not look for, and an HF folder are rejected."""
    with pytest.raises(RuntimeRejects, match="does not know"):
        runtimes.predict("llama.cpp", profile(Yarn(4.0, 256), 1024, "no-such-arch"), None)
    note = "llama.cpp does not look for rope_freqs.weight here and will refuse the file"
    with pytest.raises(RuntimeRejects, match="rope_freqs"):
        runtimes.predict("llama.cpp", profile(Yarn(4.0, 256), 1024, "qwen2", (note,)), None)
    with pytest.raises(runtimes.WrongFormat):
        runtimes.predict("llama.cpp", None, {"model_type": "llama"})
    with pytest.raises(runtimes.WrongFormat):
        runtimes.predict("vllm", profile(LONG, 1024), None)
