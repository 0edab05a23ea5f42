"""A spectrum drawn with characters: wavelength over pair index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ropepatch.methods.base import Array

ROWS = 16
PLAIN, EFFECTIVE, BOTH, LINE = "·", "●", "○", "─"


@dataclass(frozen=True)
class Mark:
    """A horizontal line at ``tokens``, named to its right."""

    tokens: float
    name: str


def spectrum(plain: Array, effective: Array, marks: Sequence[Mark], columns: int) -> list[str]:
    """Lines of text with the wavelengths of both spectra on a logarithmic axis.

    Args:
        plain: ``inv_freq`` before scaling, radians per position, shape ``(pairs,)``.
        effective: the same in force.
        marks: contexts to draw as lines.
        columns: the width to stay within.
    """
    pairs = effective.size
    gutter = 8
    margin = max((len(mark.name) + 1 for mark in marks), default=0)
    width = max(min(pairs, columns - gutter - margin), 1)
    indices = [column * pairs // width for column in range(width)]
    series = [[_wavelength(values, index) for index in indices] for values in (plain, effective)]
    shown = [value for values in series for value in values if value is not None] + [mark.tokens for mark in marks]
    top = math.log10(max(shown))
    bottom = min(math.log10(min(shown)), top - 1e-9)

    def row(tokens: float) -> int:
        return round((math.log10(tokens) - bottom) / (top - bottom) * (ROWS - 1))

    grid = [[" "] * width for _ in range(ROWS)]
    for mark in marks:
        grid[row(mark.tokens)] = [LINE] * width
    for column in range(width):
        for values, sign in zip(series, (PLAIN, EFFECTIVE), strict=True):
            value = values[column]
            if value is not None:
                y = row(value)
                grid[y][column] = BOTH if sign == EFFECTIVE and grid[y][column] == PLAIN else sign
    for mark in marks:
        grid[row(mark.tokens)].append(f" {mark.name}")
    labels = {0: bottom, ROWS // 2: bottom + (top - bottom) * (ROWS // 2) / (ROWS - 1), ROWS - 1: top}
    lines = [f"{_label(labels.get(y)):>{gutter - 2}} ┤{''.join(grid[y])}".rstrip() for y in reversed(range(ROWS))]
    lines.append(f"{'':>{gutter - 2}} └{'─' * width}")
    lines.append(f"{'':>{gutter}}{_axis(pairs, width)}")
    return lines


def _wavelength(inv_freq: Array, index: int) -> float | None:
    value = float(inv_freq[index]) if index < inv_freq.size else 0.0
    return 2 * math.pi / value if value > 1e-15 else None


def _label(exponent: float | None) -> str:
    if exponent is None:
        return ""
    value = float(10**exponent)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _axis(pairs: int, width: int) -> str:
    left, right = "pair 0", str(pairs - 1)
    return f"{left}{right:>{max(width - len(left), len(right) + 1)}}"
