"""Line charts as inline SVG: no library, no script, no URL outside the page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 30

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

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for y in y_ticks:
        at = frame.y(y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{label(y)}</text>')
    for x in x_ticks:
        if x <= frame.x_max:
            parts.append(
                f'<text class="tick" x="{frame.x(x):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{label(x)}</text>'
            )
    for index, line in enumerate(lines):
        points = running_mean(line.points) if line.smooth else line.points
        if line.smooth:
            parts.append(f'<path class="line faint c{index}" d="{frame.path(line.points)}"/>')
        parts.append(f'<path class="line c{index}" d="{frame.path(points)}"/>')
        if len(points) <= 12:
            parts += [
                f'<circle class="dot c{index}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>' for x, y in points
            ]
    parts.append("</svg>")
    legend = [
        f'<span class="key"><i class="c{index}"></i>{html.escape(line.name)} '
        f"<b>{label(line.points[-1][1], 3)}</b></span>"
        for index, line in enumerate(lines)
    ]
    heading = f"<h3>{html.escape(title)}</h3>" + (f"<p>{html.escape(note)}</p>" if note else "")
    caption = f"<figcaption>{''.join(legend)}</figcaption>"
    return f'<figure class="chart">{heading}{"".join(parts)}{caption}</figure>'


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
