"""Charts as inline SVG, and the style of pages that show them: no library, no script, no URL outside the page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 30

STYLE = Path(__file__).parent / "page.css"
"""The style of a page with charts: colours, tables, cards, and what `line_chart` and `histogram_chart` draw."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: (x, y) points and the name shown in the legend."""

    name: str
    points: Points
    smooth: bool = False
    """Draw a running mean, and the raw curve faintly behind it."""


def line_chart(title: str, lines: Sequence[Line], *, note: str = "", from_zero: bool = False) -> str:
    """A `<figure>` with the curves over the training step; an empty string when there is nothing to draw.

    Args:
        note: one sentence under the title.
        from_zero: the y axis starts at 0, as a percentage should.
    """
    lines = [replace(line, points=[(x, y) for x, y in line.points if math.isfinite(y)]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = ticks(min(0.0, *xs), max(xs))
    y_ticks = ticks(0.0 if from_zero else min(ys), max(ys))
    frame = _Frame(x_ticks[0], max(*xs, x_ticks[0] + 1e-9), y_ticks[0], y_ticks[-1])

    parts = [_y_tick(frame.y(y), label(y)) for y in y_ticks]
    parts += [_x_tick(frame.x(x), label(x)) for x in x_ticks if x <= frame.x_max]
    for index, line in enumerate(lines):
        points = running_mean(line.points) if line.smooth else line.points
        if line.smooth:
            parts.append(f'<path class="line faint c{index}" d="{frame.path(line.points)}"/>')
        parts.append(f'<path class="line c{index}" d="{frame.path(points)}"/>')
        if len(points) <= 12:
            parts += [
                f'<circle class="dot c{index}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>' for x, y in points
            ]
    legend = [
        f'<span class="key"><i class="c{index}"></i>{html.escape(line.name)} '
        f"<b>{label(line.points[-1][1], 3)}</b></span>"
        for index, line in enumerate(lines)
    ]
    return _figure(title, note, parts, legend)


def histogram_chart(
    title: str, edges: Sequence[float], counts: Sequence[int], *, mean: float, note: str = "", unit: str = ""
) -> str:
    """A `<figure>` with one bar for each bin, its height the share of all; an empty string when nothing was counted.

    The edges stand under the bars' corners; empty bins at both ends are left out.

    Args:
        edges: bin i goes from edges[i] to edges[i + 1]; the outermost bins also hold what lies beyond them.
        mean: of all values, for the legend.
        note: one sentence under the title.
        unit: of the mean, with the blank before it.
    """
    used = [index for index, count in enumerate(counts) if count]
    if not used:
        return ""
    first, last = used[0], used[-1]
    shares = [count / sum(counts) for count in counts]
    top = max(shares)
    frame = _Frame(first, last + 1, 0.0, top)
    parts = [_y_tick(frame.y(part * top), f"{part * top:.0%}") for part in (0.0, 0.5, 1.0)]
    for index in range(first, last + 1):
        x, y, width = frame.x(index) + 1, frame.y(shares[index]), frame.x(index + 1) - frame.x(index) - 2
        what = f"{_edge(edges, index)} to {_edge(edges, index + 1)}: {counts[index]}"
        parts.append(
            f'<rect class="column" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{frame.y(0.0) - y:.1f}" rx="2"><title>{html.escape(what)}</title></rect>'
        )
    num = last + 1 - first
    for column in range(0, num + 1, -(-num // 9)):
        anchor = "end" if column == num else "middle"
        parts.append(_x_tick(frame.x(first + column), _edge(edges, first + column), anchor))
    return _figure(title, note, parts, [f'<span class="key">mean <b>{mean:.4g}{html.escape(unit)}</b></span>'])


def _edge(edges: Sequence[float], index: int) -> str:
    """Of bin `index`; the last one is open, because something may lie beyond it."""
    return f"{'≥' if index == len(edges) - 1 else ''}{edges[index]:g}"


def _figure(title: str, note: str, parts: Sequence[str], legend: Sequence[str]) -> str:
    heading = f"<h3>{html.escape(title)}</h3>" + (f"<p>{html.escape(note)}</p>" if note else "")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    return f'<figure class="chart">{heading}{svg}<figcaption>{"".join(legend)}</figcaption></figure>'


def _y_tick(at: float, text: str) -> str:
    """A line across the chart, and its value."""
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
    return f'{line}<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{text}</text>'


def _x_tick(at: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="tick" x="{at:.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{text}</text>'


@dataclass(frozen=True)
class _Frame:
    """From data to pixels."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_min) / (self.x_max - self.x_min)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y_min) / (self.y_max - self.y_min)

    def path(self, points: Points) -> str:
        return "M" + "L".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose [low, high]."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def running_mean(points: Points, share: float = 0.05) -> list[tuple[float, float]]:
    """Mean over a centred window of a twentieth of the points (at least 3)."""
    half = max(1, int(len(points) * share) // 2)
    means = []
    for index, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, index - half) : index + half + 1]]
        means.append((x, sum(window) / len(window)))
    return means


def label(value: float, digits: int = 4) -> str:
    """The shortest text of a number: 0, 0.05, 12.5, 1e-05, 2k."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    if abs(value) < 1e-3:
        return f"{value:.{digits - 2}g}"
    return f"{value:.{digits}g}"
