"""HF configs that cannot be right: each is refused in one line that says what, where and what would work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch.errors import InputError, NoRope

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "original_max_position_embeddings": 1024,
    "factor": 4.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


def refusal(folder: Path, content: bytes | dict[str, Any]) -> str:
    """The message that a config is refused with; the path is taken out of it."""
    text = content if isinstance(content, bytes) else json.dumps({**LLAMA, **content}).encode()
    (folder / "config.json").write_bytes(text)
    with pytest.raises(InputError) as caught:
        _ = ropepatch.open(folder).profile
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "config.json"))
    return message.removeprefix(str(folder / "config.json") + ": ")


@pytest.mark.parametrize("name", ["warp", "ntk", 3, ["yarn"]], ids=str)
def test_unknown_rope_type(tmp_path: Path, name: object) -> None:
    """An unknown rope_type is named, with those that there are."""
    message = refusal(tmp_path, {"rope_scaling": {"rope_type": name, "factor": 2.0}})
    assert message.startswith(f"rope_scaling: unknown rope_type {name!r}")
    assert "linear, dynamic, yarn, llama3, longrope" in message


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
@pytest.mark.parametrize("factor", [0, -1, 0.5, 0.999])
def test_factor_below_one(tmp_path: Path, kind: str, factor: float) -> None:
    """A factor of zero, below it, or below 1 is refused under its method's name."""
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    rope = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": 1024, **more}
    message = refusal(tmp_path, {"rope_scaling": rope})
    assert message == f"rope_scaling: {kind} factor must be at least 1, not {factor:g}"


@pytest.mark.parametrize("factor", ["4", "many", True, [4.0]])
def test_factor_that_is_no_number(tmp_path: Path, factor: object) -> None:
    """A factor of another kind is refused; a number written as text counts as one."""
    if factor == "4":
        (tmp_path / "config.json").write_text(
            json.dumps({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": "4"}})
        )
        assert ropepatch.open(tmp_path).profile.groups["default"].scaling.parameters() == {"factor": 4.0}
        return
    message = refusal(tmp_path, {"rope_scaling": {"rope_type": "linear", "factor": factor}})
    assert message == f"rope_scaling: linear factor must be a number, not {factor!r}"


@pytest.mark.parametrize(
    ("rope", "key"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": None}, "factor"),
        ({"rope_type": "yarn"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "high_freq_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 16}, "long_factor"),
        ({"rope_type": "longrope", "long_factor": [1.0] * 16}, "short_factor"),
    ],
)
def test_missing_key(tmp_path: Path, rope: dict[str, Any], key: str) -> None:
    """A key that the rope type cannot do without is named."""
    assert refusal(tmp_path, {"rope_scaling": rope}) == f"rope_scaling: {rope['rope_type']} needs {key}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"long_factor": [1.0] * 3}, "3 factors for 16 rotated pairs"),
        ({"short_factor": [1.0] * 17}, "17 factors for 16 rotated pairs"),
        ({"long_factor": []}, "0 factors for 16 rotated pairs"),
        ({"long_factor": [0.0] * 16}, "long factor 0 must be a positive number, not 0"),
        ({"long_factor": [1.0] * 15 + [-2.0]}, "long factor 15 must be a positive number, not -2"),
        ({"long_factor": [1.0] * 15 + ["x"]}, "long_factor[15] must be a number, not 'x'"),
        ({"long_factor": "1,2"}, "long_factor must be a list of numbers, not '1,2'"),
    ],
)
def test_factor_lists(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A list of the wrong length, with a value that is no divisor, or that is no list, is told with its place."""
    assert message in refusal(tmp_path, {"rope_scaling": {**LONGROPE, **change}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"original_max_position_embeddings": 8192}, "the original context 8192 is larger than the declared one 4096"),
        ({"original_max_position_embeddings": 0}, "must be at least 1, not 0"),
        ({"original_max_position_embeddings": 10.5}, "must be a whole number, not 10.5"),
        ({"beta_fast": 1, "beta_slow": 32}, "yarn needs 0 < beta_slow <= beta_fast"),
        ({"attention_factor": -1}, "attention_factor must be above 0, not -1"),
    ],
)
def test_parameters_that_contradict(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """An original context beyond the declared one, and parameters out of order, are refused."""
    assert message in refusal(tmp_path, {"rope_scaling": {**YARN, **change}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": 1.0}, "rope_scaling: is 1.0, not an object"),
        ({"rope_parameters": "yarn"}, "rope_parameters: is 'yarn', not an object"),
        ({"rope_scaling": [1]}, "rope_scaling: is [1], not an object"),
        ({"rope_scaling": True}, "rope_scaling: is True, not an object"),
        ({"rope_theta": 0}, "rope_theta: is 0, not a usable number"),
        ({"rope_theta": "1e4"}, "rope_theta: is '1e4', not a usable number"),
        ({"rope_theta": True}, "rope_theta: is True, not a usable number"),
        ({"rope_theta": 1, "rope_scaling": YARN}, "yarn needs rope_theta above 1, not 1"),
        ({"num_attention_heads": 0}, "num_attention_heads: is 0, not a usable number"),
        ({"head_dim": 10**12}, "head_dim: is 1000000000000, not a usable number"),
        ({"max_position_embeddings": -4}, "max_position_embeddings: is -4, not a usable number"),
        ({"partial_rotary_factor": 7}, "partial_rotary_factor: is 7, not a usable number"),
    ],
)
def test_values_of_the_wrong_kind(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A number as rope_scaling, a text as a base, and sizes beyond any model are refused by key."""
    assert message in refusal(tmp_path, change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON: Expecting value at line 1 column 1"),
        (b'{"model_type": llama}', "is not JSON: Expecting value at line 1 column 16"),
        (b'{\n  "rope_theta": 1.0,\n}', "is not JSON: "),
        (b"{} trailing", "is not JSON: Extra data at line 1 column 4"),
        (b"<!DOCTYPE html>", "is not JSON: Expecting value at line 1 column 1"),
        (b"[1, 2]", "is a JSON list, not an object"),
        (b'"text"', "is a JSON text, not an object"),
        (b"17", "is a JSON number, not an object"),
        (b"null", "is a JSON null, not an object"),
        (b'{"rope_theta": NaN}', "holds NaN, which is not JSON; write a number or null"),
        (b'{"rope_theta": -Infinity}', "holds -Infinity, which is not JSON; write a number or null"),
        (b'{"rope_scaling": {"factor": NaN}}', "holds NaN, which is not JSON"),
        (b'{"rope_theta": 1.0, "rope_theta": 2.0}', "has the key 'rope_theta' twice"),
        (b'{"rope_scaling": {"factor": 2, "x": 1, "factor": 4}}', "has the key 'factor' twice"),
        (b"\xef\xbb\xbf{}", "starts with a byte order mark; save it as UTF-8 without one"),
        (b'{"a": "\xff"}', "is not UTF-8 at offset 7"),
        ("{}".encode("utf-16"), "is not UTF-8 at offset 0"),
        (b'{"rope_theta": ' + b"9" * 5000 + b"}", "is not usable JSON"),
        (json.dumps(LLAMA).replace("10000.0", "1e999").encode(), "rope_theta: is inf, not a usable number"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "is nested too deeply"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "is nested too deeply"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_texts_that_are_no_config(tmp_path: Path, text: bytes, message: str) -> None:
    """What is no JSON object, or JSON that readers disagree about, is refused with the place."""
    assert message in refusal(tmp_path, text)


def test_a_file_of_200_megabytes_is_not_read(tmp_path: Path) -> None:
    """A config of 200 MB is refused by its size, without being read."""
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(200 << 20)
    start = time.process_time()
    with pytest.raises(InputError, match="209715200 bytes are too many for a config"):
        ropepatch.open(tmp_path)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gptj", "n_embd": 64, "n_head": 2, "rotary_dim": 16, "n_positions": 256},
        {"model_type": "codegen", "n_embd": 64, "n_head": 2, "rotary_dim": 16, "n_positions": 256},
        {"model_type": "roformer", "hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 256},
    ],
    ids=["gptj", "codegen", "roformer"],
)
def test_method_that_the_model_type_ignores(tmp_path: Path, config: dict[str, Any]) -> None:
    """Scaling and base of a class that reads neither would be a silent no-op: both are refused with the reason."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ropepatch.open(tmp_path)
    for method in ("yarn", "ntk"):
        with pytest.raises(InputError, match="nothing in the file reaches the rotation of default"):
            model.patch(method, 4.0)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "jamba", "kimi_linear"])
def test_model_without_rope(tmp_path: Path, kind: str) -> None:
    """A model type without RoPE has nothing to patch, whatever else stands in its config."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": 64, "num_attention_heads": 2}))
    with pytest.raises(NoRope, match=f"model type '{kind}' has no rotary position embedding"):
        _ = ropepatch.open(tmp_path).profile


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mllm__Qwen3-30B-A3B.json", "rope_scaling: is 1.0, not an object"),
        ("nvidia__Nemotron-H-56B-Base-8K.json", "holds Infinity, which is not JSON"),
    ],
)
def test_published_texts_that_are_refused(name: str, message: str) -> None:
    """Published texts with a number as rope_scaling and with a bare Infinity are refused for that reason."""
    from tests.support import params

    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        _ = ropepatch.open(params.corpus(name)).profile
