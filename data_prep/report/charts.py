"""Histograms as inline SVG: no library, no script, no URL outside the page."""

from __future__ import annotations

from html import escape

from data_prep.report.counters import Histogram

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 28


def histogram_chart(title: str, histogram: Histogram, *, note: str, unit: str = "") -> str:
    """A `<figure>` with one bar for each bin, its height the share of all; an empty string when nothing was counted.

    The edges stand under the bars' corners; the outermost bins also hold what lies beyond them.
    """
    if not histogram.num:
        return ""
    shares = [count / histogram.num for count in histogram.counts]
    first, last = _used(histogram.counts)
    shown = range(first, last + 1)
    top = max(shares)
    width = (WIDTH - LEFT - RIGHT) / len(shown)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for part in (0.0, 0.5, 1.0):
        y = _y(part)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{part * top:.0%}</text>')
    for column, index in enumerate(shown):
        y = _y(shares[index] / top)
        what = f"{_edge(histogram, index)} to {_edge(histogram, index + 1)}: {histogram.counts[index]}"
        parts.append(
            f'<rect class="column" x="{LEFT + column * width + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
            f'height="{_y(0) - y:.1f}" rx="2"><title>{escape(what)}</title></rect>'
        )
    step = -(-len(shown) // 9)
    for column in range(0, len(shown) + 1, step):
        x = LEFT + column * width
        anchor = "end" if column == len(shown) else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 11}" text-anchor="{anchor}">'
            f"{_edge(histogram, first + column)}</text>"
        )
    parts.append("</svg>")
    mean = f"mean <b>{histogram.mean:.4g}{escape(unit)}</b>"
    heading = f"<h3>{escape(title)}</h3><p>{escape(note)}</p>"
    caption = f'<figcaption><span class="key">{mean}</span></figcaption>'
    return f'<figure class="chart">{heading}{"".join(parts)}{caption}</figure>'


def _used(counts: list[int]) -> tuple[int, int]:
    """The outermost bins that are not empty."""
    used = [index for index, count in enumerate(counts) if count]
    return used[0], used[-1]


def _edge(histogram: Histogram, index: int) -> str:
    """Of bin `index`; the outermost are open where something may lie beyond."""
    sign = "≥" if index == len(histogram.edges) - 1 else ""
    return f"{sign}{histogram.edges[index]:g}"


def _y(share: float) -> float:
    """Where a bar ends, for a share of the highest bar."""
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
