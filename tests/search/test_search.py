"""Searches on the trained fixture: scores, journal, what is written, and what the engines make of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import ropepatch
from ropepatch import schemas
from ropepatch.audit import tasks
from ropepatch.audit.torch_engine import Model
from ropepatch.errors import InputError, UsageError, WouldOverwrite
from ropepatch.search import needles, objective, run
from ropepatch.search.result import Search
from ropepatch.search.space import closed_form
from tests.support.command import ROOT
from tests.support.command import ropepatch as command

FIXTURE = ROOT / "fixtures" / "tiny-retriever"
LETTERS = "bos=0,filler=1-40,key=41-72,value=73-136"
SMALL: dict[str, Any] = {"alphabet": LETTERS, "budget": 12, "samples": 4, "held_out": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, Path]:
    """A search that is long enough to find something, and the folder with its files."""
    folder = tmp_path_factory.mktemp("search")
    result = ropepatch.search(
        FIXTURE, 4, **{**SMALL, "budget": 20, "samples": 8, "held_out": 4}, space="longrope2", short="search",
        output=folder / "factors.json", journal=folder / "journal.jsonl",
    )  # fmt: skip
    return result, folder


def cells(result: Search, length: int) -> dict[str, dict[str, Any]]:
    """The held-out measurement at a length, by variant."""
    assert result.held_out is not None
    return {cell["variant"]: cell for cell in result.held_out["cells"] if cell["length"] == length}


@pytest.mark.parametrize("texts", [1, 5])
@pytest.mark.parametrize("length", [256, 700])
def test_scores_are_the_plain_decoders(length: int, texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several candidates in a pass score as each alone does on the plain decoder, in chunks or at once."""
    monkeypatch.setattr("ropepatch.search.decoder.CHUNK", 300)
    model = ropepatch.open(FIXTURE)
    pools, _ = needles.divided(tasks.Alphabet.parse(LETTERS, 137))
    tokens = needles.draw(pools, length, texts, 3)
    spectrum = model.profile.groups["default"].spectrum()
    lists = [closed_form(name, spectrum, 256, 4) for name in ("none", "linear", "yarn")]
    evaluator = objective.Evaluator(str(FIXTURE), "cpu", "float32")
    for kind in objective.OBJECTIVES:
        task = objective.Task(kind, tokens, model.profile, "default", spectrum.inv_freq, 1.1386294361119891)
        plain = []
        for name in ("none", "linear", "yarn"):
            profile = model.patch("yarn", 4).after if name == "yarn" else _scaled(model, name)
            plain_model = Model(model, "cpu", torch.float32)
            decoder = plain_model.decoder(plain_model.ropes(profile, None))
            with torch.inference_mode():
                states, _ = decoder.states(torch.from_numpy(tokens), torch.arange(length))
                numbers = decoder.log_probabilities(states[:, :-1])
            said = numbers.gather(-1, torch.from_numpy(tokens[:, 1:])[..., None])[..., 0]
            plain.append(float(said[:, -3:].sum(-1).mean() if kind == "needle" else said.mean()))
        np.testing.assert_allclose(evaluator.scores(task, lists), plain, rtol=2e-5, atol=1e-6)
        assert len({round(score, 2) for score in plain}) > 1


def _scaled(model: ropepatch.Checkpoint, name: str) -> ropepatch.RopeProfile:
    """The profile with a method's factors and YaRN's magnitude."""
    from ropepatch.methods.factors import Factors
    from ropepatch.search.heldout import scaled

    factors = tuple(closed_form(name, model.profile.groups["default"].spectrum(), 256, 4))
    return scaled(model.profile, "default", Factors(factors, attention_factor=1.1386294361119891), 1024)


def test_it_finds_better_factors(found: tuple[Search, Path]) -> None:
    """On other texts at least as good as the best start; held out at least YaRN at 4x, and nothing lost at T."""
    result, _ = found
    far, near = cells(result, 1024), cells(result, 256)

    long = result.results["long"]
    assert long.best[1] > max(long.starts.values())
    assert result.long_factor == max(result.finals["long"], key=lambda pair: pair[1])[0].factors
    assert far["searched"]["k"] >= far["yarn 4x"]["k"]
    assert far["searched"]["k"] >= 0.9 * far["searched"]["n"]
    assert far["none"]["k"] <= 0.6 * far["none"]["n"]
    assert near["searched"]["k"] == near["none"]["k"] == near["none"]["n"]


def test_the_result_is_a_document(found: tuple[Search, Path]) -> None:
    """It validates, what is written is what is returned, and every candidate has a line in the journal."""
    result, folder = found
    document = json.loads((folder / "factors.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text("utf-8").splitlines()]

    schemas.validator("search").validate(document)
    assert document == json.loads(json.dumps(result.to_json()))
    stages = [line["stage"] for line in lines[1:]]
    assert stages[:28] == ["long"] * 20 + ["long, final"] * 8
    assert stages.count("short") == 20
    assert max(line["score"] for line in lines[1:21]) == result.results["long"].best[1]


def test_training_and_held_out_needles_have_nothing_in_common() -> None:
    """No key and no value of the training needles is among the held-out ones."""
    pools, rest = needles.divided(tasks.Alphabet.parse(LETTERS, 137))
    tokens = needles.draw(pools, 400, 6, 1)

    assert not set(pools.key) & set(rest.key)
    assert not set(pools.value) & set(rest.value)
    assert not (set(rest.key) | set(rest.value)) & set(np.unique(tokens).tolist())
    assert (tokens[:, 1:5] == tokens[:, -4:]).all(-1).tolist() == [True, False] * 3


def test_resume_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that was interrupted and resumed finds what an uninterrupted one does, and scores no one twice."""
    whole = ropepatch.search(FIXTURE, 4, **SMALL, short="ones")
    scored: list[int] = []
    plain = objective.Evaluator.scores

    def counted(self: objective.Evaluator, task: objective.Task, factors: Any) -> list[float]:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(factors))
        return plain(self, task, factors)

    monkeypatch.setattr(objective.Evaluator, "scores", counted)
    output, journal = tmp_path / "factors.json", tmp_path / "journal.jsonl"
    broken = ropepatch.search(FIXTURE, 4, **SMALL, short="ones", output=output, journal=journal)
    assert broken.interrupted
    assert not output.exists()
    with open(journal, "a", encoding="utf-8") as file:
        file.write('{"stage": "long", "factors": [1.0')  # the line that was being written
    monkeypatch.setattr(objective.Evaluator, "scores", plain)
    again: list[int] = []

    def watched(self: objective.Evaluator, task: objective.Task, factors: Any) -> list[float]:
        again.append(len(factors))
        return plain(self, task, factors)

    monkeypatch.setattr(objective.Evaluator, "scores", watched)
    resumed = ropepatch.search(FIXTURE, 4, **SMALL, short="ones", output=output, journal=journal, resume=True)
    assert sum(scored) + sum(again) == 12 + 8
    assert resumed.results["long"].tried == whole.results["long"].tried
    assert (resumed.long_factor, resumed.short_factor) == (whole.long_factor, (1.0,) * 16)
    with pytest.raises(WouldOverwrite):
        ropepatch.search(FIXTURE, 4, **SMALL, short="ones", journal=journal)
    with pytest.raises(InputError, match=r"another search.*seed"):
        ropepatch.search(FIXTURE, 4, **SMALL, short="ones", seed=2, journal=journal, resume=True)


def test_perplexity_of_a_text(tmp_path: Path) -> None:
    """With words and a tokenizer: what is reported is the plain decoder's perplexity on the text's other half."""
    pytest.importorskip("tokenizers")
    tokens = np.random.default_rng(5).integers(1, 137, 1200)
    letters = (("f", 1, 40), ("k", 41, 32), ("v", 73, 64))
    named = {first + i: f"{letter}{i:02d}" for letter, first, count in letters for i in range(count)}
    text = tmp_path / "text.txt"
    text.write_text(" ".join(named[int(token)] for token in tokens), encoding="utf-8")
    (tmp_path / "ids.json").write_text(json.dumps(tokens.tolist()), encoding="utf-8")
    small = {name: value for name, value in SMALL.items() if name != "alphabet"}
    result = ropepatch.search(FIXTURE, 2, **small, objective="ppl", text=text, short="ones")
    other = tokens[599:]  # the tokenizer adds <s> in front: 1,201 tokens, the second half begins at the 601st
    model = ropepatch.open(FIXTURE)
    decoder = Model(model, "cpu", torch.float32).first
    with torch.inference_mode():
        windows = torch.from_numpy(np.stack([other[:256], other[-256:]]))
        numbers = decoder.log_probabilities(decoder.states(windows, torch.arange(256))[0][:, :-1])
    mean = numbers.gather(-1, windows[:, 1:, None]).mean()
    assert cells(result, 256)["none"]["perplexity"] == pytest.approx(float(torch.exp(-mean)), rel=2e-4)
    schemas.validator("search").validate(json.loads(json.dumps(result.to_json())))
    planned = ropepatch.search(FIXTURE, 2, **small, objective="ppl", text=tmp_path / "ids.json", dry_run=True)
    assert planned.stages[0].budget == 12
    with pytest.raises(InputError, match="two windows of 1024"):
        ropepatch.search(FIXTURE, 4, **small, objective="ppl", text=tmp_path / "ids.json")
    with pytest.raises(UsageError, match=r"--tokenizer"):
        ropepatch.search(ROOT / "fixtures" / "tiny-retriever.gguf", 2, objective="ppl", text=text)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"space": "wide"}, "no space 'wide'"), ({"objective": "loss"}, "no objective"), ({"factor": 1.0}, "above 1"),
     ({"factor": None}, "--factor or --length"), ({"init": ["dynamic"]}, "no one list"), ({"init": ["x"]}, "unknown"),
     ({"objective": "ppl"}, "needs a text"), ({"attention": "big"}, "attention factor"), ({"short": "no"}, "short"),
     ({"executor": "cloud"}, "no executor"), ({"alphabet": "filler=1-40,key=41-52,value=73-136"}, "13 keys")],
)  # fmt: skip
def test_what_cannot_be_searched(options: dict[str, Any], told: str) -> None:
    """What cannot be used is a usage error that says what could."""
    with pytest.raises(UsageError, match=told):
        ropepatch.search(FIXTURE, **{"factor": 4, **SMALL, **options})


def test_scaled_checkpoints_start_from_their_original(tmp_path: Path) -> None:
    """A checkpoint that is scaled already is searched as it was before."""
    ropepatch.open(FIXTURE).patch("yarn", 2).write(tmp_path / "yarn")
    one, other = (ropepatch.search(ref, 4, **SMALL, dry_run=True) for ref in (FIXTURE, tmp_path / "yarn"))

    assert (one.trained, one.length) == (other.trained, other.length) == (256, 1024)


def test_the_command(tmp_path: Path) -> None:
    """Plan, search, refusal to overwrite, and --json, as a user runs them."""
    options = ("--factor", 4, "--alphabet", LETTERS, "--budget", 4, "--samples", 2, "--held-out", 1, "--short", "same")
    planned = command("search", FIXTURE, *options, "--dry-run", cwd=tmp_path)
    assert planned.code == 0, planned.err
    assert "LongRoPE, arXiv 2402.13753" in planned.out
    assert list(tmp_path.iterdir()) == []
    done = command("search", FIXTURE, *options, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    schemas.validator("search").validate(done.document)
    assert done.document["short_factor"] == done.document["long_factor"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["factors.journal.jsonl", "factors.json"]
    assert command("search", FIXTURE, *options, cwd=tmp_path).code == 5
    assert run.EXECUTORS == ("local", "ray")


def test_a_score_without_sense_is_the_worst() -> None:
    """Factors at which a model's numbers leave the range of floats never win: every measured score is above."""
    for nothing in (math.nan, math.inf, -math.inf):
        assert objective._rounded(nothing) < objective._rounded(-1e6) < objective._rounded(-0.5)
