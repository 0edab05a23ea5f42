"""Sentences of the page of :mod:`gamma_rule` that follow from its numbers, whichever way they come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ranks

if TYPE_CHECKING:
    from gamma_page import Result

#: rank correlations nearer to each other than one exchange of neighbours
_TIE = 0.02
_OURS = """The verdict of `ropepatch plan` is no independent witness: the limits of its rules were set
when it was known
that this fixture fails unscaled and with linear scaling, and that YaRN holds on it."""


def method_of_analysis(methods: int, factors: int, seeds: int) -> str:
    """How the table below it is read."""
    return f"""Spearman's rank correlation of each predictor with the share of right answers (mean over
the models), within
each factor and as the mean of the {factors} factors. Longer contexts are harder whatever the method,
so that *within* is
what says whether a predictor ranks methods; *overall* also counts that. The 95 % interval draws
methods and models with
replacement ({ranks.DRAWS:,} times; draws without any difference are left out); p exchanges the
methods, alike at every
factor ({ranks.PERMUTATIONS:,} times), and is corrected for the number of predictors (Holm). What is
drawn and exchanged
is a method: n is {methods}, not {methods} times {factors} times {seeds}. tau-b is Kendall's, within
the factors; *log p*
is the same correlation with the log-probability of the answers, which does not saturate.
"""


def answer(found: Sequence[Result], methods: int, among: Sequence[Result], bases: int) -> str:
    """Which predict and which do not; ``among`` are the results over ``bases`` changes of nothing but the base."""
    by: dict[str, list[Result]] = {}
    for item in found:
        by.setdefault(item.judgement, []).append(item)
    lines = []
    if predicting := sorted(by.get("predicts", ()), key=lambda item: -abs(item.share.within or 0)):
        lines.append(f"* **Predict the order of methods here**: {_named(predicting, p=True)}.")
    else:
        lines.append("* **Nothing that was tested predicts the order of methods here.**")
    if against := by.get("opposite"):
        lines.append(f"* **Go the other way than they are read**: {_named(against)}.")
    if silent := by.get("constant"):
        names = ", ".join(item.predictor.name for item in silent)
        lines.append(
            f"* **Cannot rank methods**: {names}, one value for all of them at a factor (up to undefined ones)."
        )
    if unclear := by.get("open"):
        lines.append(
            f"* **Not shown either way**: {_named(unclear)}. With {methods} methods a rho below about "
            f"{ranks.detectable(methods):.2f} passes as chance even before the correction for their number."
        )
    lines += ["", _gamma(found) + _gamma_of_bases(among, bases), "", _OURS]
    return "\n".join([*lines, ""])


def _named(items: Sequence[Result], *, p: bool = False) -> str:
    return ", ".join(
        f"{item.predictor.name} ({item.share.within or 0:+.2f}{f', p {item.p:.4f}' if p else ''})" for item in items
    )


def _gamma(found: Sequence[Result]) -> str:
    """The sentence on γ, against the best of the geometry."""
    defined = [item for item in found if item.share.within is not None]
    family = [item for item in defined if item.predictor.kind == "gamma"]
    others = [item for item in defined if item.predictor.kind == "geometry"]

    def strength(item: Result) -> float:
        return (item.share.within or 0.0) * item.predictor.sign

    if not family or not others:
        return "γ is one value for all methods of a factor, in every form that was tried."
    law, rival = max(family, key=strength), max(others, key=strength)
    ahead = "no further than" if strength(law) <= strength(rival) else "further than"
    state = "is shown to predict" if law.judgement == "predicts" else "is not shown to predict"
    return (
        f"The best form of γ, {law.predictor.name}, reaches {strength(law):+.2f} in the direction it is read with, "
        f"{ahead} the best of the geometry, {rival.predictor.name} with {strength(rival):+.2f}; it {state} "
        f"the order of methods. Their intervals "
        f"{'overlap' if _overlap(law, rival) else 'do not overlap'}."
    )


def _gamma_of_bases(among: Sequence[Result], bases: int) -> str:
    law = next((item for item in among if item.predictor.key == "gamma_fitted"), None)
    if law is None or law.share.within is None:
        return ""
    return (
        f" Where nothing but the base changes (n = {bases}) it reaches {law.share.within:+.2f}, as the base itself "
        "does: see below."
    )


def _overlap(one: Result, other: Result) -> bool:
    a, b = one.share.interval, other.share.interval
    if a is None or b is None:
        return True
    first, second = (sorted(v * item.predictor.sign for v in span) for item, span in ((one, a), (other, b)))
    return first[0] <= second[1] and second[0] <= first[1]


def among_bases(found: Sequence[Result], methods: Sequence[str]) -> str:
    """γ where it means most: only the base changes."""
    shown = [item for item in found if item.share.within is not None]
    if not shown:
        return ""
    values = ", ".join(f"{item.predictor.name} {item.share.within or 0:+.2f}" for item in shown)
    best = max(abs(item.share.within or 0) for item in shown)
    same = [item.predictor.name for item in shown if abs(item.share.within or 0) >= best - _TIE]
    return f"""### Where only the base changes

Among {", ".join(methods)} (n = {len(methods)}) γ fitted is γ_Padé of the base itself, and every angle
follows from that
base too. Mean rho within the factors: {values}. The strongest, up to {_TIE:g}: {", ".join(same)}. What
ties here, this
experiment cannot tell apart: over one family of bases they are nearly the same order.
"""


def limits(methods: int, seeds: int) -> str:
    """What it can and cannot show."""
    return f"""## What this can and cannot show

* n = {methods} methods; models ({seeds}) that differ by nothing but their seed; one architecture, one
trained length, one
  base. A rank correlation over {methods} methods has wide intervals, and several methods (YaRN,
by-parts, MrRoPE) are near
  relatives, so that they count for less than their number.
* It may say that a predictor fails: one counterexample within its own terms is enough for that. That a
predictor
  works here does not say that it works for other bases, lengths, sizes, or for language.
* It may not say which of YaRN, MrRoPE and NTK-by-parts is better, nor how far a model reaches in
tokens: on toys
  of this kind both depend on parameters. It is lexical retrieval without any training at the new
length.
* Linear interpolation is known to need training; a model of this size hangs on the step between
neighbours more than
  large ones do.
"""
