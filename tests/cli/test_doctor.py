"""``ropepatch doctor``, ``explain RPnnn``, and what ``apply`` makes of findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropepatch import schemas
from tests.doctor.cases import GGUF, HF, PARAMS_YARN, PHI, PHI_LISTS, File, write_hf, write_params, yarn
from tests.support.command import inside as ropepatch


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A folder as Qwen's model card leaves it: YaRN is on, the declared context is the trained one."""
    return write_hf(tmp_path / "card", HF["RP201"][0])


def test_a_healthy_checkpoint(model: Path) -> None:
    """Nothing found is exit 0, one line, and which engines were asked."""
    ended = ropepatch("doctor", model)

    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{model}: nothing found; held against llama.cpp, ollama\n"


def test_findings_for_people(card: Path) -> None:
    """A finding shows its rule, severity, place, engines and fix; warnings alone are exit 0."""
    ended = ropepatch("doctor", card, env={"COLUMNS": "120"})

    assert ended.code == 0
    assert "RP201" in ended.out
    assert "config.json: max_position_embeddings" in ended.out
    assert "takes 1 for the factor: scaling off" in " ".join(ended.out.split())
    assert "set max_position_embeddings to 32768 (--fix does it)" in ended.out
    assert "1 warning; held against transformers (all releases), vllm (all releases)" in ended.out
    assert f"hint: a mended copy: ropepatch doctor {card} --fix" in ended.err


@pytest.mark.parametrize("option", ["--for", "--runtime"])
def test_errors_are_exit_1(option: str, card: Path) -> None:
    """What an engine that was asked for ignores is an error, and errors are findings."""
    ended = ropepatch("doctor", card, option, "exllamav3", "--json")

    assert ended.code == 1
    assert ended.document["counts"] == {"error": 1, "warning": 0, "info": 0}
    assert ended.document["runtimes"] == ["exllamav3"]
    assert ropepatch("doctor", card, option, "vllm,transformers").code == 0


@pytest.mark.parametrize("code", ["RP107", "RP406", "RP504", "RP602", "RP620", "RP706"])
def test_documents(code: str, tmp_path: Path) -> None:
    """The document validates, for files that cannot be lifted too."""
    path = write_hf(tmp_path / "hf", HF[code][0]) if code in HF else GGUF[code][0].write(tmp_path / "model.gguf")
    ended = ropepatch("doctor", path, "--json")

    assert ended.err == ""
    schemas.validator("doctor").validate(ended.document)
    assert code in {one["rule"] for one in ended.document["findings"]}
    assert (ended.document["unreadable"] is not None) == (code in ("RP504", "RP620"))


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_width(columns: int, tmp_path: Path) -> None:
    """No line of the table or of a rule's page is wider than the terminal."""
    path = write_hf(tmp_path / "phi", {**PHI, "rope_scaling": {"rope_type": "longrope", **PHI_LISTS}})
    width = {"COLUMNS": str(columns)}
    for arguments in (("doctor", path), ("explain", "RP404")):
        shown = ropepatch(*arguments, env=width).out.splitlines()
        assert len(shown) > 5
        assert max(len(line) for line in shown if not line.startswith(str(tmp_path))) <= columns


def test_hostile_texts_do_nothing(hostile: Path, tmp_path: Path) -> None:
    """What a stranger's keys and values say is escaped."""
    rope = {"rope_type": "linear", "factor": 4.0, "\x1b[31mred\nline": "x", "[bold]": 1}
    for path in (hostile, write_hf(tmp_path / "hf", {"rope_scaling": rope})):
        ended = ropepatch("doctor", path, env={"COLUMNS": "200"})
        assert ended.code == 0
        assert "\x1b" not in ended.out
        assert "\\x1b[31mred" in ended.out


def test_fix_writes_a_mended_copy(card: Path, tmp_path: Path) -> None:
    """--fix writes beside the input what apply writes, a manifest with it, and it can be reverted."""
    ended = ropepatch("doctor", card, "--fix", "--json")

    assert ended.code == 0
    schemas.validator("apply").validate(ended.document)
    assert Path(ended.document["output"]) == tmp_path / "card-doctor"
    mended = json.loads((tmp_path / "card-doctor" / "config.json").read_text("utf-8"))
    assert mended["max_position_embeddings"] == 32768
    assert ropepatch("doctor", tmp_path / "card-doctor", "--for", "exllamav3").code == 0
    back = ropepatch("revert", tmp_path / "card-doctor", "-o", tmp_path / "back")
    assert back.code == 0
    assert (tmp_path / "back" / "config.json").read_bytes() == (card / "config.json").read_bytes()


def test_fix_in_place_and_dry(card: Path) -> None:
    """--dry-run shows the edits and writes nothing; --in-place changes the input."""
    before = (card / "config.json").read_bytes()
    dry = ropepatch("doctor", card, "--fix", "--dry-run", "--json")
    schemas.validator("patch").validate(dry.document)
    assert (card / "config.json").read_bytes() == before
    assert list(card.parent.iterdir()) == [card]

    assert ropepatch("doctor", card, "--fix", "--in-place").code == 0
    assert (card / "config.json").read_bytes() != before


def test_fix_of_a_gguf(tmp_path: Path) -> None:
    """Keys of a GGUF are mended as well: one of the wrong type, and a magnitude that counts twice."""
    keys = {**yarn(attn_factor=1.138629436), ".rope.scaling.original_context_length": 64}
    path = File(keys={**keys, ".context_length": 64}).write(tmp_path / "model.gguf")
    ended = ropepatch("doctor", path, "--fix", "-o", tmp_path / "out.gguf", "--json")

    assert ended.code == 0, ended.err
    paths = {edit["path"][0] for edit in ended.document["manifest"]["predicate"]["buildDefinition"]
             ["internalParameters"]["edits"]}  # fmt: skip
    assert paths == {"llama.context_length", "llama.rope.scaling.attn_factor"}
    assert [one["rule"] for one in ended.document["findings"]] == ["RP613"]


def test_nothing_to_fix(tmp_path: Path) -> None:
    """Where every finding needs a choice nothing is written, and the findings are shown."""
    path = write_hf(tmp_path / "in", HF["RP310"][0])
    ended = ropepatch("doctor", path, "--fix")

    assert ended.code == 0
    assert "RP310" in ended.out
    assert "nothing was written" in ended.err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--for", "vlm"], "unknown runtime 'vlm'"),
        (["--for", "llama.cpp"], "none of llama.cpp reads hf"),
        (["--for", ""], "no runtime is named"),
        (["-o", "out"], "--output goes with --fix"),
        (["--in-place"], "--in-place goes with --fix"),
        (["--length", "0"], "less than one token"),
    ],
)
def test_usage(arguments: list[str], said: str, card: Path) -> None:
    """What cannot be meant is a usage error of one line."""
    ended = ropepatch("doctor", card, *arguments)

    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_other_formats(tmp_path: Path) -> None:
    """A format that no rule reads is said to be one."""
    params = {"dim": 128, "n_layers": 2, "n_heads": 4, "multiple_of": 64, "norm_eps": 1e-5, "rope_theta": 1e6}
    (tmp_path / "params.json").write_text(json.dumps(params), encoding="utf-8")
    ended = ropepatch("doctor", tmp_path)

    assert ended.code == 0
    assert "no rule reads this format" in ended.out
    document = ropepatch("doctor", tmp_path, "--json").document
    schemas.validator("doctor").validate(document)
    assert document["format"] is None


def test_a_params_json_has_rules_and_no_mends(tmp_path: Path) -> None:
    """Mistral's own format is looked at; there is nothing in it that could be mended without a choice."""
    path = write_params(tmp_path / "in", PARAMS_YARN, beside=False)
    document = ropepatch("doctor", path, "--json").document
    schemas.validator("doctor").validate(document)
    assert (document["format"], [one["rule"] for one in document["findings"]]) == ("mistral", ["RP802"])
    ended = ropepatch("doctor", path, "--fix", "-o", tmp_path / "out")
    assert "nothing" in ended.out + ended.err
    assert not (tmp_path / "out").exists()


def test_explain_a_rule() -> None:
    """The page of a rule has its paragraph, its fix and where it was discussed; the document validates."""
    page = ropepatch("explain", "rp201")
    assert page.out.startswith("RP201  declared context is less than the scaling reaches")
    assert "huggingface/transformers#38224" in page.out
    document = ropepatch("explain", "RP201", "--json").document
    schemas.validator("rule").validate(document)


def test_explain_an_unknown_rule() -> None:
    """A code that there is not is a usage error with a suggestion."""
    ended = ropepatch("explain", "RP2011")

    assert ended.code == 2
    assert "did you mean 'RP201'?" in ended.err
    assert "RP101 to RP109" in ended.err


@pytest.mark.parametrize("kind", ["model", "folder"])
def test_ordinary_patches_are_written(kind: str, request: pytest.FixtureRequest) -> None:
    """YaRN on a plain llama has no error for anybody, named or not; what is found comes with the output."""
    path: Path = request.getfixturevalue(kind)
    ended = ropepatch("apply", "--method", "yarn", "--factor", 4, path, "--json")

    assert ended.code == 0, ended.err
    schemas.validator("apply").validate(ended.document)
    found = {one["rule"]: one["severity"] for one in ended.document["findings"]}
    assert found == ({"RP613": "info"} if kind == "model" else {"RP503": "warning"} | found)
    assert "error" not in found.values()
    engines = "llama.cpp,ollama" if kind == "model" else "transformers,vllm,sglang,tgi,mlx-lm,exllamav3,exllamav2"
    named = ropepatch("apply", "--method", "yarn", "--factor", 2, path, "--for", engines, "-o", path.parent / "named")
    assert named.code == 0, named.err


def test_apply_refuses_what_a_named_engine_ignores(folder: Path) -> None:
    """Linear scaling for TGI, which takes it and does nothing, is refused in one line, and written with --force."""
    arguments = ("apply", "--method", "linear", "--factor", 4, folder)
    refused = ropepatch(*arguments, "--for", "vllm,tgi")

    assert refused.code == 3
    assert "RP502 engine leaves the scaling off: tgi: scaling off, plain rotation" in refused.err
    assert "--force writes it all the same" in refused.err
    assert refused.err.count("\n") == 1
    assert list(folder.parent.iterdir()) == [folder]
    assert ropepatch(*arguments, "--for", "vllm").code == 0
    forced = ropepatch(*arguments, "--for", "tgi", "--force", "-o", folder.parent / "forced")
    assert forced.code == 0
    assert "error: RP502" in forced.err


def test_apply_warns_without_names(folder: Path) -> None:
    """The same without --for is written, with a warning."""
    ended = ropepatch("apply", "--method", "linear", "--factor", 4, folder)

    assert ended.code == 0
    assert "warning: RP502 tgi: scaling off" in ended.err


def test_a_patch_file_is_examined_too(folder: Path) -> None:
    """A stored patch goes through the same rules, and takes --for and --force."""
    plan = ropepatch("apply", "--method", "linear", "--factor", 4, folder, "--dry-run", "--json").out
    (folder.parent / "patch.json").write_text(plan, encoding="utf-8")
    arguments = ("apply", folder.parent / "patch.json", folder, "--for", "tgi")

    assert ropepatch(*arguments).code == 3
    assert ropepatch(*arguments, "--force").code == 0


def test_what_is_mended_is_not_told_as_left(folder: Path) -> None:
    """After --fix the warnings are those of the copy: the tokenizer's limit, raised in it, is not among them."""
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}', encoding="utf-8")
    assert "RP207" in ropepatch("doctor", folder).out
    ended = ropepatch("doctor", folder, "--fix")

    assert ended.code == 0, ended.err
    assert "note: RP207" in ended.err
    assert "warning: RP207" not in ended.err
