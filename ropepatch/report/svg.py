"""Line and bar charts as inline SVG, drawn in the colours of the page that holds them.

No script, no font and no colour of its own: strokes name CSS classes (``a``, ``b``, ``mark``), so that one drawing
serves light and dark. Every chart has a title and a description for readers who do not see it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 336
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 16, 58
#: more points than this add nothing to a line of this width
_POINTS = 512


@dataclass(frozen=True)
class Series:
    """A line: its name, its CSS class, and a value a pair; values that are not positive are left out."""

    name: str
    style: str
    values: Sequence[float]


@dataclass(frozen=True)
class Level:
    """A horizontal line with a name, above it or below."""

    name: str
    value: float
    below: bool = False


def lines(
    title: str, about: str, series: Sequence[Series], levels: Sequence[Level], unit: str, *, named_left: bool = False
) -> str:
    """Values over the pair index on a logarithmic axis, with horizontal lines named at one end."""
    shown = [v for item in series for v in item.values if v > 0] + [level.value for level in levels if level.value > 0]
    low, high = (math.log10(min(shown)), math.log10(max(shown))) if shown else (0.0, 1.0)
    low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    pairs = max((len(item.values) for item in series), default=1)

    def y(value: float) -> float:
        return _TOP + (high - math.log10(value)) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    def x(index: int) -> float:
        return _LEFT + index / max(pairs - 1, 1) * (WIDTH - _LEFT - _RIGHT)

    parts = [_axis_log(low, high, y), _axis_pairs(pairs, x, unit)]
    for level in levels:
        parts.append(_line(_LEFT, y(level.value), WIDTH - _RIGHT, y(level.value), "mark"))
        at, anchor = (_LEFT + 8, "start") if named_left else (WIDTH - _RIGHT - 4, "end")
        parts.append(_text(at, y(level.value) + (18 if level.below else -5), level.name, anchor, "label"))
    for item in series:
        step = max(1, len(item.values) // _POINTS)
        points = [f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(item.values) if v > 0 and i % step == 0]
        parts.append(f'<polyline class="{item.style}" points="{" ".join(points)}"/>')
    return _figure(title, about, parts)


def bars(title: str, about: str, values: Sequence[tuple[str, float, bool]]) -> str:
    """A horizontal bar for each name; those that are marked stand out."""
    height = 24 * len(values) + 12
    top = max((value for _, value, _ in values), default=1.0) or 1.0
    left, right = 144, 76
    parts = []
    for index, (name, value, marked) in enumerate(values):
        y = 8 + 24 * index
        width = value / top * (WIDTH - left - right)
        style = "bar on" if marked else "bar"
        parts.append(_text(left - 8, y + 13, name, "end", "tick"))
        parts.append(f'<rect class="{style}" x="{left}" y="{y}" width="{max(width, 1):.1f}" height="16" rx="2"/>')
        parts.append(_text(left + width + 6, y + 13, f"{value:.4g}", "start", "tick"))
    return _figure(title, about, parts, height)


def _figure(title: str, about: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    head = f"<title>{html.escape(title)}</title><desc>{html.escape(about)}</desc>"
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{head}{"".join(parts)}</svg>'


def _axis_log(low: float, high: float, y: Callable[[float], float]) -> str:
    step = max(1, math.ceil((high - low) / 8))
    parts = []
    for exponent in range(int(low), int(high) + 1, step):
        at = y(10.0**exponent)
        parts.append(_line(_LEFT, at, WIDTH - _RIGHT, at, "grid"))
        parts.append(_text(_LEFT - 8, at + 4, _power(exponent), "end", "tick"))
    return "".join(parts)


def _power(exponent: int) -> str:
    if 0 <= exponent <= 3:
        return str(10**exponent)
    for limit, unit in ((9, "G"), (6, "M"), (3, "k")):
        if exponent >= limit:
            return f"{10 ** (exponent - limit)}{unit}"
    return f"1e{exponent}"


def _axis_pairs(pairs: int, x: Callable[[int], float], unit: str) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = [_line(_LEFT, bottom, WIDTH - _RIGHT, bottom, "axis"), _line(_LEFT, _TOP, _LEFT, bottom, "axis")]
    step = max(1, 2 ** math.ceil(math.log2(max(pairs / 8, 1))))
    parts += [_text(x(i), bottom + 19, str(i), "middle", "tick") for i in range(0, pairs, step)]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, f"pair index · {unit}", "middle", "tick"))
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
