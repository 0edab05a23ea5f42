"""Rank correlations between tables of methods by factors, with permutation and bootstrap.

A table has the shape ``(factors, methods)``. Methods are what is exchanged and drawn: a method's values at several
factors hang together, so that they never count as independent. NaN stands for a value that is not defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]
PERMUTATIONS, DRAWS, SEED = 10_000, 2_000, 1
#: fewer values than this have no correlation
_FEWEST = 3


def nine_digits(values: Table) -> Table:
    """``values`` to nine significant digits, so that rounding of sums makes no difference out of none."""
    size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
    scale = 10.0 ** (8 - np.floor(np.log10(size)))
    found: Table = np.round(values * scale) / scale
    return found


def ranks(values: Table) -> Table:
    """Ranks from 1 along the last axis, equal values sharing the mean of theirs; NaN come last."""
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    places = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    begins = np.ones(values.shape, bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ends = np.ones(values.shape, bool)
    ends[..., :-1] = begins[..., 1:]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=-1)
    back = np.where(ends, places, values.shape[-1])[..., ::-1]
    last = np.minimum.accumulate(back, axis=-1)[..., ::-1]
    found: Table = np.empty(values.shape)
    np.put_along_axis(found, order, (first + last) / 2 + 1, axis=-1)
    return found


def spearman(x: Table, y: Table) -> Table:
    """Spearman's rho along the last axis over the places where both are defined.

    NaN where fewer than three are, or where either is one value throughout.
    """
    x, y = np.broadcast_arrays(x, y)
    known = ~(np.isnan(x) | np.isnan(y))
    count = known.sum(axis=-1, keepdims=True)
    a, b = (np.where(known, ranks(np.where(known, v, np.nan)) - (count + 1) / 2, 0.0) for v in (x, y))
    return _ratio((a * b).sum(axis=-1), (a**2).sum(axis=-1) * (b**2).sum(axis=-1), count[..., 0])


def kendall(x: Table, y: Table) -> Table:
    """Kendall's tau-b in the same way."""
    x, y = np.broadcast_arrays(x, y)
    known = ~(np.isnan(x) | np.isnan(y))
    both = known[..., :, None] & known[..., None, :]
    a, b = (np.where(both, np.sign(v[..., :, None] - v[..., None, :]), 0.0) for v in (x, y))
    total, left, right = ((one * other).sum(axis=(-2, -1)) for one, other in ((a, b), (a, a), (b, b)))
    return _ratio(total, left * right, known.sum(axis=-1))


def _ratio(product: Table, squares: Table, count: npt.NDArray[np.int64]) -> Table:
    usable = (squares > 0) & (count >= _FEWEST)
    found: Table = np.where(usable, product / np.sqrt(np.where(usable, squares, 1.0)), np.nan)
    return found


def mean_defined(values: Table) -> Table:
    """The mean along the last axis of what is defined; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    found: Table = np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)
    return found


@dataclass(frozen=True)
class Correlation:
    """A predictor against a measurement.

    Attributes:
        by_factor: Spearman's rho within each factor; None where the predictor is one value for all methods.
        within: their mean; None where there is none.
        interval: 95 % of :attr:`within` over methods and seeds drawn with replacement.
        p: how often methods exchanged at random correlate as strongly, of either sign.
        tau: the mean of Kendall's tau-b within the factors.
        overall: Spearman's rho over all methods and factors together.
        overall_interval: the same 95 % of it.
    """

    by_factor: tuple[float | None, ...]
    within: float | None
    interval: tuple[float, float] | None
    p: float | None
    tau: float | None
    overall: float | None
    overall_interval: tuple[float, float] | None


def correlate(x: Table, measured: Table, *, draws: int = DRAWS, permutations: int = PERMUTATIONS) -> Correlation:
    """Everything of :class:`Correlation`.

    Args:
        x: the predictor, ``(factors, methods)``.
        measured: what was measured, ``(seeds, factors, methods)``.
        draws: bootstrap draws.
        permutations: exchanges of methods.
    """
    x, y = nine_digits(x), nine_digits(measured.mean(axis=0))
    each = spearman(x, y)
    found = _number(mean_defined(each))
    inner, outer = _bootstrap(x, measured, draws)
    return Correlation(
        by_factor=tuple(map(_number, each)),
        within=found,
        interval=inner if found is not None else None,
        p=None if found is None else _p(x, y, found, permutations),
        tau=_number(mean_defined(kendall(x, y))),
        overall=_number(spearman(x.ravel(), y.ravel())),
        overall_interval=outer,
    )


def _number(value: Table) -> float | None:
    return None if np.isnan(value) else float(value)


def _p(x: Table, y: Table, found: float, permutations: int) -> float:
    """Methods are exchanged alike at every factor."""
    draw = np.random.default_rng(SEED)
    orders = draw.permuted(np.tile(np.arange(x.shape[1]), (permutations, 1)), axis=1)
    null = mean_defined(spearman(x, y[:, orders].transpose(1, 0, 2)))
    return float((1 + (np.abs(null) >= abs(found) - 1e-12).sum()) / (1 + permutations))


def _bootstrap(x: Table, measured: Table, draws: int) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """95 % of the correlation within factors and overall; draws without one are left out."""
    draw = np.random.default_rng(SEED)
    seeds, factors, methods = measured.shape
    chosen = draw.integers(methods, size=(draws, methods))
    means = measured[draw.integers(seeds, size=(draws, seeds))].mean(axis=1)
    right = np.take_along_axis(means, np.broadcast_to(chosen[:, None], (draws, factors, methods)), axis=2)
    left, right = x[:, chosen].transpose(1, 0, 2), nine_digits(right)
    inner = mean_defined(spearman(left, right))
    outer = spearman(left.reshape(draws, -1), right.reshape(draws, -1))
    return _middle(inner), _middle(outer)


def _middle(values: Table) -> tuple[float, float] | None:
    """95 % of them; None where fewer than half are defined."""
    known = values[~np.isnan(values)]
    if 2 * known.size < values.size:
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for the number of tests (Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, worst = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[index]))
        found[index] = worst
    return found


def detectable(methods: int, permutations: int = PERMUTATIONS) -> float:
    """The rho that exchanging reaches by chance in 5 % of the cases, when methods keep their order over the factors."""
    plain = np.arange(methods, dtype=np.float64) - (methods - 1) / 2
    draw = np.random.default_rng(SEED)
    null = draw.permuted(np.tile(plain, (permutations, 1)), axis=1) @ plain / (plain @ plain)
    return float(np.quantile(np.abs(null), 0.95))
