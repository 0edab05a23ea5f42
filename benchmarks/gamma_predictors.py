"""What :mod:`gamma_rule` knows of a method before anything is measured, and what each number is read as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """What is known of a method at a factor before anything is measured; None where it is not defined."""

    gamma_unscaled: float
    gamma_eff: float
    gamma_fitted: float | None
    horizon: float | None
    base_fitted: float | None
    base_slowest: float | None
    outside: float
    overrun: float
    leaving: int
    step: float
    attention_scale: float
    first_zero: int
    gravity: int

    @classmethod
    def of(cls, plan: Any, rope_theta: float, method: str) -> Prediction:
        """From a plan; γ_eff as the published planner has it, which knows no further methods than PI and YaRN."""
        from ropepatch.planner import gamma
        from ropepatch.planner.verdict import VERDICTS

        length, start, found = plan.length, plan.start.context, plan.subject.geometry
        bases = {"none": rope_theta, "theta": plan.subject.parameters.get("rope_theta")}
        published = gamma.published(start, rope_theta, length, "linear" if method == "linear" else "yarn").gamma_eff
        effective = gamma.pade(bases[method], length) if method in bases else published
        fitted = plan.subject.gamma
        base = found.base_fitted
        return cls(
            gamma.pade(rope_theta, length), effective, fitted,
            None if fitted is None or base is None else gamma.d_horizon(base, fitted), base, found.base_slowest,
            found.angles_outside, found.overrun, found.leaving_pairs, found.neighbour_ratio, found.attention_scale,
            length if found.first_zero is None else found.first_zero, VERDICTS.index(plan.verdict),
        )  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A column.

    Attributes:
        name: its heading.
        kind: ``gamma``, ``base`` (of the same order as γ of it), ``geometry``, or ``rule`` (made of the others).
        key: the attribute of :class:`Prediction`.
        sign: 1 where more is read as better.
        form: how a value is printed.
        about: what it is.
    """

    name: str
    kind: str
    key: str
    sign: int
    form: str
    about: str


PREDICTORS = (
    Predictor("γ unscaled",      "gamma",    "gamma_unscaled",   1, ".3f", "γ_Padé of the trained base at the length"),
    Predictor("γ_eff",           "gamma",    "gamma_eff",        1, ".3f", "what the published planner ascribes to a "
              "method: γ_Padé at the trained length for every scaling, γ_Padé of the base in force for none and theta"),
    Predictor("γ fitted",        "gamma",    "gamma_fitted",     1, ".3f", "γ_Padé of the base fitted to all pairs"),
    Predictor("d_horizon",       "gamma",    "horizon",          1, ",.0f", "tokens, from the fitted base and its γ"),
    Predictor("fitted base",     "base",     "base_fitted",      1, ",.0f", "the fitted base itself"),
    Predictor("slowest base",    "geometry", "base_slowest",     1, ",.0f", "the base with as slow a slowest pair"),
    Predictor("unseen angles",   "geometry", "outside",         -1, ".1%", "share that training never showed"),
    Predictor("overrun",         "geometry", "overrun",         -1, ".2f", "largest angle over the largest trained, "
              "among pairs that did not turn once in training"),
    Predictor("leaving pairs",   "geometry", "leaving",         -1, ".0f", "pairs that meet unseen angles"),
    Predictor("step",            "geometry", "step",             1, ".3f", "between neighbours, against training"),
    Predictor("attention scale", "geometry", "attention_scale",  1, ".3f", "factor on cos and sin"),
    Predictor("Σcos<0",          "geometry", "first_zero",       1, ",.0f", "first distance where it is, tokens"),
    Predictor("plan's verdict",  "rule",     "gravity",         -1, ".0f", "0 HEALTHY, 1 USABLE-WITH-CARE, 2 "
              "NEEDS-FINETUNE, 3 DEGRADES"),
)  # fmt: skip
