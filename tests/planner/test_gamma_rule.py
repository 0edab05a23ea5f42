"""The γ experiment: its statistics against textbooks, its sentences against made-up outcomes, and that it resumes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropepatch.audit import statistics
from tests.support.command import ROOT

FOLDER = str(ROOT / "benchmarks")
TINY = ("--seeds", "7", "--steps", "2", "--samples", "1", "--factors", "2", "--methods", "yarn", "--gammas", "0.85")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def row(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


def test_spearman_of_textbooks() -> None:
    """Spearman's rho has its published values, with and without ties, and none for a constant or for two points."""
    import ranks

    iq = row(106, 100, 86, 101, 99, 103, 97, 113, 112, 110)
    hours = row(7, 27, 2, 50, 28, 29, 20, 12, 6, 17)
    assert ranks.spearman(iq, hours) == pytest.approx(-29 / 165)
    assert ranks.spearman(row(1, 2, 3, 4, 5), row(5, 6, 7, 8, 7)) == pytest.approx(0.820782681668123)
    assert np.isnan(ranks.spearman(row(1, 1, 1), row(1, 2, 3)))
    assert np.isnan(ranks.spearman(row(1, 2, np.nan), row(1, 2, 3)))


def test_kendall_of_textbooks() -> None:
    """Kendall's tau-b with ties has its published value, and a place that is not defined counts for nothing."""
    import ranks

    assert ranks.kendall(row(12, 2, 1, 12, 2), row(1, 4, 7, 1, 0)) == pytest.approx(-0.4714045207910316)
    assert ranks.kendall(row(1, 2, 3, np.nan), row(1, 2, 3, -9)) == pytest.approx(1)


def test_permutation_counts_orders() -> None:
    """Of the 24 orders of four methods two are as strong as a perfect one, however often a factor repeats it."""
    import ranks

    x = np.array([[1.0, 2, 3, 4]] * 3)
    found = ranks.correlate(x, np.array([x, x]))
    assert found.within == pytest.approx(1)
    assert found.p == pytest.approx(2 / 24, abs=0.01)
    assert found.by_factor == (pytest.approx(1),) * 3


def test_chance_is_not_shown() -> None:
    """Among 100 random predictors about 5 have a p below 0.05, and nearly all intervals hold zero."""
    import ranks

    draw = np.random.default_rng(3)
    found = [
        ranks.correlate(draw.random((2, 9)), draw.random((2, 2, 9)), draws=200, permutations=200) for _ in range(100)
    ]
    assert 0 <= sum((item.p or 1) < 0.05 for item in found) <= 12
    assert sum(item.interval[0] <= 0 <= item.interval[1] for item in found if item.interval) >= 80


def test_holm_of_a_textbook() -> None:
    """Four p-values are corrected as in the literature, in their own order."""
    import ranks

    assert ranks.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.fixture
def _quick_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of thousands of answers take their time, and are tested elsewhere."""
    monkeypatch.setattr(statistics, "clopper_pearson", lambda k, n: (k / n, k / n))


@pytest.fixture(scope="module")
def predicted() -> tuple[Any, Any]:
    """A setup of the whole size, and what is predicted for it: the fixture's metadata, nothing trained."""
    sys.path.insert(0, FOLDER)
    import gamma_rule as rule

    setup = rule.Setup((1, 2, 3), (2, 4, 8), rule.METHODS, rule.GAMMAS, 10, rule.STEPS, 1 << 30)

    class Shipped:
        def trained(self, seed: int, steps: int) -> Path:
            return ROOT / "fixtures" / "tiny-retriever"

    return setup, rule.predictions(setup, Shipped())


def page_of(predicted: tuple[Any, Any], share: Callable[[Any], float], near: float = 1.0) -> str:
    """The page of an outcome that follows from a prediction alone."""
    import gamma_page

    setup, known = predicted
    scores = []
    for seed in setup.seeds:
        for (method, factor), item in known.items():
            right = round(1000 * min(max(share(item), 0.0), 1.0))
            near_right = round(10 * near)
            scores.append(gamma_page.Score(method, factor, seed, right, 1000, right / 1000 - 1, near_right, 10))
    return str(gamma_page.written(setup, scores, known, "2"))


def line_of(page: str, start: str) -> str:
    """The item of the answer that begins with ``start``, on one line."""
    answer = page.split("## What was run")[0]
    return next((" ".join(item.split()) for item in answer.split("\n* ") if item.startswith(start)), "")


@pytest.mark.usefixtures("_quick_intervals")
def test_sentences_follow_the_outcome(predicted: tuple[Any, Any]) -> None:
    """What made the outcome is said to predict it, or to go the other way; what is one value for all cannot rank."""
    good, bad = page_of(predicted, lambda p: 0.9 - p.outside), page_of(predicted, lambda p: 0.1 + p.outside)

    assert "unseen angles (-0.9" in line_of(good, "**Predict") or "unseen angles (-1" in line_of(good, "**Predict")
    assert "unseen angles (+1.00)" in line_of(bad, "**Go the other way")
    for page in (good, bad):
        silent = line_of(page, "**Cannot rank")
        assert "γ unscaled" in silent
        assert "d_horizon" in silent
        assert "γ fitted" not in silent


@pytest.mark.usefixtures("_quick_intervals")
def test_gamma_may_win(predicted: tuple[Any, Any]) -> None:
    """Were γ of the fitted base what decides, the page would say so."""
    page = page_of(predicted, lambda p: p.gamma_fitted)

    assert "γ fitted (+1.00" in line_of(page, "**Predict")
    assert "is shown to predict" in " ".join(page.split())


@pytest.mark.usefixtures("_quick_intervals")
def test_models_that_cannot_say_nothing(predicted: tuple[Any, Any]) -> None:
    """Models that fail within their trained length give no correlation."""
    page = page_of(predicted, lambda p: 0.9 - p.outside, near=0.2)

    assert "Nothing can be said" in page
    assert "Seeds 1, 2, 3 find less than 50%" in page
    assert "## What goes with what" not in page


def run(folder: Path, page: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"{FOLDER}/gamma_rule.py", "--dir", str(folder), "--output", str(page), *TINY, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_resumes(tmp_path: Path) -> None:
    """A second run trains nothing, measures only what a cut journal lost, and writes the same page."""
    folder, first, second = tmp_path / "work", tmp_path / "first.md", tmp_path / "second.md"
    ended = run(folder, first)
    assert ended.returncode == 0, ended.stderr
    assert "training seed 7" in ended.stderr
    whole = {path: path.read_text("utf-8").splitlines() for path in (folder / "cells").iterdir()}
    assert whole
    for path, lines in whole.items():
        path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20], encoding="utf-8")

    ended = run(folder, second)

    assert ended.returncode == 0, ended.stderr
    assert "training" not in ended.stderr
    for path, lines in whole.items():
        again = path.read_text("utf-8").splitlines()
        assert again[:-1] == lines[:-1]
        assert len(again) == len(lines)
    before, after = (path.read_text("utf-8").split("## What it took")[0] for path in (first, second))
    assert before == after


def test_no_resume_removes_only_its_own_folder(tmp_path: Path) -> None:
    """A folder that is no work folder is left alone."""
    (tmp_path / "kept").touch()
    ended = run(tmp_path, tmp_path / "page.md", "--no-resume")

    assert ended.returncode == 2
    assert "no folder of this benchmark" in ended.stderr
    assert (tmp_path / "kept").exists()
