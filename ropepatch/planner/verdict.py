"""The verdict: a small rule set of our own over factor and geometry. A policy, not a measurement.

Every rule that applies gives a verdict with its reason; the gravest counts. The limits of the factor are those of
published runs, the limits of the geometry are set so that what published and own runs saw fail does not pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ropepatch.planner.geometry import Geometry

VERDICTS = ("HEALTHY", "USABLE-WITH-CARE", "NEEDS-FINETUNE", "DEGRADES")
HEALTHY, CARE, FINETUNE, DEGRADES = VERDICTS
#: factors up to which published runs got by without training, with care, and with one fine-tune
WITHOUT_TRAINING, WITH_CARE, ONE_FINE_TUNE = 2.0, 4.0, 64.0
#: shares of unseen angles from which a verdict follows, gravest first
OUTSIDE = ((0.12, DEGRADES), (0.06, FINETUNE), (0.001, CARE))
#: what the step between neighbours may shrink to
NEIGHBOUR = 0.9

# The rules as `explain verdict` prints them: name, verdict, condition, ground.
RULES = (
    ("trained",    HEALTHY,  "the length is within the trained context", "nothing changes"),
    ("factor",     HEALTHY,  "factor up to 2", "YaRN, NTK and by-parts runs without training hold up to here"),
    ("factor",     CARE,     "factor above 2, up to 4", "Qwen ships YaRN 4x with a warning about short texts"),
    ("factor",     FINETUNE, "factor above 4, up to 64", "YaRN trains for 16x and 32x, LongRoPE for 64x"),
    ("factor",     DEGRADES, "factor above 64", "only LongRoPE's staged training is reported beyond"),
    ("angles",     CARE,     "0.1 % of the angles or more were never trained", "NTK-aware scaling at 2x"),
    ("angles",     FINETUNE, "6 % or more", "NTK-aware scaling at 16x: perplexity above 10 without training"),
    ("angles",     DEGRADES, "12 % or more", "no scaling at 2x: perplexity above 1000 in the paper on interpolation"),
    ("neighbours", FINETUNE, "neighbours' step below 0.9 of the trained one",
     "linear scaling without training: perplexity 16 at 4x and 112 at 8x"),
    ("declared",   CARE,     "the file is scaled for this length already",
     "whether it was trained so does not stand in the file"),
    ("window",     CARE,     "all layers that rotate have a sliding window", "they never see farther than it"),
    ("written",    DEGRADES, "the format cannot hold the method, or no runtime computes it", "nothing changes"),
    ("runtimes",   CARE,     "most runtimes compute something else than the method", "see the table of methods"),
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """One rule that applied: its name, the verdict that it asks for, and why in one sentence."""

    rule: str
    verdict: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def gravest(reasons: Iterable[Reason]) -> str:
    """The verdict that counts."""
    return max((reason.verdict for reason in reasons), key=VERDICTS.index, default=HEALTHY)


def by_factor(factor: float, start: int, length: int) -> Reason:
    """What the factor alone asks for."""
    if factor <= 1:
        return Reason("trained", HEALTHY, f"{length:,} tokens are within the {start:,} that it starts from")
    limits = ((WITHOUT_TRAINING, HEALTHY), (WITH_CARE, CARE), (ONE_FINE_TUNE, FINETUNE))
    verdict = next((verdict for limit, verdict in limits if factor <= limit), DEGRADES)
    grounds = {
        HEALTHY: "published runs hold up to 2x without training",
        CARE: "published runs without training reach 4x, with losses",
        FINETUNE: "published runs train beyond 4x",
        DEGRADES: "beyond 64x only training in stages is reported",
    }
    return Reason("factor", verdict, f"{factor:.4g} times {start:,} tokens: {grounds[verdict]}")


def by_geometry(found: Geometry) -> list[Reason]:
    """What unseen angles and the step between neighbours ask for."""
    reasons = []
    verdict = next((verdict for limit, verdict in OUTSIDE if found.angles_outside >= limit), None)
    if verdict is not None:
        reasons.append(
            Reason(
                "angles",
                verdict,
                f"{found.angles_outside:.2%} of the angles were never trained ({found.leaving_pairs} pairs, up to "
                f"{found.overrun:.3g} times their trained angle)",
            )
        )
    if found.neighbour_ratio < NEIGHBOUR:
        text = f"neighbouring positions move to {found.neighbour_ratio:.3g} of the step that was trained"
        reasons.append(Reason("neighbours", FINETUNE, text))
    return reasons
