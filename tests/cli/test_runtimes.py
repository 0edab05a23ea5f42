"""The commands that say what runtimes do: freqs, diff, inspect --launch, and apply's last lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ropepatch import schemas
from tests.runtimes.test_recorded import CASES
from tests.support.command import inside as ropepatch


def folder(tmp_path: Path, case: str) -> Path:
    """A folder with one of the recorded configs."""
    path = tmp_path / case
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CASES[case]), encoding="utf-8")
    return path


def validated(document: dict[str, Any], name: str) -> dict[str, Any]:
    schemas.validator(name).validate(document)
    return document


def test_freqs_of_a_runtime(tmp_path: Path) -> None:
    """freqs --runtime prints what that release computes, and what it ignores and replaces."""
    path = folder(tmp_path, "yarn_qwen25_doc")
    ended = ropepatch("freqs", path, "--runtime", "transformers@4.53", "--length", 131072)
    assert ended.code == 0
    assert ended.out.startswith("default: attention scale 1, half layout")
    assert "note: ignores rope_scaling.factor" in ended.err
    assert "note: serves 32,768 tokens unless told otherwise" in ended.err
    document = validated(ropepatch("freqs", path, "--runtime", "vllm@0.33", "--json").document, "freqs")
    assert document["groups"]["default"]["attention_scale"] == pytest.approx(1.1386294)
    assert document["groups"]["default"]["context"] == 32768


def test_groups_of_a_runtime(tmp_path: Path) -> None:
    """The groups are the runtime's, also of a file that only the runtime understands; its layout is unknown then."""
    path = folder(tmp_path, "ntk_type")
    document = validated(ropepatch("freqs", path, "--runtime", "vllm", "--json").document, "freqs")
    assert document["groups"]["default"]["layout"] is None
    gemma = tmp_path / "gemma"
    gemma.mkdir()
    config = {
        "model_type": "gemma3_text", "hidden_size": 64, "head_dim": 64, "num_attention_heads": 1,
        "num_hidden_layers": 6, "max_position_embeddings": 32768, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    }  # fmt: skip
    (gemma / "config.json").write_text(json.dumps(config), encoding="utf-8")
    document = validated(ropepatch("freqs", gemma, "--runtime", "vllm", "--json").document, "freqs")
    assert set(document["groups"]) == {"full_attention", "sliding_attention"}


@pytest.mark.parametrize(
    ("case", "runtime", "code", "says"),
    [
        ("linear_int4", "vllm@0.33", 3, "stops with a TypeError: factor 4 is a whole number in the file; write 4.0"),
        ("linear_int4", "llama.cpp", 3, "llama.cpp does not read this format; it takes a GGUF file"),
        ("linear_int4", "vlm", 2, "unknown runtime 'vlm'; known: transformers, vllm"),
        ("linear_int4", "vllm@0.1", 2, "older than what is known"),
    ],
)
def test_freqs_of_a_runtime_that_has_none(case: str, runtime: str, code: int, says: str, tmp_path: Path) -> None:
    """A refusal is exit 3 and one line with its reason, an unknown runtime is a usage error."""
    path = folder(tmp_path, case)
    ended = ropepatch("freqs", path, "--runtime", runtime)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert len(ended.err.splitlines()) == 1
    assert ropepatch("freqs", path, "--runtime", runtime, "--json").error["exit_code"] == code


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("case", ["yarn_mrope_mscale", "longrope_attn1", "linear_int4", "proportional_.25_f8"])
def test_the_matrix_fits_the_width(case: str, columns: int, tmp_path: Path) -> None:
    """freqs --all-runtimes has a row for each span of releases and stays within the terminal."""
    ended = ropepatch("freqs", folder(tmp_path, case), "--all-runtimes", env={"COLUMNS": str(columns)})
    assert ended.code == 0
    table = ended.out.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= columns
    assert sum(line.startswith("vllm") for line in table) == 4
    assert "inf" not in ended.out


def test_the_matrix_in_words(tmp_path: Path) -> None:
    """A row says same, or the ratio and its pair, the attention scale, the keys ignored, or why it is refused."""
    wide = {"COLUMNS": "200"}
    out = ropepatch("freqs", folder(tmp_path, "yarn_qwen25_doc"), "--all-runtimes", env=wide).out
    assert "×4 at pair 40, A=1 instead of 1.1386; ignores rope_scaling.factor" in out
    out = ropepatch("freqs", folder(tmp_path, "longrope_top_orig"), "--all-runtimes", env=wide).out
    assert "refuses: wants 'type': 'longrope' here, not None" in out
    assert "short: ×19.94 at pair 63; at 131,072: same" in out


def test_the_matrix_as_a_document(tmp_path: Path) -> None:
    """freqs --all-runtimes and diff of one checkpoint print the same document; diff tells by its exit code."""
    path = folder(tmp_path, "yarn_qwen25_doc")
    first = validated(ropepatch("freqs", path, "--all-runtimes", "--json").document, "runtimes")
    ended = ropepatch("diff", path, "--json")
    assert ended.code == 1
    assert ended.document == first
    plain = ropepatch("diff", folder(tmp_path, "default_theta1e4"))
    assert plain.code == 0
    assert "computes the same" in plain.out


@pytest.mark.parametrize(
    "arguments", [("--all-runtimes", "--plot"), ("--all-runtimes", "--runtime", "vllm"), ("--plot", "--json")]
)
def test_options_that_exclude_each_other(arguments: tuple[str, ...], model: Path) -> None:
    """What cannot go together is a usage error."""
    assert ropepatch("freqs", model, *arguments).code == 2


@pytest.mark.parametrize("columns", [80, 120])
def test_diff_under_two_runtimes(columns: int, tmp_path: Path) -> None:
    """diff shows who reads each side, the frequencies with the distance of π/8, and why they differ."""
    path = folder(tmp_path, "yarn_qwen25_doc")
    arguments = ("diff", path, "--runtime-a", "transformers", "--runtime-b", "transformers@4.53")
    ended = ropepatch(*arguments, env={"COLUMNS": str(columns)})
    assert ended.code == 1
    table, _, sentence = ended.out.partition("They differ")
    assert max(len(line) for line in table.splitlines() if str(tmp_path) not in line) <= columns
    assert "751 tokens" in ended.out
    assert "Why:\n* transformers 5.23 computes what the file says\n" in sentence
    document = validated(ropepatch(*arguments, "--json").document, "diff")
    assert document["runtimes"]["b"]["ignored"] == ["rope_scaling.factor"]
    assert document["groups"][0]["frequencies"][0]["distance"] == pytest.approx(751, abs=1)
    same = ropepatch("diff", folder(tmp_path, "llama3_8"), "--runtime-a", "vllm", "--runtime-b", "sglang")
    assert same.code == 0


def test_diff_with_a_runtime_that_refuses(tmp_path: Path) -> None:
    """A refusal is a difference, not an error: exit 1 and the reason."""
    path = folder(tmp_path, "linear_int4")
    ended = ropepatch("diff", path, "--runtime-a", "vllm", "--runtime-b", "transformers")
    assert (ended.code, ended.err) == (1, f"hint: what would work: ropepatch doctor {path} --for vllm\n")
    assert "vllm 0.33 does not run it: it stops with a TypeError" in ended.out
    document = ropepatch("diff", path, "--runtime-b", "vllm", "--json").document
    assert validated(document, "diff")["runtimes"]["a"] is None


def test_launch_lines(tmp_path: Path, model: Path) -> None:
    """inspect --launch prints a command with its context and what must not be used, or why there is none."""
    ropepatch("apply", "--method", "yarn", "--factor", 4, model)
    patched = model.with_name("model-yarn-4x.gguf")
    out = ropepatch("inspect", patched.name, "--launch", cwd=model.parent).out
    assert "llama.cpp: for 8,192 tokens\n    llama-server -m model-yarn-4x.gguf -c 8192 --no-context-shift\n" in out
    assert "  not: --context-shift, --cache-reuse" in out
    assert "    PARAMETER num_ctx 8192\n" in out
    document = validated(ropepatch("inspect", patched, "--launch", "--length", 4096, "--json").document, "rope-profile")
    assert [item["length"] for item in document["launch"]] == [4096, 4096]
    assert "launch" not in ropepatch("inspect", patched, "--json").document
    assert ropepatch("inspect", patched, "--length", 4096).code == 2
    out = ropepatch("inspect", folder(tmp_path, "linear_int4"), "--launch").out
    assert "vllm: no line: it refuses: vllm 0.33 stops with a TypeError" in out
    assert "tgi: no line: tgi loads it as plain RoPE of base 10000 and ignores rope_scaling.factor" in out


def test_launch_lines_after_apply(tmp_path: Path, model: Path) -> None:
    """apply ends with how to start what it wrote: commands for a folder, everything for a GGUF, all of it in JSON."""
    path = folder(tmp_path, "default_theta1e4")
    out = ropepatch("apply", "--method", "yarn", "--factor", 4, path).out
    assert f"vllm          vllm serve {path}-yarn-4x --max-model-len 16384\n" in out
    assert "programs for transformers, exllamav3, exllamav2" in out
    assert "-c 4096 --no-context-shift" in ropepatch("apply", "--method", "yarn", "--factor", 2, model).out
    linear = validated(ropepatch("apply", "--method", "linear", "--factor", 2, path, "--json").document, "apply")
    lines = {item["runtime"]: item for item in linear["launch"]}
    assert lines["tgi"]["text"] is None
    assert "plain RoPE" in lines["tgi"]["ignored"]
    assert lines["vllm"]["text"].endswith(f"--max-model-len {lines['vllm']['length']}")
