"""Intervals, effective lengths and paired differences: what counts may and may not say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

#: RULER's threshold: Llama-2-7B-chat at 4096 tokens (arXiv 2404.06654)
RULER = 0.856
#: NoLiMa's: this share of the score in short texts (arXiv 2502.05167)
RELATIVE = 0.85
#: below this score at the trained length nothing can be said of longer ones
GATE = 0.5


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion after ``k`` of ``n``: Clopper and Pearson, Biometrika 26 (1934)."""
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} of {n}")
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else _where(lambda p: 1 - _cumulative(k - 1, n, p) >= tail)
    high = 1.0 if k == n else _where(lambda p: _cumulative(k, n, p) <= tail)
    return low, high


def _where(holds: Callable[[float], bool]) -> float:
    """The smallest p from which on ``holds``, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _cumulative(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
    log_p, log_q, whole = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)
        for i in range(k + 1)
    )


def effective_length(scores: Mapping[int, float], threshold: float) -> int | None:
    """The longest length at which, and at all shorter ones, the score reaches ``threshold``; None for none."""
    found = None
    for length in sorted(scores):
        if scores[length] < threshold:
            break
        found = length
    return found


def paired(a: Sequence[bool], b: Sequence[bool]) -> tuple[float, float]:
    """Mean of ``b - a`` over the same texts, and 1.96 standard errors of it."""
    differences = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    if n < 2:
        return mean, math.inf
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean, 1.96 * math.sqrt(variance / n)
