"""γ: a published heuristic for how far attention looks, what can be computed from it, and what cannot.

The law ``mean attention at distance d ∝ d^(-γ)``, its closed form from base and length alone, and a planner built on it
are published as the Thermodynamic Attention Framework (Zenodo 19826343 and 20314038; repository karlesmarin/tafagent).
ropepatch reproduces them as a reference. It derives no verdict from them, for the reasons in :data:`TAUTOLOGIES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ropepatch.errors import UsageError

#: what is known about γ, wherever it is shown
STANDING = "heuristic, not validated: it uses the base and the length alone"
TAUTOLOGIES = (
    (
        "d_horizon(θ, γ_Padé(θ, L)) = L for every θ and L: the two formulas are inverse to each other, so a horizon "
        "computed from a computed γ says nothing"
    ),
    (
        "γ_Padé depends on L/θ alone. Linear scaling divides L by s, YaRN is taken as multiplying θ by s: both give "
        "γ_Padé(θ, T) of the trained length, whatever s is. So the published γ_eff cannot rank methods, and the "
        "published verdict is a rule over T/θ and s"
    ),
)
#: the published planner's thresholds (js/yarn_planner.js)
_DEGRADES, _HEALTHY, _AGGRESSIVE, _TARGET = 0.2, 0.6, 4.0, 0.5
ROPE_TYPES = ("linear", "dynamic", "yarn", "llama3")


def pade(rope_theta: float, length: float) -> float:
    """``γ_Padé = (2 - z)/(2 + z)``, ``z = L√2/θ``: the [1,1] Padé approximant of ``e^(-z)``; between -1 and 1."""
    z = length * math.sqrt(2) / rope_theta
    return (2 - z) / (2 + z)


def theta_design(gamma: float, length: float) -> float:
    """The base at which ``pade`` is ``gamma`` at ``length``: ``θ = L√2 (1+γ) / (2(1-γ))``.

    Raises:
        UsageError: ``gamma`` is not between -1 and 1.
    """
    if not -1 < gamma < 1:
        raise UsageError(f"a target γ lies between -1 and 1, not {gamma:g}")
    return length * math.sqrt(2) * (1 + gamma) / (2 * (1 - gamma))


def raised_theta(rope_theta: float, gamma: float, length: int) -> float:
    """:func:`theta_design` as a whole number, for a model whose base is ``rope_theta``.

    Raises:
        UsageError: that base has the γ already.
    """
    base = float(round(theta_design(gamma, length)))
    if base <= rope_theta:
        raise UsageError(
            f"the base {rope_theta:g} has γ {pade(rope_theta, length):.3g} at {length:,} tokens already, not below the "
            f"target {gamma:g}: there is nothing to raise"
        )
    return base


def d_horizon(rope_theta: float, gamma: float) -> float | None:
    """``θ(1-γ)√2/(1+γ)`` in tokens; None outside 0 < γ < 1, where it is not defined."""
    return rope_theta * (1 - gamma) * math.sqrt(2) / (1 + gamma) if 0 < gamma < 1 else None


@dataclass(frozen=True)
class Published:
    """What the published planner prints.

    Attributes:
        factor: target over original length.
        rope_type: as given, else linear below a factor of 2 and yarn from there on; None without an extension.
        gamma_naive: γ at the target length without scaling.
        gamma_eff: γ that it ascribes to the method; see :data:`TAUTOLOGIES`.
        theta_needed: the base for γ = 0.5 at the target length.
        verdict: HEALTHY, USABLE-WITH-CARE, NEEDS-FINETUNE, DEGRADES, or NO-EXTENSION-NEEDED.
    """

    factor: float
    rope_type: str | None
    gamma_naive: float
    gamma_eff: float
    theta_needed: float
    verdict: str


def published(original: float, rope_theta: float, target: float, rope_type: str | None = None) -> Published:
    """The published planner's rule, as its code has it.

    Args:
        original: the trained length in tokens.
        rope_theta: the base.
        target: the new length in tokens.
        rope_type: ``linear``, ``dynamic``, ``yarn`` or ``llama3``; None chooses as the planner does.
    """
    factor = target / original
    naive, needed = pade(rope_theta, target), theta_design(_TARGET, target)
    if target <= original:
        return Published(factor, None, naive, naive, needed, "NO-EXTENSION-NEEDED")
    kind = rope_type or ("linear" if factor < 2 else "yarn")
    if kind not in ROPE_TYPES:
        raise UsageError(f"the published planner knows {', '.join(ROPE_TYPES)}, not {kind!r}")
    scaled = pade(rope_theta, target / factor) if kind in ("linear", "dynamic") else pade(rope_theta * factor, target)
    return Published(factor, kind, naive, scaled, needed, _published_verdict(scaled, factor))


def _published_verdict(gamma: float, factor: float) -> str:
    if not math.isfinite(gamma) or gamma <= _DEGRADES:
        return "DEGRADES"
    if factor > _AGGRESSIVE:
        return "NEEDS-FINETUNE"
    return "HEALTHY" if gamma >= _HEALTHY else "USABLE-WITH-CARE"
