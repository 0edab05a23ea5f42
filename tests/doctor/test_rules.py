"""Every rule on a checkpoint that breaks it, on one that does not, and mended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ropepatch import runtimes, schemas
from ropepatch.doctor import Finding, doctor, fix, report, rules, subject_of
from ropepatch.doctor.scope import label
from tests.doctor.cases import (
    BESIDE,
    GGUF,
    HF,
    LLAMA,
    PHI,
    PHI_LISTS,
    YARN,
    File,
    llama3_factors,
    scaled,
    write_hf,
    yarn,
)
from tests.support.command import ROOT

PLACES = ("config.json", "model.gguf", "tokenizer_config.json", "params.json", "model.safetensors")
RULES = {rule.code: rule for rule in rules()}


def checkpoint(code: str, folder: Path, *, bad: bool) -> Path:
    """The checkpoint of a case."""
    side = 0 if bad else 1
    if code in BESIDE:
        return BESIDE[code][side](folder)
    if code in HF:
        return write_hf(folder, HF[code][side])
    return GGUF[code][side].write(folder / "model.gguf")


def of(code: str, findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.rule == code]


def test_every_rule_has_its_case() -> None:
    """Who adds a rule adds a checkpoint that breaks it and one that does not."""
    assert set(RULES) == {*HF, *GGUF, *BESIDE}


@pytest.mark.parametrize("code", RULES)
def test_rule_is_broken(code: str, tmp_path: Path) -> None:
    """The finding names a place, the engines of its scope, and what would work; the report validates."""
    path = checkpoint(code, tmp_path, bad=True)
    subject = subject_of(path)
    findings = doctor(path)
    found = of(code, findings)

    assert found, [(one.rule, one.message) for one in findings]
    for one in found:
        assert set(one.runtimes) <= set(subject.scope.specs)
        assert one.where.startswith(PLACES)
        assert one.message
        assert one.fix
        assert "\n" not in one.message
    schemas.validator("doctor").validate(report(subject, findings))


@pytest.mark.parametrize("code", RULES)
def test_rule_is_kept(code: str, tmp_path: Path) -> None:
    """The neighbour without the fault has no such finding."""
    assert not of(code, doctor(checkpoint(code, tmp_path, bad=False)))


@pytest.mark.parametrize(
    ("code", "broken", "members"),
    [
        ("RP302", True, {"attn_factor": 0.8}),
        ("RP302", False, {"attn_factor": 0.8, "attention_factor": 0.9}),
        ("RP302", False, {"attn_factor": 1.0}),
        ("RP303", True, {"mscale": 0.7}),
        ("RP303", True, {"mscale": 0.7, "mscale_all_dim": 0}),
        ("RP303", False, {"mscale": 0.7, "mscale_all_dim": 0.9}),
    ],
)
def test_the_edges_of_a_magnitude(code: str, broken: bool, members: dict[str, float], tmp_path: Path) -> None:
    """A multiplier counts where no final value stands beside it; a pair of which one is 0 is no pair."""
    path = write_hf(tmp_path, scaled({**YARN, **members}))
    assert bool(of(code, doctor(path))) == broken


@pytest.mark.parametrize(("engine", "severity"), [("vllm", "warning"), ("exllamav3", "error")])
def test_a_short_context_is_an_error_where_the_scaling_is_lost(engine: str, severity: str, tmp_path: Path) -> None:
    """Who serves fewer tokens than the scaling reaches has a context to raise; who turns the scaling off is wrong."""
    path = write_hf(tmp_path, scaled(YARN, max_position_embeddings=8192))
    assert [one.severity for one in of("RP201", doctor(path, engine))] == [severity]


def test_phi_3_keeps_its_original_context_at_the_top_alone(tmp_path: Path) -> None:
    """A copy of it in the dict, which transformers 4's class refuses, is found and taken out; the one above stays."""
    lists = {"type": "longrope", **PHI_LISTS, "original_max_position_embeddings": 4096}
    (found,) = of("RP402", doctor(write_hf(tmp_path, scaled(lists, **PHI))))
    assert [(edit.path[-2:], edit.after) for edit in found.edits] == [
        (("rope_scaling", "original_max_position_embeddings"), None)
    ]


@pytest.mark.parametrize("code", [rule.code for rule in RULES.values() if rule.automatic])
def test_rule_is_mended(code: str, tmp_path: Path) -> None:
    """What a rule mends by itself is no longer found, in memory and in the file that is written."""
    (tmp_path / "in").mkdir()
    path = checkpoint(code, tmp_path / "in", bad=True)
    assert all(one.edits for one in of(code, doctor(path)))
    patch, mended = fix(path)
    assert code in {one.rule for one in mended}

    target = tmp_path / ("out.gguf" if path.suffix == ".gguf" else "out")
    patch.write(target)

    concerned = {spec for one in of(code, doctor(path)) for spec in one.runtimes}
    left = {spec for one in of(code, doctor(target)) for spec in one.runtimes}
    assert left < concerned if left else not of(code, doctor(target))
    assert left <= HOPELESS.get(code, set())
    assert not [one for one in doctor(target) if one.edits]


@pytest.mark.parametrize("code", [rule.code for rule in RULES.values() if not rule.automatic])
def test_what_needs_a_choice_is_not_mended(code: str, tmp_path: Path) -> None:
    """A rule that says that it cannot mend has no edits."""
    assert not [one for one in of(code, doctor(checkpoint(code, tmp_path, bad=True))) if one.edits]


#: engines that read neither spelling of a magnitude
HOPELESS = {
    "RP301": {"tgi", "mlx-lm", "exllamav2", "transformers@4.49"},
    "RP304": {"exllamav2", "transformers@4.49", "vllm@0.11", "vllm@0.21", "vllm@0.29"},
}
#: mends that change what transformers 5 computes: it is the one that gets it wrong, or refuses the file
CHANGES = {"RP107", "RP108", "RP124", "RP125", "RP204"}


@pytest.mark.parametrize("code", [code for code in HF if RULES[code].automatic and code not in CHANGES])
def test_mending_keeps_the_meaning(code: str, tmp_path: Path) -> None:
    """After a mend transformers 5 computes what it computed before."""
    path = write_hf(tmp_path / "in", HF[code][0])
    patch, _ = fix(path)
    patch.write(tmp_path / "out")
    before, after = subject_of(path), subject_of(tmp_path / "out")

    for length in (None, before.reach):
        old, new = before.outcome("transformers", length), after.outcome("transformers", length)
        assert isinstance(old, dict)
        assert isinstance(new, dict)
        for name, one in old.items():
            assert list(new[name].inv_freq) == pytest.approx(list(one.inv_freq), rel=1e-12)
            assert new[name].attention_scale == pytest.approx(one.attention_scale, rel=1e-12)


def test_plain_checkpoints_are_healthy(tmp_path: Path) -> None:
    """A llama without scaling has nothing to find, as a folder and as GGUF."""
    assert doctor(write_hf(tmp_path / "plain", {})) == []
    assert doctor(File().write(tmp_path / "plain.gguf")) == []


@pytest.mark.parametrize("code", RULES)
def test_a_rule_explains_itself(code: str) -> None:
    """Each rule has a page that validates: a paragraph of its own, and a fix."""
    from ropepatch.doctor import explain

    document = explain(code)

    schemas.validator("rule").validate(document)
    assert len(document["why"]) > 60
    assert document["why"] != document["title"]


def test_codes_stand_in_the_order_of_their_files() -> None:
    """A rule's first digit says which kind of thing it looks at: spelling 1, contexts 2, …, tensors 7."""
    homes: dict[str, set[str]] = {}
    for rule in RULES.values():
        homes.setdefault(rule.code[2], set()).add(rule.check.__module__.rpartition(".")[2])

    assert homes == {
        "1": {"spelling", "layouts"},
        "2": {"contexts", "any_contexts"},
        "3": {"yarn"},
        "4": {"longrope"},
        "5": {"any_runtimes"},
        "6": {"gguf_keys", "gguf_graph"},
        "7": {"gguf_tensors"},
        "8": {"beside"},
    }


def test_named_engines_are_held_to_it(tmp_path: Path) -> None:
    """What exllamav2 alone refuses is a warning among all engines, and an error where it was asked for."""
    path = write_hf(tmp_path, HF["RP104"][0])

    assert {one.severity for one in of("RP104", doctor(path))} == {"warning"}
    assert {one.severity for one in of("RP104", doctor(path, "exllamav2,vllm"))} == {"error"}
    assert of("RP104", doctor(path, ["vllm"])) == []


def test_superseded_releases_are_information(tmp_path: Path) -> None:
    """What only older releases do is no warning, until one of them is named."""
    path = write_hf(tmp_path, HF["RP503"][0])
    old = [one for one in of("RP503", doctor(path)) if one.runtimes == ("transformers@4.49",)]

    assert [one.severity for one in old] == ["info"]
    assert [one.severity for one in of("RP503", doctor(path, "transformers@4.45"))] == ["warning"]
    assert label("transformers@4.49") == "transformers 4.43-4.49"


def test_every_engine_is_an_error(tmp_path: Path) -> None:
    """Where no current engine is left that reads the file right, it is an error without anybody being named."""
    found = of("RP601", doctor(GGUF["RP601"][0].write(tmp_path / "model.gguf")))

    assert [one.severity for one in found] == ["error"]
    assert found[0].runtimes == ("llama.cpp", "ollama")


def test_unexplained_deviations_are_never_silent(tmp_path: Path) -> None:
    """Every engine that refuses or computes something else is named by some finding, in every case there is."""
    for code, (bad, _) in HF.items():
        path = write_hf(tmp_path / code, bad)
        subject = subject_of(path)
        if subject.profile is None:
            continue
        named = {spec for one in doctor(path) for spec in one.runtimes}
        assert set(subject.deviating()) <= named, code


def test_predictions_are_what_is_reported(tmp_path: Path) -> None:
    """The magnitude in a message is the one that the engine's prediction has."""
    path = write_hf(tmp_path, scaled := {"rope_scaling": {**YARN, "attention_factor": 1.0}})
    found = of("RP301", doctor(path, "mlx-lm"))[0]
    predicted = runtimes.predict("mlx-lm", None, {**LLAMA, **scaled})["default"]

    assert f"attention scale {predicted.attention_scale:.4g} instead of 1" in found.message


@pytest.mark.parametrize(
    "rope",
    [
        {**YARN, "rope_type": ["yarn"]},
        {**YARN, "type": {"name": "yarn"}},
        {**YARN, "factor": "four"},
        {**YARN, "factor": -4.0},
        {**YARN, "attention_factor": 0.0},
        {**YARN, "original_max_position_embeddings": [8192]},
        {"rope_type": "longrope", "short_factor": {}, "long_factor": "no"},
        {"full_attention": None, "sliding_attention": 3},
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_values_of_any_kind(key: str, rope: dict[str, object], tmp_path: Path) -> None:
    """Whatever kind a value is of, there are findings and no crash."""
    path = write_hf(tmp_path, {key: rope})

    schemas.validator("doctor").validate(report(subject_of(path), doctor(path)))


@pytest.mark.parametrize("value", [np.float64("nan"), np.float64("inf"), -1.0, 0.0, 3e38, "text", True])
@pytest.mark.parametrize(
    "name", ["context_length", "rope.freq_base", "rope.scaling.factor", "rope.dimension_count", "rope.scaling.type"]
)
def test_keys_of_any_kind(name: str, value: object, tmp_path: Path) -> None:
    """Whatever stands under a key, there are findings and no crash."""
    path = File(keys={**yarn(), f".{name}": value}, tensors=llama3_factors()).write(tmp_path / "model.gguf")

    assert doctor(path)
    schemas.validator("doctor").validate(report(subject_of(path), doctor(path)))


@pytest.mark.parametrize("format", ["hf", "gguf", "mistral", "safetensors"])
def test_rules_of_a_format_are_all_that_look_at_it(format: str) -> None:
    """What a doctor loads for a format, in a process of its own, is every rule that names the format."""
    program = f"from ropepatch import doctor; print(*[rule.code for rule in doctor.rules({format!r})])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == [code for code, rule in RULES.items() if format in rule.formats]
    assert found.stdout.split()
