"""Launch lines."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import runtimes
from ropepatch.methods.yarn import Yarn
from ropepatch.profile import RopeGroup, RopeProfile, Source
from ropepatch.runtimes import launch
from tests.runtimes.test_recorded import CASES

ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}


def profile(fmt: str, architecture: str, declared: int) -> RopeProfile:
    """A YaRN profile of one group."""
    group = RopeGroup(rope_theta=1e6, rotary_dim=128, head_dim=128, scaling=Yarn(4.0, 32768))
    return RopeProfile(Source("model dir", fmt, architecture), {"default": group}, 32768, declared)


def hf(config: dict[str, Any], **arguments: Any) -> dict[str, launch.Launch]:
    """The launch lines of an HF folder by runtime."""
    found = launch.lines("model dir", profile("hf", "llama", 131072), config, **arguments)
    return {line.runtime: line for line in found}


def test_every_reader_of_the_format_has_a_line() -> None:
    """An HF folder gets the seven runtimes that read it, each with the asked length where it takes one."""
    found = hf(CASES["yarn_consistent"], length=100000)
    assert set(found) == {"transformers", "vllm", "sglang", "tgi", "mlx-lm", "exllamav3", "exllamav2"}
    assert shlex.split(found["vllm"].text) == ["vllm", "serve", "model dir", "--max-model-len", "100000"]
    assert "--context-length 100000" in found["sglang"].text
    assert "max_num_tokens=100096" in found["exllamav3"].text


def test_a_length_beyond_what_is_derived_needs_the_engines_consent() -> None:
    """Where an engine derives less than is asked, the variable that lets it go on is part of the line."""
    found = hf(CASES["yarn_qwen25_doc"], length=131072)
    assert found["vllm"].text.startswith("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 ")
    assert found["sglang"].text.startswith("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 ")
    assert not hf(CASES["yarn_consistent"])["vllm"].text.startswith("VLLM_")


def test_an_override_keeps_the_base_and_reaches_the_text_model() -> None:
    """vLLM gets the whole dict with its base, below text_config where the model has one."""
    words = shlex.split(hf(CASES["default_theta1e4"], length=131072, rope=ROPE)["vllm"].text)
    given = json.loads(words[words.index("--hf-overrides") + 1])
    assert given == {"rope_parameters": ROPE, "max_position_embeddings": 131072}
    composite = {"model_type": "mistral3", "text_config": CASES["yarn_consistent"]}
    words = shlex.split(hf(composite, length=131072, rope=ROPE)["vllm"].text)
    assert set(json.loads(words[words.index("--hf-overrides") + 1])) == {"text_config"}
    with pytest.raises(ValueError, match="rope_theta"):
        hf(CASES["yarn_consistent"], rope={"rope_type": "yarn", "factor": 4.0})


def test_snippets_are_python() -> None:
    """The snippets compile."""
    for name in ("transformers", "exllamav3", "exllamav2"):
        compile(hf(CASES["yarn_consistent"], rope=ROPE)[name].text, name, "exec")


def test_a_runtime_that_refuses_has_a_reason_in_place_of_a_line() -> None:
    """Where an engine would not load the file, no command is printed."""
    refused = hf(CASES["linear_int4"])["vllm"]
    assert refused.text == ""
    assert "factor" in (refused.refused or "")


def test_a_scaled_magnitude_forbids_shifting_the_cache() -> None:
    """llama-server is started without context shift where cos and sin are scaled; Ollama gets no more than the file."""
    found = launch.lines("model.gguf", profile("gguf", "qwen2", 65536), None, 131072)
    lines = {line.runtime: line for line in found}
    assert set(lines) == {"llama.cpp", "ollama"}
    assert lines["llama.cpp"].text == "llama-server -m model.gguf -c 131072 --no-context-shift"
    assert any("--cache-reuse" in option for option in lines["llama.cpp"].avoid)
    assert lines["ollama"].text == (
        "# Modelfile, for: ollama create model -f Modelfile\nFROM ./model.gguf\nPARAMETER num_ctx 65536"
    )


def test_a_runtime_that_drops_what_the_file_says_has_no_line_either(tmp_path: Path) -> None:
    """Where an engine loads the file and turns as plain RoPE, it says so and which keys it passes over."""
    (tmp_path / "config.json").write_text(json.dumps(CASES["v5_layout_llama3"]), encoding="utf-8")
    found = {line.runtime: line for line in launch.of_checkpoint(ropepatch.open(tmp_path))}
    for name in ("tgi", "mlx-lm", "exllamav2"):
        assert found[name].text == ""
        assert found[name].ignored == "loads it as plain RoPE of base 10000 and ignores rope_parameters"
    for name in ("transformers", "vllm", "sglang", "exllamav3"):
        assert found[name].text
        assert (found[name].length, found[name].ignored) == (131072, None)


def test_other_frequencies_than_the_file_says_are_noted(tmp_path: Path) -> None:
    """An engine that computes a method differently keeps its line, with a note."""
    (tmp_path / "config.json").write_text(json.dumps(CASES["yarn_consistent"]), encoding="utf-8")
    found = {line.runtime: line for line in launch.of_checkpoint(ropepatch.open(tmp_path))}
    noted = {name for name, line in found.items() if any("other frequencies" in note for note in line.notes)}
    assert noted == {"exllamav2"}
    assert found["exllamav2"].text


def test_exllamav3_is_told_a_length_where_it_takes_one() -> None:
    """Phi's lists are chosen by the length at load; elsewhere the file alone counts."""
    off = hf(CASES["yarn_qwen25_doc"], length=131072)["exllamav3"]
    assert (off.text, off.ignored) == ("", "loads it as plain RoPE of base 1000000 and ignores rope_scaling.factor")
    further = hf(CASES["yarn_consistent"], length=262144)["exllamav3"]
    assert "override" not in further.text
    assert any("its factor follows that key alone" in option for option in further.avoid)
    assert "override_dynamic_seq_len(4096)" in hf(CASES["longrope_top_orig"], length=4096)["exllamav3"].text


@pytest.mark.parametrize("length", [None, 4096, 262144])
def test_exllamav3_moves_no_factor_with_the_length(length: int | None) -> None:
    """Whatever length a model is loaded for, YaRN's factor follows the file; LongRoPE's list follows it on Phi."""
    yarn = runtimes.predict("exllamav3", None, CASES["yarn_consistent"], length)["default"]
    lists = runtimes.predict("exllamav3", None, CASES["longrope_top_orig"], length)["default"]
    short = np.asarray(CASES["longrope_top_orig"]["rope_scaling"]["short_factor"])
    assert yarn.attention_scale == pytest.approx(1.1386294361119891, rel=1e-6)
    off = np.abs(lists.inv_freq * short * 1e4 ** (np.arange(64) / 64) - 1).max()
    assert off < 1e-6 if length == 4096 else off > 0.1
