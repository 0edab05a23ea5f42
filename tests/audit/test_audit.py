"""The audit on the trained fixture: what it finds, what it keeps, and what it says when it cannot measure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import ropepatch
from ropepatch import schemas
from ropepatch.audit import tasks, torch_engine
from ropepatch.audit.result import Audit
from ropepatch.audit.torch_engine import Model
from ropepatch.errors import InputError, UsageError, WouldOverwrite
from ropepatch.frequencies import profile_frequencies
from tests.support.command import ROOT
from tests.support.command import ropepatch as command

FIXTURE = ROOT / "fixtures" / "tiny-retriever"
LETTERS = "bos=0,filler=1-40,key=41-72,value=73-136"
SMALL: dict[str, Any] = {
    "alphabet": LETTERS, "samples": 4, "depths": (0.0, 0.5, 0.9), "device": "cpu", "task": ("passkey",),
}  # fmt: skip


def scores(result: Audit, length: int, task: str = "passkey") -> dict[str, float | None]:
    """The score of each variant at a length."""
    return {variant: result.score(variant, task, length) for variant in result.variants}


@pytest.fixture(scope="module")
def four_times() -> Audit:
    """The fixture at its length and at four times of it, unpatched and with three methods."""
    return ropepatch.audit(
        FIXTURE, methods=("linear", "ntk", "yarn"), factor=4, lengths=(256, 1024), samples=16,
        depths=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9), alphabet=LETTERS, device="cpu", task=("passkey",),
    )  # fmt: skip


def test_the_fixture_does_what_its_readme_says(four_times: Audit) -> None:
    """It answers at its length; at four times of it only with NTK or YaRN. PI fails inside the length as well."""
    short, far = (scores(four_times, length) for length in (256, 1024))

    assert short["none"] >= 0.97
    assert short["yarn 4x"] >= 0.97
    assert short["linear 4x"] <= 0.35
    assert far["none"] <= 0.35
    assert far["linear 4x"] <= 0.35
    assert far["yarn 4x"] >= 0.80
    assert far["yarn 4x"] - far["linear 4x"] >= 0.5


def test_summaries_follow(four_times: Audit) -> None:
    """Effective lengths, the weakest depth and the price in short texts are of those cells."""
    by_variant = {name: four_times.summary(name, "passkey") for name in four_times.variants}

    assert by_variant["yarn 4x"]["effective_length_relative"] == 1024
    assert by_variant["yarn 4x"]["effective_length_ruler"] == 1024
    assert by_variant["none"]["effective_length_ruler"] == 256
    assert by_variant["none"]["weakest_depth"]["1024"] == 0.0
    assert by_variant["linear 4x"]["effective_length_relative"] is None
    assert by_variant["linear 4x"]["paired_short"]["difference"] < -0.5
    assert by_variant["linear 4x"]["paired_short"]["n"] == 96
    schemas.validator("audit").validate(json.loads(json.dumps(four_times.to_json())))


def test_greedy_decoding_gives_the_same_cells() -> None:
    """Exact match with the true tokens put in is exact match of greedy decoding: transformers generates the same."""
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    letters = tasks.Alphabet.parse(LETTERS, 137)
    model = Model(ropepatch.open(FIXTURE), "cpu", torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(FIXTURE)
    seen = set()
    for task in ("passkey", "multikey"):
        for texts in tasks.texts(letters, task, 400, (0.0, 0.4, 0.9), 4, 7):
            for depth, answers in model.answers(model.ropes(model.checkpoint.profile, 400), texts, 3).items():
                prompt = torch.from_numpy(texts.at(depth)[:, : -tasks.ANSWER])
                mask = torch.ones_like(prompt)
                said = theirs.generate(prompt, attention_mask=mask, max_new_tokens=3, do_sample=False)
                right = (said[:, -3:].numpy() == texts.blocks[depth][:, 1:]).all(-1)
                assert list(answers.hits) == right.tolist()
                seen |= set(right.tolist())
    assert seen == {True, False}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt in small chunks gives the log-probabilities of a prompt in one."""
    letters = tasks.Alphabet.parse(LETTERS, 137)
    (texts,) = tasks.texts(letters, "passkey", 700, (0.1, 0.8), 2, 3)
    model = Model(ropepatch.open(FIXTURE), "cpu", torch.float32)
    ropes = model.ropes(model.checkpoint.profile, 700)
    whole = model.answers(ropes, texts, 2)
    monkeypatch.setitem(torch_engine.CHUNK, "cpu", 33)
    parts = model.answers(ropes, texts, 2)

    for depth in whole:
        a, b = (np.array(found[depth].log_probabilities) for found in (parts, whole))
        np.testing.assert_allclose(a, b, rtol=1e-5)  # 1e-7 as measured
    assert min(whole[0.1].log_probabilities) < -1, "an answer that is certain says the same whatever is computed"


def test_methods_are_tried_without_writing(tmp_path: Path) -> None:
    """A variant rotates as the written checkpoint would."""
    from ropepatch.audit.variants import resolve

    model = ropepatch.open(FIXTURE)
    model.patch("yarn", 4).write(tmp_path / "yarn")
    tried = resolve(model, methods=["yarn"], factors=[4])[1]
    written = ropepatch.open(tmp_path / "yarn").profile

    a, b = (profile_frequencies(profile)["default"].inv_freq for profile in (tried.profile, written))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    assert [v.name for v in resolve(ropepatch.open(tmp_path / "yarn"))] == ["none", "as it is"]


@pytest.mark.parametrize("form", ["tiny-retriever.gguf", "tiny-retriever-Q8_0.gguf"])
def test_gguf_gives_the_same_cells(form: str) -> None:
    """The GGUF files of the fixture find what the folder finds."""
    folder, file = (
        ropepatch.audit(ROOT / "fixtures" / name, lengths=(256,), **SMALL) for name in ("tiny-retriever", form)
    )

    assert [cell["hits"] for cell in file.cells] == [cell["hits"] for cell in folder.cells]


def test_controls() -> None:
    """Among distractors it still answers; where the block is absent nothing is retrieved, and no length is claimed."""
    result = ropepatch.audit(FIXTURE, lengths=(256,), **{**SMALL, "task": ("needle", "multikey", "absent")})

    assert scores(result, 256, "needle")["none"] >= 0.9
    assert scores(result, 256, "multikey")["none"] >= 0.8
    assert scores(result, 256, "absent")["none"] == 0
    assert result.summary("none", "absent")["measurable"] is False


def test_a_model_that_cannot_do_the_task_is_not_measurable() -> None:
    """Random weights find nothing within their own context: no effective length, and the reason."""
    result = ropepatch.audit(ROOT / "fixtures" / "tiny-llama", lengths=(64,), samples=2, depths=(0.5,), device="cpu")
    found = result.summary("none", "passkey")

    assert found["measurable"] is False
    assert "cannot do the task" in found["why"]
    assert found["effective_length_ruler"] is None


def test_several_variants_and_a_base(tmp_path: Path) -> None:
    """Methods by factors, single variants with parameters, and a written checkpoint stand beside the given base."""
    model = ropepatch.open(FIXTURE)
    model.patch("yarn", 4).write(tmp_path / "yarn")
    result = ropepatch.audit(
        tmp_path / "yarn", base=FIXTURE, methods=("linear", "ntk"), factor=(2, 4), variant=("yarn:4:beta_fast=16",),
        lengths=(128, 256), **{**SMALL, "depths": (0.5,)},
    )  # fmt: skip

    assert result.variants == (
        "base", "as it is", "linear 2x", "linear 4x", "ntk 2x", "ntk 4x", "yarn 4x beta_fast=16",
    )  # fmt: skip
    assert result.baseline == "base"
    assert result.summary("as it is", "passkey")["paired_short"]["n"] == 8
    assert scores(result, 256)["linear 4x"] == 0
    schemas.validator("audit").validate(json.loads(json.dumps(result.to_json())))


def test_texts_pose_what_they_say() -> None:
    """Each question's block is in the text once and where its depth says, but for the control, where it is not."""
    letters = tasks.Alphabet.parse(LETTERS, 137)
    depths = (0.0, 0.3, 0.5, 0.7, 1.0)
    for task in tasks.TASKS:
        for texts in tasks.texts(letters, task, 160, depths, 3, 5):
            for depth, block in texts.blocks.items():
                for row, asked in zip(texts.at(depth)[:, : -tasks.BLOCK].tolist(), block.tolist(), strict=True):
                    found = [at for at in range(len(row)) if row[at : at + tasks.BLOCK] == asked]
                    assert found == ([] if task == "absent" else [tasks.start_of(depth, 160)])
                    assert task != "absent" or asked[0] not in row
                    keys = sum(token in letters.key for token in row)
                    assert keys == tasks.DISTRACTORS[task] + (task != "absent")


def test_objective_follows_the_frequencies() -> None:
    """Frequencies in, answers out: those of YaRN find at four times the context what the model's own do not."""
    from ropepatch.audit.objective import Objective

    model = ropepatch.open(FIXTURE)
    objective = Objective(model, 1024, depths=(0.1, 0.4), samples=3, alphabet=LETTERS, device="cpu")
    own, yarn = (profile_frequencies(profile, 1024) for profile in (model.profile, model.patch("yarn", 4).after))

    assert [sum(answers.hits) for answers in objective(own).values()] == [0, 0]
    assert [sum(answers.hits) for answers in objective(yarn).values()] == [3, 3]
    assert objective.mean_log_probability(yarn) > -1 > objective.mean_log_probability(own)


# ---- nothing is lost ------------------------------------------------------------------------------------------------


def test_journal_resumes(tmp_path: Path) -> None:
    """Cells in a journal are not measured again, a torn last line is, and another audit's journal is refused."""
    journal = tmp_path / "cells.jsonl"
    first = ropepatch.audit(FIXTURE, lengths=(256,), journal=journal, **SMALL)
    lines = journal.read_text().splitlines(keepends=True)
    marked = json.loads(lines[1])
    marked["log_probability"] = -123.0
    journal.write_text(lines[0] + json.dumps(marked) + "\n" + lines[2] + lines[3][:40])

    with pytest.raises(WouldOverwrite, match="--resume"):
        ropepatch.audit(FIXTURE, lengths=(256,), journal=journal, **SMALL)
    again = ropepatch.audit(FIXTURE, lengths=(256,), journal=journal, resume=True, **SMALL)

    assert [cell["log_probability"] == -123.0 for cell in again.cells].count(True) == 1
    assert [cell["k"] for cell in again.cells] == [cell["k"] for cell in first.cells]
    assert len(journal.read_text().splitlines()) == 4
    with pytest.raises(InputError, match="another audit"):
        ropepatch.audit(FIXTURE, lengths=(256,), journal=journal, resume=True, **{**SMALL, "samples": 5})


def test_cells_that_cannot_fit_are_said_so() -> None:
    """A limit that holds the short cells only leaves the long ones as such, before they are tried."""
    model = Model(ropepatch.open(FIXTURE), "cpu", torch.float32)
    limit = model.estimate(256, 1)["total"] + 1000
    result = ropepatch.audit(FIXTURE, lengths=(256, 8192), limit=limit, **SMALL)

    assert {cell["length"]: cell["status"] for cell in result.cells} == {256: "measured", 8192: "does not fit"}
    schemas.validator("audit").validate(json.loads(json.dumps(result.to_json())))


_CAPPED = """
import resource, sys, json
import torch
torch.set_num_threads(1)
import ropepatch
from ropepatch.audit import torch_engine
torch_engine.CHUNK["cpu"] = 1 << 20  # a text at once
ropepatch.audit(sys.argv[1], lengths=(256,), samples=2, depths=(0.5,), alphabet=sys.argv[2], device="cpu",
                task=["passkey"])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
result = ropepatch.audit(sys.argv[1], lengths=(256, 512, 600000), samples=2, depths=(0.0, 0.5), alphabet=sys.argv[2],
                         device="cpu", limit=1 << 40, task=["passkey"])
print(json.dumps([(cell["length"], cell["status"]) for cell in result.cells]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="caps the address space of a process")
def test_out_of_memory_leaves_everything_else() -> None:
    """A process that may not take the memory of a long cell records that, and has all the others."""
    done = subprocess.run(
        [sys.executable, "-c", _CAPPED, str(FIXTURE), LETTERS],
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    statuses = [tuple(pair) for pair in json.loads(done.stdout)]
    assert statuses.count((256, "measured")) == 2
    assert statuses.count((512, "measured")) == 2
    assert statuses.count((600000, "out of memory")) == 2


LONG = (
    "audit", FIXTURE, "--method", "ntk,yarn", "--factor", "4", "--lengths", "256,512,1024,4096", "--samples", "4",
    "--depths", "0.1,0.5", "--alphabet", LETTERS, "--device", "cpu", "--task", "passkey", "--json",
)  # fmt: skip


def ended_in_the_middle(journal: Path, how: int) -> tuple[int, str]:
    """A run that got a signal as soon as its journal had a few cells: exit code and standard output."""
    arguments = [sys.executable, "-m", "ropepatch", *map(str, LONG), "--journal", str(journal)]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings
    ) as run:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and run.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
                run.send_signal(how)
                break
            time.sleep(0.01)
        out, _ = run.communicate(timeout=120)
    return run.returncode, out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals to a process")
def test_ctrl_c_shows_what_there_is_and_resume_ends_it(tmp_path: Path) -> None:
    """Ctrl-C prints the cells so far and exits with 130; --resume measures the others, and the whole is as ever."""
    whole = command(*LONG).document
    code, out = ended_in_the_middle(tmp_path / "cells.jsonl", signal.SIGINT)
    stopped = json.loads(out)

    assert code == 130
    assert stopped["interrupted"]
    assert 3 <= len(stopped["cells"]) < len(whole["cells"]) == 24
    schemas.validator("audit").validate(stopped)
    resumed = command(*LONG, "--journal", tmp_path / "cells.jsonl", "--resume").document
    assert told(resumed) == told(whole)
    assert resumed["cells"][: len(stopped["cells"])] == stopped["cells"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals to a process")
def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    """After kill -9 the cells of the journal are not measured again, and the whole is the same as of one run."""
    journal = tmp_path / "cells.jsonl"
    code, _ = ended_in_the_middle(journal, signal.SIGKILL)
    kept = [json.loads(line) for line in journal.read_text().splitlines()[1:4]]
    resumed = command(*LONG, "--journal", journal, "--resume").document

    assert code == -signal.SIGKILL
    assert not resumed["interrupted"]
    assert len(resumed["cells"]) == 24
    assert all(cell in resumed["cells"] for cell in kept)


def told(document: Any) -> list[tuple[Any, ...]]:
    """What cells say, without how long they took."""
    return [(c["variant"], c["task"], c["length"], c["depth"], c["hits"]) for c in document["cells"]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", ["torch", "transformers"])
def test_cuda(engine: str) -> None:
    """On a CUDA device, in chunks behind shared prefixes, cells are those of the CPU."""
    asked = {**SMALL, "task": ("passkey", "multikey"), "methods": ("yarn",), "factor": 4, "lengths": (256, 4096)}
    here, there = (ropepatch.audit(FIXTURE, engine=engine, **{**asked, "device": name}) for name in ("cpu", "cuda"))

    assert there.environment["device"] == "cuda"
    for mine, theirs in zip(there.cells, here.cells, strict=True):
        assert mine["status"] == "measured", mine
        assert abs(mine["log_probability"] - theirs["log_probability"]) < 0.05
    same = [mine["hits"] == theirs["hits"] for mine, theirs in zip(there.cells, here.cells, strict=True)]
    assert sum(same) >= 0.9 * len(same)


# ---- the command ----------------------------------------------------------------------------------------------------

SHORT = ("audit", FIXTURE, "--lengths", "256", "--samples", 2, "--depths", "0.2,0.8", "--alphabet", LETTERS)


def test_command_prints_the_map_and_what_it_does_not_say() -> None:
    """The table has the counts, and the sentence on what they prove stands below."""
    ended = command(*SHORT)

    assert ended.code == 0, ended.err
    assert "right answers of 2 by depth" in ended.out
    assert "lexical retrieval" in ended.out


def test_command_prints_a_document() -> None:
    """--json validates, with intervals and hits in each cell."""
    ended = command(*SHORT, "--task", "passkey,absent", "--json")

    assert ended.err == ""
    schemas.validator("audit").validate(ended.document)
    assert ended.document["cells"][0]["interval"] == [pytest.approx(0.1581, abs=1e-4), 1.0]


def test_pictures(four_times: Audit) -> None:
    """The picture is a PNG."""
    pytest.importorskip("matplotlib")
    from ropepatch.report import audit_figure

    assert audit_figure.png(four_times).startswith(b"\x89PNG")


def test_page(four_times: Audit) -> None:
    """The page has a map for each variant with intervals in reach, asks nothing of anybody, and escapes texts."""
    import dataclasses

    from ropepatch.report import audit_page

    page = audit_page.page(dataclasses.replace(four_times, ref="<script>.gguf"))
    assert page.count("<caption>") == len(four_times.variants)
    assert page.count("95 %: ") == len(four_times.cells)
    assert "<script" not in page
    assert "://" not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--depths", "0:1"), "neither A:B:N nor a list"),
        (("--depths", "2"), "numbers from 0 to 1"),
        (("--lengths", "long"), "no number of tokens"),
        (("--task", "riddle"), "there is no task 'riddle'"),
        (("--method", "yarn"), "needs --factor"),
        (("--alphabet", "filler=1-40"), "has no key, value"),
        (("--alphabet", "filler=1-40,key=41-72,value=70-136"), "overlap"),
    ],
)
def test_command_refuses(options: tuple[str, str], message: str) -> None:
    """Impossible options are usage errors in one line."""
    ended = command("audit", FIXTURE, "--lengths", "256", "--alphabet", LETTERS, *options)

    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_small_vocabulary_needs_an_alphabet() -> None:
    """Pools are not drawn from a vocabulary that is too small for them."""
    with pytest.raises(UsageError, match="needs an --alphabet"):
        ropepatch.audit(FIXTURE, lengths=(256,), samples=1)
