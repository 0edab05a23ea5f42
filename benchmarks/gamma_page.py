"""The page of :mod:`gamma_rule`: what was measured, what was predicted, and what goes with what. No number is typed."""

from __future__ import annotations

import math
import platform
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ranks
from gamma_predictors import PREDICTORS, Prediction, Predictor
from ranks import Correlation

if TYPE_CHECKING:
    from gamma_rule import Setup

#: below this share at the trained length a model cannot do the task, and says nothing
GATE = 0.5
#: what counts as shown
LEVEL = 0.05
WIDTH = 120
BASE_CHANGES = ("none", "ntk", "ntk-critical", "theta")


@dataclass(frozen=True)
class Score:
    """What one model found under one method: right answers at the length, and at the trained one."""

    method: str
    factor: int
    seed: int
    right: int
    asked: int
    log_probability: float
    near_right: int
    near_asked: int


_INTRO = """# Does γ say what a model will find?

This page is written by `python benchmarks/gamma_rule.py`, every number on it included.

γ is a published heuristic for how far attention looks, computed from base and length alone (`ropepatch
explain
gamma`). Its author proposes to choose the base that has a wanted γ at the new length (`apply --method
theta --target-gamma`),
which a text of his calls the α=0 rule. Here small models that can do one thing, find what stood behind
a
key, are extended by that rule and by the usual methods, and measured. The question is whether γ, or
the geometry that `ropepatch plan`
prints, puts the methods in the order in which they do.
"""

_MEASURED = """Share of right answers with its 95 % interval (Clopper-Pearson). The depths of a text share their
filler and their blocks, so that the intervals are somewhat too narrow; that of all seeds leaves out that
models differ. The last two columns: mean log-probability of an answer, and the share at the trained length
(what a static change costs short texts)."""


def written(setup: Setup, scores: Sequence[Score], predicted: Mapping[tuple[str, int], Prediction], torch: str) -> str:
    """The page without its last section, :func:`effort`."""
    able, unable = _gated(setup, scores)
    methods = list(dict.fromkeys(score.method for score in scores))
    answer, found = "Nothing can be said: no model could do the task, or too few methods.\n", []
    if able and len(methods) >= 3:
        kept = [score for score in scores if score.seed in able]
        answer, *found = _correlated(setup, kept, predicted, methods, able)
    parts = [
        _INTRO, "## The answer\n", answer, _setup(setup, methods, torch), _unable(unable),
        _measured(setup, scores, methods), _predicted(setup, predicted, methods), *found,
    ]  # fmt: skip
    return "\n".join(map(wrapped, filter(None, parts)))


def wrapped(text: str) -> str:
    """Paragraphs and items of lists filled to the width of the repository's pages; tables and headings as they are."""
    found = []
    for block in text.strip("\n").split("\n\n"):
        if block.startswith(("|", "#")):
            found.append(block)
        elif block.startswith("* "):
            found.append("\n".join(_filled(f"* {item}", "  ") for item in block[2:].split("\n* ")))
        else:
            found.append(_filled(block, ""))
    return "\n\n".join(found) + "\n"


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def _gated(setup: Setup, scores: Sequence[Score]) -> tuple[list[int], list[int]]:
    """Seeds that can do the task unscaled within their trained length, and the others."""
    able = []
    for seed in setup.seeds:
        own = [s for s in scores if s.seed == seed and s.method == "none"]
        if sum(s.near_right for s in own) >= GATE * sum(s.near_asked for s in own):
            able.append(seed)
    return able, [seed for seed in setup.seeds if seed not in able]


def _setup(setup: Setup, methods: Sequence[str], torch: str) -> str:
    import gamma_rule as rule

    depths = ", ".join(f"{depth:g}" for depth in rule.DEPTHS)
    return f"""## What was run

* Models: the architecture, task and training of `fixtures/tiny-retriever` ({setup.steps:,} steps),
seeds
  {_series(setup.seeds)}; head dimension 32, base 1000, trained to 256 tokens.
* Methods: {_series(methods)}. `theta γ=G` is the base designed for γ = G at the new length, nothing
else changed. No
  model was trained any further.
* Factors {_series(setup.factors)}; `ropepatch.audit`, task `{rule.TASK}` (one block of three values
among
  {_distractors(rule.TASK)} with other keys), depths {depths}, {setup.samples} texts at each; all three
  values must follow greedily. The same texts for every method of a seed; other texts for every seed.
torch {torch}, float32, one thread.
"""


def _distractors(task: str) -> int:
    from ropepatch.audit.tasks import DISTRACTORS

    return DISTRACTORS[task]


def _series(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _unable(seeds: Sequence[int]) -> str:
    if not seeds:
        return ""
    which = _series(seeds)
    return f"Seeds {which} find less than {GATE:.0%} within their trained length: left out of what goes with what.\n"


def _measured(setup: Setup, scores: Sequence[Score], methods: Sequence[str]) -> str:
    lines = ["## What was measured", "", _MEASURED, ""]
    for factor in setup.factors:
        heads = [f"{factor}x", *(f"seed {seed}" for seed in setup.seeds), "all seeds", "log p", "at 1x"]
        lines += _table(heads)
        for method in methods:
            rows = [s for s in scores if (s.method, s.factor) == (method, factor)]
            cells = [_share(s.right, s.asked) for s in rows]
            all_of = _share(sum(s.right for s in rows), sum(s.asked for s in rows))
            near = sum(s.near_right for s in rows) / sum(s.near_asked for s in rows)
            log = sum(s.log_probability for s in rows) / len(rows)
            lines.append(_row([method, *cells, all_of, f"{log:.2f}", f"{near:.3f}"]))
        lines.append("")
    return "\n".join(lines)


def _share(right: int, asked: int) -> str:
    from ropepatch.audit.statistics import clopper_pearson

    low, high = clopper_pearson(right, asked)
    return f"{right / asked:.3f} ({low:.3f}-{high:.3f})"


def _table(heads: Sequence[str]) -> list[str]:
    return [_row(heads), "|" + "---|" * len(heads)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _predicted(setup: Setup, predicted: Mapping[tuple[str, int], Prediction], methods: Sequence[str]) -> str:
    lines = ["## What was predicted", "", "From metadata alone, by `ropepatch plan`:", ""]
    lines += [f"* **{p.name}**: {p.about}; read as {'more' if p.sign > 0 else 'less'} is better" for p in PREDICTORS]
    lines.append("")
    for factor in setup.factors:
        lines += _table([f"{factor}x", *(p.name for p in PREDICTORS)])
        for method in methods:
            values = (getattr(predicted[method, factor], p.key) for p in PREDICTORS)
            lines.append(
                _row(
                    [
                        method,
                        *("-" if v is None else format(v, p.form) for p, v in zip(PREDICTORS, values, strict=True)),
                    ]
                )
            )
        lines.append("")
    return "\n".join(lines)


@dataclass(frozen=True)
class Result:
    """A predictor with its correlations: with the share of right answers, and with the log-probability."""

    predictor: Predictor
    share: Correlation
    log: float | None
    p: float | None

    @property
    def judgement(self) -> str:
        """``constant``, ``predicts``, ``opposite`` or ``open``."""
        if self.share.within is None or self.p is None:
            return "constant"
        interval = self.share.interval
        if self.p >= LEVEL or interval is None or interval[0] <= 0 <= interval[1]:
            return "open"
        return "predicts" if self.share.within * self.predictor.sign > 0 else "opposite"


def tables(
    setup: Setup, scores: Sequence[Score], methods: Sequence[str], seeds: Sequence[int], value: Callable[[Score], float]
) -> ranks.Table:
    """Measurements, ``(seeds, factors, methods)``."""
    by = {(s.seed, s.factor, s.method): value(s) for s in scores}
    return np.array([[[by[seed, f, m] for m in methods] for f in setup.factors] for seed in seeds])


def table_of(
    setup: Setup, predicted: Mapping[tuple[str, int], Prediction], methods: Sequence[str], key: str
) -> ranks.Table:
    """A predictor, ``(factors, methods)``, NaN where it is not defined."""
    rows = [[getattr(predicted[m, f], key) for m in methods] for f in setup.factors]
    return np.array([[math.nan if v is None else float(v) for v in row] for row in rows])


def results(
    setup: Setup, scores: Sequence[Score], predicted: Mapping[tuple[str, int], Prediction], methods: Sequence[str],
    seeds: Sequence[int],
) -> list[Result]:  # fmt: skip
    """Every predictor against both measurements; p after Holm's correction for the number of predictors."""
    share = tables(setup, scores, methods, seeds, lambda s: s.right / s.asked)
    log = tables(setup, scores, methods, seeds, lambda s: s.log_probability)
    found = []
    for predictor in PREDICTORS:
        x = table_of(setup, predicted, methods, predictor.key)
        found.append((predictor, ranks.correlate(x, share), ranks.correlate(x, log, draws=2, permutations=1).within))
    tested = [i for i, (_, one, _) in enumerate(found) if one.p is not None]
    corrected = dict(zip(tested, ranks.holm([found[i][1].p or 0.0 for i in tested]), strict=True))
    return [Result(p, one, two, corrected.get(i)) for i, (p, one, two) in enumerate(found)]


def _correlated(
    setup: Setup, scores: Sequence[Score], predicted: Mapping[tuple[str, int], Prediction], methods: Sequence[str],
    seeds: Sequence[int],
) -> list[str]:  # fmt: skip
    import gamma_words

    every = results(setup, scores, predicted, methods, seeds)
    bases = [m for m in methods if m.split()[0] in BASE_CHANGES]
    among = results(setup, scores, predicted, bases, seeds) if len(bases) >= 4 else []
    return [
        gamma_words.answer(every, len(methods), among, len(bases)),
        "## What goes with what\n",
        gamma_words.method_of_analysis(len(methods), len(setup.factors), len(seeds)),
        _correlations(setup, every),
        gamma_words.among_bases(among, bases),
        gamma_words.limits(len(methods), len(seeds)),
    ]


def _correlations(setup: Setup, found: Sequence[Result]) -> str:
    factors = [f"{factor}x" for factor in setup.factors]
    lines = _table(["predictor", *factors, "within, mean", "95 %", "p", "tau-b", "overall", "95 %", "within, log p"])
    for item in found:
        one = item.share
        cells = [*map(_rho, one.by_factor), _rho(one.within), _span(one.interval), _p(item.p), _rho(one.tau)]
        cells += [_rho(one.overall), _span(one.overall_interval), _rho(item.log)]
        lines.append(_row([item.predictor.name, *cells]))
    return "\n".join([*lines, ""])


def _rho(value: float | None) -> str:
    return "one value" if value is None else f"{value:+.2f}"


def _span(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:+.2f} to {value[1]:+.2f}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def effort(spent: Mapping[str, float]) -> str:
    """What the page took, over all runs of the folder."""
    each = ", ".join(f"{kind} {seconds:,.0f}" for kind, seconds in spent.items())
    system = f"{platform.machine()}, Python {platform.python_version()}"
    text = (
        f"{sum(spent.values()) / 60:.1f} minutes of processor time on one thread ({each} seconds; {system}), without "
        "the training of seed 1, which is the fixture's own. The order of sums in matrix products differs between "
        "processors: other machines may train other models from the same seeds."
    )
    return f"\n## What it took\n\n{wrapped(text)}"
